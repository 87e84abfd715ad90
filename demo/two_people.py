"""Two people in one picture: the shipped workflow on the tiny models, in a ComfyUI of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..faces.pictures import open_picture
from ..host.client import ComfyClient, RunFailed
from ..host.console import say, step
from ..host.environment import ROOT, ComfyUI
from ..host.progress import Progress
from ..host.server import ComfyServer
from .photographs import packaged_photographs
from .tiny_models import write_tiny_models
from .workflow import EditableGraph, nodes_of, on_tiny_models, shipped_workflow, title

WORKFLOW = "uniportrait-two-people"
WIDTH, HEIGHT, STEPS = 384, 256, 10  # the workflow's own numbers take a CPU minutes even on tiny models
FACE_IN_GROUP = "2"  # as numbered on the preview of the packaged group photograph
DISCLAIMER = """\
The photographs, the face detector and the whole graph are real, but the diffusion model, its encoders and UniPortrait
have TINY RANDOM weights: this picture proves that the parts work together. It shows no likeness and cannot. For that
put the released files in place (README.md) and open the same workflow in the browser: python run.py comfyui"""


@dataclass(frozen=True)
class Request:
    """What a user may choose; `photos` None means the packaged ones, `seed` None the workflow's own."""

    output: Path
    photos: tuple[Path, Path] | None = None
    prompt: str | None = None
    seed: int | None = None


def draw_two_people(comfyui: ComfyUI, request: Request) -> None:
    """Draw, write the pictures, and tell the progress and their paths on the screen.

    Raises:
        ValueError: a photo cannot be read, or a node refused its input: no face, say.
        ServerError, ComfyError, OSError: ComfyUI did not start or broke off; the output cannot be written.
    """
    start = time.monotonic()
    photos = request.photos or packaged_photographs()
    for number, photo in enumerate(photos, 1):
        open_picture(photo)  # before anything is started: its error names the file
        say(f"person {number}: {photo}")
    request.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # on Windows a file may stay open a moment longer than the server
        base = Path(stack.enter_context(tempfile.TemporaryDirectory("-likeness-demo", ignore_cleanup_errors=True)))
        with step(1, 3, "Writing tiny models with random weights"):
            write_tiny_models(base / "models")
        with step(2, 3, "Starting ComfyUI without a browser"):
            server = stack.enter_context(ComfyServer(comfyui, base, packs=[ROOT / "demo" / "models_pack"]))
        files = _draw(server.client, request, photos)
    say(f"\nDone in {time.monotonic() - start:.0f} s. Pictures in {request.output.absolute()}:")
    for path, text in files.items():
        say(f"  {path.name:17} {text}")
    say(f"\n{DISCLAIMER}")


def demo_graph(request: Request, pictures: tuple[str, str]) -> EditableGraph:
    """Return the shipped workflow, changed as the request says; `pictures` are names in ComfyUI's input folder."""
    names = {f"person-{number}.jpg": name for number, name in enumerate(pictures, 1)}
    graph = on_tiny_models(shipped_workflow(WORKFLOW), names)

    def change(node_id: str, **inputs: Any) -> None:
        graph[node_id]["inputs"].update(inputs)

    (latent,) = nodes_of(graph, "EmptyLatentImage")
    (sampler,) = nodes_of(graph, "KSampler")
    change(latent, width=WIDTH, height=HEIGHT)
    change(sampler, steps=STEPS)
    for node_id in nodes_of(graph, "Likeness_DetectFaces"):
        change(node_id, detector="bundled")
    if request.photos is None:
        _, second = nodes_of(graph, "Likeness_PickFaces")
        change(second, rule="by number", numbers=FACE_IN_GROUP)
    if request.prompt is not None:
        prompt, _ = graph[sampler]["inputs"]["positive"]
        change(prompt, text=request.prompt)
    if request.seed is not None:
        change(sampler, seed=request.seed)
    return graph


def _draw(client: ComfyClient, request: Request, photos: tuple[Path, Path]) -> dict[Path, str]:
    """Run the graph and write its pictures; return what each shows by path."""
    uploaded = [client.upload(photo, f"person-{number}{photo.suffix}") for number, photo in enumerate(photos, 1)]
    graph = demo_graph(request, (uploaded[0], uploaded[1]))

    def show(progress: Progress) -> None:
        steps = f", step {progress.value} of {progress.maximum}" if progress.maximum else ""
        say(f"  {title(graph, progress.node_id)}{steps}")

    say(f"[3/3] Running workflows/{WORKFLOW}.json: {WIDTH} x {HEIGHT} pixels, {STEPS} steps")
    try:
        outputs = client.run(graph, on_progress=show)["outputs"]
    except RunFailed as error:
        raise ValueError(f"{title(graph, error.node_id)}: {error.exception_message}") from error
    return _write_pictures(client, graph, outputs, request.output)


def _write_pictures(
    client: ComfyClient, graph: EditableGraph, outputs: Mapping[str, Any], folder: Path
) -> dict[Path, str]:
    shown = {"picture.png": nodes_of(graph, "SaveImage")[0]}
    shown |= {f"faces-{n}.png": node_id for n, node_id in enumerate(nodes_of(graph, "Likeness_DetectFaces"), 1)}
    shown["routing-maps.png"] = nodes_of(graph, "Likeness_RoutingMaps")[0]
    files = {}
    for name, node_id in shown.items():
        output = outputs[node_id]
        path = folder / name
        path.write_bytes(client.view(output["images"][0]))
        files[path] = output.get("text", ["what was drawn"])[0]
    return files
