"""`python -m likeness.evaluation` from manifest to page, on real photographs with the real judge."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pydantic")
from likeness.evaluation.command import main
from likeness.evaluation.fingerprints import file_fingerprint


def reference(person, *files):
    return {"person": person, "files": list(files or [f"{person}.png"])}


@pytest.fixture
def album(photographs, tmp_path, dlib_judge):
    """A folder with the photographs and a manifest about them."""
    for name, pixels in photographs.items():
        Image.fromarray(pixels).save(tmp_path / f"{name.replace(' ', '-')}.png")
    side = [np.array(Image.fromarray(photographs[name]).resize((200, 200))) for name in ("mirrored", "man")]
    Image.fromarray(np.hstack(side)).save(tmp_path / "both.png")
    halves = np.repeat([[0, 1]], 16, axis=1)
    np.savez(tmp_path / "routing.npz", **{"17": np.repeat(halves, 16, axis=0).astype(np.uint8)})
    woman, man, stranger = reference("woman"), reference("man"), reference("other man", "other-man.png")
    records = [
        {"file": "mirrored.png", "row": "photo", "prompt": "a woman", "references": [woman], "expected": {"real": 4}},
        {"file": "small.png", "row": "photo", "prompt": "a woman", "references": [woman], "others": [man]},
        {"file": "other-woman.png", "row": "stranger", "references": [woman]},
        {"file": "other-man.png", "row": "stranger", "references": [man]},
        {
            "file": "both.png",
            "row": "two",
            "prompt": "two people",
            "references": [woman, man],
            "routing": "routing.npz",
        },
        {"file": "both.png", "row": "wrong two", "references": [stranger, man]},
    ]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"format": 1, "conditioned_by": ["curricular"], "pictures": records}), "utf-8")
    return path


def test_from_manifest_to_page_and_the_same_bytes_again(album, tmp_path):
    package = Path(sys.modules["likeness"].__path__[0]).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), *sys.path])}
    command = [sys.executable, "-m", "likeness.evaluation", str(album), "--judge", "dlib", "--out"]
    done = subprocess.run(
        [*command, str(tmp_path / "a")], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "results.md" in done.stdout and "measured 6 of 6 pictures" in done.stderr
    assert main([str(album), "--out", str(tmp_path / "b")]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["results.json", "results.md"] + [
        f"sheet-0{number}-{name}-1.png" for number, name in enumerate(["photo", "stranger", "two", "wrong-two"], 1)
    ]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    content = json.loads((tmp_path / "a" / "results.json").read_text("utf-8"))
    scores = {row: content["rows"][row]["scores"] for row in content["rows"]}
    assert scores["photo"]["face_sim/dlib"]["mean"] > 0.75 and scores["stranger"]["face_sim/dlib"]["mean"] < 0.35
    assert scores["two"]["face_sim/dlib"]["mean"] > 0.7 and scores["wrong two"]["face_sim/dlib"]["mean"] < 0.35
    assert scores["two"]["routing_agreement"]["mean"] > 0.95 and scores["two"]["unmatched/dlib"]["mean"] == 0
    small = next(picture for picture in content["pictures"] if picture["name"] == "small.png")
    assert small["cosines"]["dlib"]["man"] < 0.4 < small["cosines"]["dlib"]["woman"]
    assert "| **photo** |" in (tmp_path / "a" / "results.md").read_text("utf-8")


def test_all_metrics_together(album, tmp_path, monkeypatch):
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    pytest.importorskip("torchmetrics.image.fid", exc_type=ImportError)
    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        8,
        open_clip.CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32),
        open_clip.CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=1),
    )
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    torch.save({"weight": torch.randn(1, 8), "bias": torch.tensor([5.0])}, tmp_path / "aesthetic.pth")
    (tmp_path / "reader_of_this_test.py").write_text("def read(image, faces):\n    return {'real': 3 + len(faces)}\n")
    monkeypatch.syspath_prepend(tmp_path)
    status = main(
        [
            *[str(album), "--out", str(tmp_path / "out"), "--clip", str(tmp_path / "clip.pt")],
            *["--aesthetic", str(tmp_path / "aesthetic.pth"), "--attributes", "reader_of_this_test:read"],
            *["--fid-features", "clip", "--fid-reference", "row:photo", "--upscale", "2"],
        ]
    )
    assert status == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert content["rows"]["photo"]["scores"]["attributes"]["mean"] == 1
    assert 3 < content["rows"]["photo"]["scores"]["aesthetic"]["mean"] < 7
    assert -100 <= content["rows"]["two"]["scores"]["clip_t"]["mean"] <= 100
    assert content["rows"]["stranger"]["fid"] > 0 and content["rows"]["two"]["fid"] is None  # one picture
    assert "clip_t" not in content["rows"]["stranger"]["scores"]  # no prompt
    assert content["tools"]["clip"]["sha256"] == file_fingerprint(tmp_path / "clip.pt")
    assert content["tools"]["upscale"] == 2


def test_faults_end_with_a_message(album, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "conditioned.json").write_text(album.read_text("utf-8").replace('"curricular"', '"dlib"'), "utf-8")
    for arguments, message in (
        ([str(tmp_path / "nothing.json")], "nothing.json could not be read"),
        ([str(tmp_path / "conditioned.json")], "the judge dlib .* conditions these pictures"),
        ([str(album), "--judge", "facenet"], "the judge facenet needs its weights file"),
        ([str(album), "--aesthetic", "head.pth"], "--aesthetic needs --clip"),
        ([str(album), "--fid-reference", "row:photo"], "FID needs both"),
        ([str(album), "--fid-features", "clip", "--fid-reference", "row:photo"], "--fid-features clip needs --clip"),
        ([str(album), "--fid-features", "no.pth", "--fid-reference", "row:photo"], "no.pth could not be read"),
        ([str(album), "--clip", "no.pt"], "no.pt could not be read"),
        ([str(album), "--centre", "facenet=x.json"], "--centre facenet=x.json belongs to none of the judges dlib"),
        ([str(album), "--attributes", "nothing"], "'nothing' is no module:function"),
        ([str(album), "--detector", "insightface"], "no insightface face detector was found"),
    ):
        assert main([*arguments, *out]) == 1, arguments
        error = capsys.readouterr().err
        assert re.search(message, error), (message, error)


def test_the_protocol_is_written_where_it_is_asked_for(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("ann", "bob"):
        Image.new("RGB", (8, 8)).save(photos / f"{name}.png")
    out = tmp_path / "plan.jsonl"
    arguments = ["prompts", "--protocol", "quick", "--row", "mine", "--references", str(photos)]
    assert main([*arguments, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert len(lines) == 9 and lines[1]["references"] == [{"person": "ann", "files": ["photos/ann.png"]}]
    assert main(["prompts", "--protocol", "uniportrait-multi"]) == 0
    assert capsys.readouterr().out.count("\n") == 105 * 21 * 4 + 1
    assert main(["prompts", "--protocol", "quick"]) == 1
    (tmp_path / "classes.json").write_text('{"ann": "person"}')
    assert main(["prompts", "--protocol", "quick", "--classes", str(tmp_path / "classes.json")]) == 1
    assert 'must map each person to "man" or "woman"' in capsys.readouterr().err


def test_a_centre_is_fitted_and_used(album, tmp_path, photographs):
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("other man", "other woman"):
        Image.fromarray(photographs[name]).save(folder / f"{name}.png")
    centre = tmp_path / "centre.json"
    assert main(["centre", str(folder), "--made-from", "two people", "--out", str(centre)]) == 0
    assert main([str(album), "--centre", f"dlib={centre}", "--out", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert content["tools"]["judges"][0]["centre"]["made_from"] == "two people"
    assert main(["centre", str(tmp_path / "nothing"), "--made-from", "nobody", "--out", str(centre)]) == 1
