"""Likeness to see and to measure: the shipped workflows on the trained tiny models, with and without their people."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..faces.pictures import open_picture
from ..host.client import ComfyClient, RunFailed
from ..host.console import say, step
from ..host.environment import ROOT, ComfyUI
from ..host.server import ComfyServer
from ..synthetic.people import test_people
from ..synthetic.render import render
from ..synthetic.scene import draw_reference
from . import trained
from .measure import Drawn, measure, world_judge
from .tiny_models import TRAINED, write_tiny_models
from .workflow import EditableGraph, change, nodes_of, on_tiny_models, shipped_workflow, title, without_people

STEPS, GUIDANCE, SCALE = 25, 3.0, 1.0
PICTURES = 8  # of each kind, by the seeds of one batch
DISCLAIMER = """\
Everything here is real but small: ComfyUI, the detector, the graphs, and networks that were trained with this pack's
own trainer, in a world of drawn people (docs/recipes.md). The two people are none of those it was trained on. The tiny
models know that world only. For photographs put the released files in place (README.md): python run.py comfyui"""


@dataclass(frozen=True)
class Act:
    """One workflow of the demo: how many people, and a prompt in words that the tiny text encoder knows."""

    name: str
    workflow: str
    people: int
    prompt: str


ONE = Act(
    "one person", "uniportrait-single-face", 1,
    "a photo of one person, in a red shirt, with a neutral face, facing ahead, on a blue background",
)  # fmt: skip
TWO = Act(
    "two people", "uniportrait-two-people", 2,
    "a photo of two people, left person in a green shirt, right person in a yellow shirt, on a purple background",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a user may choose: numbers of unseen people from 1, or photos of two people instead; acts; the seed."""

    output: Path
    people: tuple[int, int] = (1, 2)
    photos: tuple[Path, Path] | None = None
    acts: tuple[Act, ...] = (ONE, TWO)
    seed: int = 1


def show_likeness(comfyui: ComfyUI, request: Request) -> None:
    """Draw and measure; write the pictures, and tell progress, similarities and paths on the screen.

    Raises:
        ValueError: a photo cannot be read, dlib is missing, or a node refused its input: no face, say.
        ServerError, ComfyError, OSError: ComfyUI did not start or broke off; the output cannot be written.
    """
    start = time.monotonic()
    judge = world_judge()
    photos = _photos(request)
    request.output.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(photos, 1):
        Image.fromarray(photo).save(request.output / f"person-{number}.png")
    with ExitStack() as stack:
        # on Windows a file may stay open a moment longer than the server
        base = Path(stack.enter_context(tempfile.TemporaryDirectory("-likeness-demo", ignore_cleanup_errors=True)))
        with step(1, 4, "Writing the tiny models"):
            models = write_tiny_models(base / "models", weights=TRAINED)
        with step(2, 4, "Starting ComfyUI without a browser"):
            server = stack.enter_context(ComfyServer(comfyui, base, packs=[ROOT / "demo" / "models_pack"]))
        with step(3, 4, f"Drawing {PICTURES} pictures each of one person and of two, and without them"):
            drawn = _draw(server.client, request)
        with step(4, 4, f"Measuring with {judge.name}"):
            table = measure(drawn, photos, judge, models.paths[models.backbone], request.output)
    say(f"\nFace Sim by {judge.name}, which took no part in training or drawing (strangers about 0.1, one photo 1):\n")
    say(table)
    say(f"\nDone in {time.monotonic() - start:.0f} s. Pictures in {request.output.absolute()}:")
    for path in sorted(request.output.glob("*.png")):
        say(f"  {path.name}")
    say(f"\n{DISCLAIMER}")


def demo_graph(act: Act, seed: int) -> EditableGraph:
    """The act's shipped workflow on the tiny models; ComfyUI's input folder holds `person-1.png` and `person-2.png`."""
    photos = {f"person-{number}.jpg": f"person-{number}.png" for number in (1, 2)}
    graph = on_tiny_models(shipped_workflow(act.workflow), photos)
    side = trained.made()["side"]
    graph = change(graph, "EmptyLatentImage", width=side * act.people, height=side, batch_size=PICTURES)
    graph = change(graph, "KSampler", steps=STEPS, cfg=GUIDANCE, seed=seed)
    graph = change(graph, "Likeness_ApplyUniPortrait", id_scale=SCALE)
    graph = change(graph, "Likeness_EncodeIdentity", structure_scale=SCALE)
    graph = change(graph, "Likeness_DetectFaces", detector="bundled")
    (sampler,) = nodes_of(graph, "KSampler")
    positive, negative = (graph[sampler]["inputs"][name][0] for name in ("positive", "negative"))
    graph[positive]["inputs"]["text"] = act.prompt
    graph[negative]["inputs"]["text"] = ""  # what the tiny model was trained to draw without a prompt
    return graph


def _photos(request: Request) -> list[np.ndarray]:
    """The photos (H, W, 3) uint8 of two people."""
    if request.photos is not None:
        return [open_picture(photo) for photo in request.photos]  # before anything is started: an error names the file
    if min(request.people) < 1:
        raise ValueError("the unseen people are numbered from 1")
    seeds = [test_people(1, number - 1)[0] for number in request.people]
    return [render([draw_reference(seed)]).pixels()[0] for seed in seeds]


def _draw(client: ComfyClient, request: Request) -> list[Drawn]:
    """Run the acts with and without their people, and write the routing maps."""
    for number in (1, 2):
        client.upload(request.output / f"person-{number}.png", f"person-{number}.png")
    drawn = []
    for act in request.acts:
        graph = demo_graph(act, request.seed)
        plain = without_people(graph)
        outputs = _run(client, graph)
        for node_id in nodes_of(graph, "Likeness_RoutingMaps"):
            (request.output / "routing-maps.png").write_bytes(client.view(outputs[node_id]["images"][0]))
        drawn.append(Drawn(act.name, act.people, act.prompt, _pictures(client, graph, outputs)))
        outputs = _run(client, plain)
        drawn.append(Drawn(f"{act.name}, no identity", act.people, act.prompt, _pictures(client, plain, outputs)))
    return drawn


def _pictures(client: ComfyClient, graph: EditableGraph, outputs: Mapping[str, Any]) -> list[np.ndarray]:
    """What the graph saved, (H, W, 3) uint8 each."""
    (saver,) = nodes_of(graph, "SaveImage")
    contents = [client.view(image) for image in outputs[saver]["images"]]
    return [np.array(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]


def _run(client: ComfyClient, graph: EditableGraph) -> Mapping[str, Any]:
    try:
        outputs: Mapping[str, Any] = client.run(graph)["outputs"]
    except RunFailed as error:
        raise ValueError(f"{title(graph, error.node_id)}: {error.exception_message}") from error
    return outputs
