"""What a whole run leaves behind: files only where ComfyUI keeps such files, and no word to anybody."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

REACHING_OUT = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "subprocess.Popen")
MAKING = ("os.mkdir", "os.rename", "os.link", "os.symlink", "shutil.copyfile", "shutil.move")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


@dataclass
class Traces:
    """Files and folders that Python code writes or makes while it is active, and attempts to reach others."""

    active: bool = False
    paths: set[Path] = field(default_factory=set)
    reached: list[str] = field(default_factory=list)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: Python cannot take it out again, so it can be switched off."""
        if not self.active:
            return
        if event in REACHING_OUT or event.startswith(("ftplib.", "http.", "smtplib.")):
            self.reached.append(f"{event} {arguments}")
        paths = arguments[:2] if event in ("os.rename", "os.link", "shutil.move", "shutil.copyfile") else arguments[:1]
        if event in MAKING or (event == "open" and arguments[2] & WRITING):
            self.paths |= {Path(os.fsdecode(path)) for path in paths if isinstance(path, (str, bytes, os.PathLike))}

    def written(self) -> set[Path]:
        """Without what Python itself writes while it imports a module."""
        return {path for path in self.paths if "__pycache__" not in path.parts and str(path) != os.devnull}


@pytest.fixture
def traces() -> Iterator[Traces]:
    heard = Traces()
    sys.addaudithook(heard.hear)
    yield heard
    heard.active = False


def whole_run(call: Callable[..., Any], load: Any, encode: Any, sample: Any, tiny_bases: Any, woman: Any) -> None:
    """Photo, person, file, person again, picture: on both bases and with all loaders."""
    for edition, base in (("v1", "SDXL"), ("v1_1", "SDXL"), ("flux", "FLUX")):
        recogniser = call("LoadFaceRecogniser", file="auto", provider="CPU")[0]
        adapter = load(edition, recogniser=recogniser)
        person = encode(adapter, woman, label="Anna")[0]
        call("SaveIdentity", identity=person, filename=f"anna {edition}", overwrite=True)
        again = call("LoadIdentity", file=f"anna {edition}.safetensors")[0]
        assert again == person
        people = dict(identities={"identity_1": again}, masks={"mask_1": torch.ones(1, 64, 64)})
        how = dict(method={"method": "auto"}, id_scale=1.0, sharing="attention", keep_soft_edges=True)
        window = dict(start_percent=0.0, end_percent=1.0)
        model = call("ApplyPuLID", model=tiny_bases[base], adapter=adapter, **people, **how, **window)[0]
        assert torch.isfinite(sample(base, model)).all()


def uniid_run(call: Callable[..., Any], load_uniid: Any, encode: Any, sdxl: Any, woman: Any) -> None:
    """The same with UniID, its norms and its word for the prompt; the text encoders take part."""
    import comfy.sample

    base, clip = sdxl
    (norms,) = call("NameNorms", clip=clip, names="", tokens=3)
    adapter = load_uniid(name_norms=norms)
    faces = call("DetectFaces", image=woman, detector="auto")[0]
    text, _ = call("ClassWord", prompt="photo of a <class word>", word={"word": "auto"}, faces=faces)
    person = encode(adapter, woman, label="Anna")[0]
    call("SaveIdentity", identity=person, filename="anna uniid", overwrite=True)
    again = call("LoadIdentity", file="anna uniid.safetensors")[0]
    assert again == person
    with torch.inference_mode():
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    people = dict(identities={"identity_1": again}, masks={"mask_1": torch.ones(1, 64, 64)})
    how = dict(merge={"merge": "at step", "merge_step": 1, "steps": 2}, rescaling=True, sharing="attention")
    how |= dict(several_texts="by mask", keep_soft_edges=True, text_scale_before=0.5, text_scale=1.8)
    scales = dict(adapter_scale_before=0.8, adapter_scale=1.2)
    model, positive, _ = call("ApplyUniID", model=base, positive=prompt, adapter=adapter, **people, **how, **scales)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        arguments = (noise, 2, 4.0, "euler", "normal", positive, prompt, torch.zeros_like(noise))
        assert torch.isfinite(comfy.sample.sample(model, *arguments, disable_pbar=True, seed=5)).all()


def test_a_run_writes_people_and_previews_and_reaches_nobody(
    call: Any,
    load: Any,
    load_uniid: Any,
    encode: Any,
    sample: Any,
    tiny_bases: Any,
    sdxl: Any,
    woman: Any,
    traces: Traces,
) -> None:
    """Nothing beside the packages, in caches of theirs or in the models' folders."""
    import folder_paths
    from likeness.nodes.model_folders import saved_identities_folder

    output, temp = Path(folder_paths.get_output_directory()), Path(folder_paths.get_temp_directory())
    traces.active = True
    whole_run(call, load, encode, sample, tiny_bases, woman)
    uniid_run(call, load_uniid, encode, sdxl, woman)
    traces.active = False
    saved = sorted(saved_identities_folder().glob("anna *.safetensors"))
    for path in saved:
        path.unlink()
    assert [path.name for path in saved] == [
        f"anna {edition}.safetensors" for edition in ("flux", "uniid", "v1", "v1_1")
    ]
    assert set(saved) <= traces.written()
    elsewhere = [path for path in traces.written() if output not in (path, *path.parents)]
    assert [path for path in elsewhere if temp not in (path, *path.parents)] == []
    assert traces.reached == []


def test_a_download_into_a_cache_would_be_seen(traces: Traces, tmp_path: Path) -> None:
    traces.active = True
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "weights.part").write_bytes(b"weights")
    (tmp_path / "cache" / "weights.part").rename(tmp_path / "cache" / "weights.bin")
    with socket.socket() as connection:
        connection.connect_ex(("127.0.0.1", 9))  # where nobody listens
    traces.active = False
    found = {path.relative_to(tmp_path).as_posix() for path in traces.written() if tmp_path in path.parents}
    assert {"cache", "cache/weights.part", "cache/weights.bin"} <= found
    assert len(traces.reached) == 1 and traces.reached[0].startswith("socket.connect")
