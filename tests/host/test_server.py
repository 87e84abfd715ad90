"""A real ComfyUI is started with the pack, spoken to, and stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from likeness.demo.tiny_models import TRAINED, write_tiny_models
from likeness.host.client import ComfyClient, ComfyError, GraphRejected, RunFailed, RunInterrupted
from likeness.host.progress import Progress
from likeness.host.server import PACK_NAME, ComfyServer, ServerError

GREY = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 8421504}}


def save(source: str) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": "test"}}


@pytest.fixture
def client(comfy_server: ComfyServer) -> ComfyClient:
    return comfy_server.client


@pytest.fixture
def sampling(comfy_server: ComfyServer) -> Callable[[int, int], dict[str, Any]]:
    """`sampling(steps, seed)` -> a graph whose node "5" takes that many steps."""
    models = write_tiny_models(comfy_server.folder / "models", weights=TRAINED)

    def graph(steps: int, seed: int) -> dict[str, Any]:
        settings = {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
        wires = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["4", 0]}
        return {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": models.checkpoint}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
            "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "5": {"class_type": "KSampler", "inputs": {**settings, **wires, "denoise": 1.0}},
            "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
            "7": save("6"),
        }

    return graph


def test_the_pack_is_loaded(comfy_server, client):
    assert f": {comfy_server.folder / 'custom_nodes' / PACK_NAME}" in comfy_server.log_tail(1000)
    assert [name for name in client.object_info() if name.startswith("Likeness")]
    assert client.system_stats()["system"]["comfyui_version"]


def test_the_first_visit_opens_no_dialog(comfy_server):
    with urllib.request.urlopen(f"{comfy_server.url}/settings") as answer:
        assert json.load(answer)["Comfy.TutorialCompleted"] is True


def test_a_graph_runs_and_its_picture_comes_back(client):
    entry = client.run({"1": GREY, "2": save("1")})
    (image,) = entry["outputs"]["2"]["images"]
    assert client.view(image).startswith(b"\x89PNG")


def test_a_picture_can_be_uploaded(client, tmp_path):
    (image,) = client.run({"1": GREY, "2": save("1")})["outputs"]["2"]["images"]
    (tmp_path / "grey.png").write_bytes(client.view(image))
    assert client.upload(tmp_path / "grey.png", "my grey.png") == "my grey.png"
    load = {"class_type": "LoadImage", "inputs": {"image": "my grey.png"}}
    assert client.run({"1": load, "2": save("1")})["status"]["status_str"] == "success"


def test_steps_are_reported(client, sampling):
    heard: list[Progress] = []
    entry = client.run(sampling(3, seed=1), on_progress=heard.append)
    steps = [(step.value, step.maximum) for step in heard if step.node_id == "5"]
    assert steps[:2] == [(0, 0), (1, 3)] and steps[-1] == (3, 3)  # ComfyUI leaves out steps that follow fast
    assert [step.node_id for step in heard if not step.maximum][-1] == "7"
    assert entry["outputs"]["7"]["images"]


def test_a_cached_graph_ends_as_well(client):
    graph = {"1": GREY, "2": save("1")}
    client.run(graph)
    heard: list[Progress] = []
    assert client.run(graph, on_progress=heard.append)["outputs"]
    assert heard == []


def test_an_invalid_graph_is_refused_with_its_faults(client):
    with pytest.raises(GraphRejected, match=r"node 2 \(SaveImage\): Required input is missing: images") as caught:
        client.run({"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}})
    assert set(caught.value.node_errors) == {"2"}


def test_an_unknown_node_is_refused(client):
    with pytest.raises(GraphRejected, match="NoSuchNode"):
        client.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_a_half_valid_graph_is_refused_although_comfyui_takes_it(client):
    with pytest.raises(GraphRejected, match=r"node 3 \(SaveImage\): Required input is missing: images"):
        client.run({"1": GREY, "2": save("1"), "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}})


def test_a_node_that_raises_is_named(client, tmp_path):
    (tmp_path / "no_picture.png").write_bytes(b"no picture")
    load = {"class_type": "LoadImage", "inputs": {"image": client.upload(tmp_path / "no_picture.png")}}
    with pytest.raises(RunFailed, match="cannot identify image file") as caught:
        client.run({"1": load, "2": save("1")})
    assert (caught.value.node_id, caught.value.node_class) == ("1", "LoadImage")
    assert caught.value.exception_type.endswith("UnidentifiedImageError")


@pytest.mark.parametrize("watched", [False, True])
def test_a_run_can_be_interrupted(client, sampling, watched):
    timer = threading.Timer(1.0, client.interrupt)
    timer.start()
    try:
        with pytest.raises(RunInterrupted, match="interrupted at node"):
            client.run(sampling(10_000, seed=2), on_progress=(lambda _: None) if watched else None)
    finally:
        timer.cancel()


def test_a_run_that_takes_too_long_is_given_up(client, sampling):
    prompt_id = client.queue(sampling(10_000, seed=3))
    try:
        with pytest.raises(TimeoutError, match=prompt_id):
            client.wait(prompt_id, timeout=0.2)
    finally:
        client.interrupt(prompt_id)
    with pytest.raises(RunInterrupted):
        client.wait(prompt_id)


def test_a_prompt_that_nobody_knows_is_not_waited_for(client):
    with pytest.raises(ComfyError, match="neither runs nor remembers the prompt unknown"):
        client.wait("unknown", timeout=5.0)


def test_a_missing_picture_is_an_error(client):
    with pytest.raises(ComfyError, match="answered 404"):
        client.view({"filename": "no such.png", "subfolder": "", "type": "output"})


def test_models_can_be_freed(client, sampling):
    client.run(sampling(1, seed=4))
    client.free()
    assert client.run(sampling(1, seed=5))["outputs"]


def test_nobody_there_is_an_error():
    nobody = ComfyClient("http://127.0.0.1:9")
    assert not nobody.is_ready()
    with pytest.raises(ComfyError, match="no ComfyUI answers at http://127.0.0.1:9"):
        nobody.system_stats()


def test_a_pack_that_cannot_be_loaded_is_an_error_and_the_server_is_stopped(installed_comfyui, tmp_path):
    pack = tmp_path / "broken_pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("raise RuntimeError('broken on purpose')\n", "utf-8")
    server = ComfyServer(installed_comfyui, tmp_path / "base", packs=[pack], threads=1)
    with pytest.raises(ServerError, match="could not load broken_pack:") as caught, server:
        pass
    assert "broken on purpose" in str(caught.value)
    assert server.process.poll() is not None
    assert not server.client.is_ready()


def test_a_server_that_stops_by_itself_is_an_error_with_its_log(installed_comfyui, tmp_path):
    server = ComfyServer(installed_comfyui, tmp_path / "base", arguments=["--no-such-flag", "--cpu"])
    with (
        pytest.raises(ServerError, match=r"(?s)stopped with exit status 2.*unrecognized arguments: --no-such-flag"),
        server,
    ):
        pass


def test_a_server_ends_with_its_owner_even_a_killed_one(installed_comfyui, tmp_path):
    script = f"""
        import sys, time
        from pathlib import Path
        from likeness.host.environment import named_comfyui
        from likeness.host.server import ComfyServer
        with ComfyServer(named_comfyui(), Path({str(tmp_path)!r}), arguments=["--cpu"], threads=1) as server:
            print("at", server.url, flush=True)
            time.sleep(600)
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        client = ComfyClient(owner.stdout.readline().split()[1])
        assert client.is_ready()
    finally:
        owner.kill()
        owner.communicate()
    deadline = time.monotonic() + 20
    while client.is_ready() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not client.is_ready()


def test_a_taken_port_is_an_error(installed_comfyui, comfy_server, tmp_path):
    with pytest.raises(ServerError, match=f"port {comfy_server.port} is taken"):
        ComfyServer(installed_comfyui, tmp_path, port=comfy_server.port).__enter__()


def test_a_further_models_folder_is_searched(installed_comfyui, tmp_path):
    (tmp_path / "mine" / "loras").mkdir(parents=True)
    server = ComfyServer(installed_comfyui, tmp_path / "base", models=tmp_path / "mine", arguments=["--cpu"])
    server._lay_out_folder()
    command = server._command()
    config = Path(command[command.index("--extra-model-paths-config") + 1])
    assert json.loads(config.read_text("utf-8")) == {
        "likeness": {"base_path": str(tmp_path / "mine"), "loras": "loras"}
    }
