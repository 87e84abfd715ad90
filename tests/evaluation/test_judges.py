"""Judges by name: what is missing, what is refused, centres, and the networks that can be made small."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.evaluation.fingerprints import file_fingerprint
from likeness.evaluation.judges.arcface import find_recognisers
from likeness.evaluation.judges.centre import Centre, fit_centre, load_centre, save_centre
from likeness.evaluation.judges.loading import load_judge, require_independent
from likeness.faces.alignment import align
from likeness.faces.backbone import IRBackbone
from likeness.faces.detection import find_faces
from safetensors.torch import save_file


def test_embeddings_have_unit_length_and_the_centre_is_taken_off(make_judge, draw, detector):
    judge = make_judge(ann=(3, 4, 0), bob=(0, 0, 2))
    faces = find_faces([draw("ann", "bob")], detector)
    np.testing.assert_allclose(judge.embed(faces.images, faces.faces), [[0.6, 0.8, 0], [0, 0, 1]])
    centred = replace(judge, centre=Centre(np.array([0.6, 0, 0]), "nobody", judge.fingerprint))
    np.testing.assert_allclose(
        centred.embed(faces.images, faces.faces), [[0, 1, 0], np.array([-0.6, 0, 1]) / np.hypot(0.6, 1)]
    )
    assert centred.embed(faces.images, []).shape == (0, 0)


def test_a_centre_counts_each_set_the_same():
    many, few = np.tile([1.0, 0.0], (9, 1)), np.array([[0.0, 1.0]])
    np.testing.assert_allclose(fit_centre(np.concatenate([many, few]), "all", "f").vector, [0.9, 0.1])
    np.testing.assert_allclose(fit_centre([many, few], "two sets", "f").vector, [0.5, 0.5])
    with pytest.raises(ValueError, match="at least one face in every set"):
        fit_centre([many, np.zeros((0, 2))], "nobody", "f")


def test_a_centre_comes_back_from_its_file_and_only_for_its_network(tmp_path):
    centre = fit_centre(np.random.default_rng(0).normal(size=(5, 8)), "five people", "f" * 64)
    save_centre(centre, tmp_path / "centre.json")
    loaded = load_centre(tmp_path / "centre.json", "f" * 64)
    np.testing.assert_array_equal(loaded.vector, centre.vector)
    assert loaded.describe() == centre.describe() and loaded.made_from == "five people"
    with pytest.raises(ValueError, match="was made for the network ffffffffffff"):
        load_centre(tmp_path / "centre.json", "e" * 64)
    (tmp_path / "centre.json").write_text("{}")
    with pytest.raises(ValueError, match="centre.json could not be read"):
        load_centre(tmp_path / "centre.json", "f" * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arcface", "unknown judge 'arcface'; there are dlib, facenet, insightface, curricular"),
        ("facenet", "the judge facenet needs its weights file: write facenet=FILE"),
        ("insightface=nowhere.onnx", "the recogniser nowhere.onnx was not found"),
        ("curricular=nowhere.bin", "the weights nowhere.bin could not be read"),
        ("facenet=nowhere.pt", "the weights nowhere.pt could not be read"),
    ],
)
def test_a_judge_that_is_not_there_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        load_judge(text)


def test_the_conditioning_network_is_no_judge(make_judge):
    judge = make_judge(fingerprint="b" * 64)
    require_independent([judge], ["a" * 64, "curricular"])
    require_independent([judge], [])
    with pytest.raises(ValueError, match=r"the judge colours \(bbbbbbbbbbbb...\) conditions these pictures"):
        require_independent([judge], ["B" * 64])
    with pytest.raises(ValueError, match="the judge colours .* conditions these pictures"):
        require_independent([judge], ["colours"])


def test_the_backbone_of_uniportrait_is_no_judge_where_nothing_is_said(make_judge):
    with pytest.raises(ValueError, match="the judge curricular conditions UniPortrait"):
        require_independent([make_judge(name="curricular")], [])
    require_independent([make_judge(name="curricular")], ["c" * 64])  # another network, by its file


def test_a_fingerprint_is_the_sha_256_of_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"weights" * 500_000)
    assert file_fingerprint(tmp_path / "file") == hashlib.sha256(b"weights" * 500_000).hexdigest()
    with pytest.raises(ValueError, match="nothing could not be read"):
        file_fingerprint(tmp_path / "nothing")


def test_a_backbone_judges_by_its_aligned_crops(tmp_path, photographs, bundled):
    torch.manual_seed(0)
    backbone = IRBackbone((4, 6, 8, 10), (1, 1, 1, 1), 16, 32)
    save_file(backbone.state_dict(), tmp_path / "backbone.safetensors")
    judge = load_judge(f"curricular={tmp_path / 'backbone.safetensors'}")
    assert judge.fingerprint == file_fingerprint(tmp_path / "backbone.safetensors")
    faces = find_faces([photographs["woman"], photographs["man"]], bundled)
    vectors = judge.embed(faces.images, faces.faces)
    assert vectors.shape == (2, 16)
    for face, vector in zip(faces, vectors, strict=True):
        crop = align(faces.images[face.image_index], face.landmarks, 32)
        with torch.inference_mode():
            expected = backbone.embed(torch.from_numpy(crop).movedim(-1, 0)[None].float() / 127.5 - 1)[0]
        np.testing.assert_allclose(vector, expected / expected.norm(), atol=1e-5)


@pytest.fixture
def write_recogniser(tmp_path, recogniser_model):
    """`write_recogniser(side=112, batch="batch")` writes a `recogniser_model` into a pack's folder."""

    def write(name="w600k_r50.onnx", **sizes):
        path = tmp_path / "models" / "buffalo_l" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(recogniser_model(**sizes))
        return path

    return write


