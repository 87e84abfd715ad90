from __future__ import annotations

import zipfile

import pytest
from likeness.faces.insightface_packs import DETECTOR, RECOGNISER, find_network, missing_message


@pytest.mark.parametrize("pack", ["antelopev2", "buffalo_l"])
@pytest.mark.parametrize("place", ["models/{}", "models/{0}/{0}", "{}", "{0}/{0}", "."])
def test_detectors_are_found_in_every_layout(tmp_path, pack, place):
    file_name = {"antelopev2": "scrfd_10g_bnkps.onnx", "buffalo_l": "det_10g.onnx"}[pack]
    folder = tmp_path / place.format(pack)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file_name).write_bytes(b"network")
    found = find_network(DETECTOR, [tmp_path / "elsewhere", tmp_path])
    assert found is not None and found.pack == pack and found.read() == b"network"
    assert found.path == folder / file_name


@pytest.mark.parametrize("member", ["scrfd_10g_bnkps.onnx", "antelopev2/scrfd_10g_bnkps.onnx"])
@pytest.mark.parametrize("place", [".", "models"])
def test_a_zip_left_unpacked_is_read(tmp_path, member, place):
    (tmp_path / place).mkdir(exist_ok=True)
    with zipfile.ZipFile(tmp_path / place / "antelopev2.zip", "w") as archive:
        archive.writestr("antelopev2/glintr100.onnx", b"recogniser")
        archive.writestr(member, b"network")
    found = find_network(DETECTOR, [tmp_path])
    assert found is not None and found.pack == "antelopev2" and found.read() == b"network"


def test_the_published_systems_pack_comes_first_and_files_before_archives(tmp_path):
    for pack, file_name in (("antelopev2", "scrfd_10g_bnkps.onnx"), ("buffalo_l", "det_10g.onnx")):
        (tmp_path / pack).mkdir()
        (tmp_path / pack / file_name).write_bytes(pack.encode())
    with zipfile.ZipFile(tmp_path / "buffalo_l.zip", "w") as archive:
        archive.writestr("det_10g.onnx", b"archive")
    assert find_network(DETECTOR, [tmp_path]).read() == b"buffalo_l"


def test_nothing_found_names_the_files_and_every_folder_searched(tmp_path):
    folders = [tmp_path / "insightface", tmp_path / "more"]
    assert find_network(DETECTOR, folders) is None
    message = missing_message(DETECTOR, folders)
    for expected in ("det_10g.onnx (pack buffalo_l)", "scrfd_10g_bnkps.onnx (pack antelopev2)", "non-commercial"):
        assert expected in message
    for folder in folders:
        assert f"\n  {folder}\n" in message
        for part in ("models/antelopev2", "models/antelopev2/antelopev2", "antelopev2", "buffalo_l.zip"):
            assert f"\n  {folder / part}\n" in message


@pytest.mark.parametrize("place", ["models/antelopev2", "antelopev2/antelopev2", "."])
def test_pulids_recogniser_is_found_and_named(tmp_path, place):
    """The second place is what the published zip unpacks to."""
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "glintr100.onnx").write_bytes(b"recogniser")
    found = find_network(RECOGNISER, [tmp_path])
    assert found is not None and found.read() == b"recogniser"
    assert found.name == f"glintr100.onnx in {tmp_path / place}"


def test_a_zip_is_named_with_its_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "antelopev2.zip", "w") as archive:
        archive.writestr("antelopev2/glintr100.onnx", b"recogniser")
    assert find_network(RECOGNISER, [tmp_path]).name == f"glintr100.onnx in {tmp_path / 'antelopev2.zip'}"


def test_a_pack_without_its_detector_is_not_found(tmp_path):
    (tmp_path / "buffalo_l").mkdir()
    (tmp_path / "buffalo_l" / "w600k_r50.onnx").write_bytes(b"recogniser")
    assert find_network(DETECTOR, [tmp_path]) is None


def test_a_damaged_zip_is_named(tmp_path):
    (tmp_path / "buffalo_l.zip").write_bytes(b"half a download")
    with pytest.raises(ValueError, match="buffalo_l.zip is damaged"):
        find_network(DETECTOR, [tmp_path])