@pytest.mark.parametrize("batch", ["batch", 1])
def test_an_onnx_recogniser_gets_rgb_from_minus_one_to_one(write_recogniser, photographs, bundled, batch):
    path = write_recogniser(batch=batch)
    judge = load_judge(f"insightface={path}")
    faces = find_faces([photographs["woman"], photographs["man"], photographs["other man"]], bundled)
    vectors = judge.embed(faces.images, faces.faces)
    for face, vector in zip(faces, vectors, strict=True):
        crop = align(faces.images[face.image_index], face.landmarks, 112) / 127.5 - 1
        expected = crop.reshape(2, 56, 2, 56, 3).mean(axis=(1, 3)).transpose(2, 0, 1).ravel()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_recognisers_of_packs_are_found(write_recogniser, tmp_path):
    second, first = write_recogniser("glintr100.onnx"), write_recogniser("w600k_r50.onnx")
    write_recogniser("det_10g.onnx")
    assert find_recognisers([tmp_path / "models", tmp_path / "nowhere"]) == [first, second]


def test_other_onnx_files_are_no_recognisers(write_recogniser, tmp_path):
    with pytest.raises(ValueError, match="not a face recogniser of the ArcFace family"):
        load_judge(f"insightface={write_recogniser(side=64)}")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"broken.onnx is damaged or not an ONNX model"):
        load_judge(f"insightface={tmp_path / 'broken.onnx'}")


def test_facenet_says_what_to_install_or_judges(tmp_path, photographs, bundled):
    from importlib.util import find_spec

    if find_spec("facenet_pytorch") is None:
        torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "vggface2.pt")
        with pytest.raises(ValueError, match="pip install --no-deps facenet-pytorch"):
            load_judge(f"facenet={tmp_path / 'vggface2.pt'}")
        return
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(0)
    network = InceptionResnetV1(pretrained=None).eval()
    torch.save(network.state_dict() | {"logits.weight": torch.zeros(8631, 512)}, tmp_path / "vggface2.pt")
    judge = load_judge(f"facenet={tmp_path / 'vggface2.pt'}")
    faces = find_faces([photographs["woman"]], bundled)
    (vector,) = judge.embed(faces.images, faces.faces)
    from PIL import Image

    x1, y1, x2, y2 = (int(side) for side in faces[0].box)
    crop = Image.fromarray(photographs["woman"][y1:y2, x1:x2]).resize((160, 160), Image.Resampling.BILINEAR)
    with torch.inference_mode():
        expected = network((torch.from_numpy(np.array(crop)).movedim(-1, 0)[None].float() - 127.5) / 128)[0]
    np.testing.assert_allclose(vector, expected, atol=1e-5)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no InceptionResnetV1"):
        load_judge(f"facenet={tmp_path / 'other.pt'}")


def test_weights_that_would_run_code_are_not_read(tmp_path):
    import fractions

    torch.save({"state_dict": fractions.Fraction(1, 2)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="weights.pt could not be read"):
        load_judge(f"curricular={tmp_path / 'weights.pt'}")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no tensors by name, but a list"):
        load_judge(f"curricular={tmp_path / 'list.pt'}")
