"""A real server with tiny models and real photographs, graphs in few words, and the node classes in this process."""

from __future__ import annotations

import copy
import importlib.util
import io
import shutil
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

OTHER = "other-"  # prefix of files with other weights, and of a CLIP vision tower of another width


@dataclass(frozen=True)
class Output:
    """Output `slot` of a node in a `Graph`; `out[1]` is the next one."""

    node: str
    slot: int = 0

    def __getitem__(self, slot: int) -> Output:
        return Output(self.node, slot)


@dataclass
class Graph:
    """A graph in ComfyUI's API format; widgets that are not named take their defaults."""

    info: Mapping[str, Any]
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, class_type: str, /, links: Mapping[str, Any] | None = None, **inputs: Any) -> Output:
        """Add a node; `links` holds inputs whose names are no Python names, such as "faces.faces_1"."""
        values = self._defaults(class_type) | dict(links or {}) | inputs
        for name, value in values.items():
            if isinstance(value, Output):
                values[name] = [value.node, value.slot]
        node = str(len(self.nodes) + 1)
        self.nodes[node] = {"class_type": class_type, "inputs": values}
        return Output(node)

    def copy(self) -> Graph:
        return Graph(self.info, copy.deepcopy(self.nodes))

    def _defaults(self, class_type: str) -> dict[str, Any]:
        found = {}
        for inputs in self.info[class_type]["input"].values():
            for name, (kind, *options) in inputs.items():
                if isinstance(kind, list):
                    found[name] = kind[0]
                elif options and "default" in options[0]:
                    found[name] = options[0]["default"]
        return found


class Studio:
    """The running server with models and photographs, and the graphs that the tests start from."""

    def __init__(self, server: Any, models: Any, photos: Mapping[str, str]) -> None:
        self.server = server
        self.client = server.client
        self.models = models
        self.photos = photos
        self.info = server.client.object_info()

    def graph(self) -> Graph:
        return Graph(self.info)

    def faces(self, graph: Graph, photo: str = "woman") -> Output:
        """Detect Faces on one of the photos."""
        image = graph.add("LoadImage", image=self.photos[photo])
        return graph.add("Likeness_DetectFaces", image=image, detector="bundled")

    def adapter(self, graph: Graph, clip_vision: str | None = "", **files: str) -> Output:
        """Load UniPortrait with the tiny files; `clip_vision` None leaves the tower out."""
        names = {"faceid": self.models.faceid, "router": self.models.router, "backbone": self.models.backbone} | files
        if clip_vision is None:
            return graph.add("Likeness_LoadUniPortrait", **names)
        tower = graph.add("LikenessDemo_LoadCLIPVision", clip_name=clip_vision or self.models.clip_vision)
        return graph.add("Likeness_LoadUniPortrait", clip_vision=tower, **names)

    def identity(self, graph: Graph, adapter: Output, *faces: Output, **inputs: Any) -> Output:
        """Encode Identity of these faces."""
        links = {f"faces.faces_{number}": each for number, each in enumerate(faces, 1)}
        return graph.add("Likeness_EncodeIdentity", links, adapter=adapter, **inputs)

    def apply(
        self, graph: Graph, adapter: Output, *people: Output, masks: Mapping[int, Output] | None = None, **inputs: Any
    ) -> Output:
        """Apply UniPortrait to the tiny SD 1.5."""
        links = {f"identities.identity_{number}": person for number, person in enumerate(people, 1)}
        links |= {f"masks.mask_{number}": mask for number, mask in (masks or {}).items()}
        model = graph.add("CheckpointLoaderSimple", ckpt_name=self.models.checkpoint)
        return graph.add("Likeness_ApplyUniPortrait", links, model=model, adapter=adapter, **inputs)

    def picture(self, graph: Graph, model: Output | None, batch_size: int = 1, seed: int = 3) -> Output:
        """Two steps of 128 x 128 pixels and their decoding; without a model the unpatched tiny SD 1.5."""
        loader = graph.add("CheckpointLoaderSimple", ckpt_name=self.models.checkpoint)
        prompt = graph.add("CLIPTextEncode", clip=loader[1], text="a photo")
        latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=batch_size)
        samples = graph.add(
            "KSampler",
            model=model or loader,
            positive=prompt,
            negative=prompt,
            latent_image=latent,
            seed=seed,
            steps=2,
            cfg=5.0,
        )
        return graph.add("VAEDecode", samples=samples, vae=loader[2])

    def run(self, graph: Graph, *shown: Output) -> Results:
        """Run the graph, with a preview of each of the `shown` pictures."""
        graph = graph.copy()
        previews = {picture: graph.add("PreviewImage", images=picture) for picture in shown}
        return Results(self, self.client.run(graph.nodes), previews)

    def failure(self, graph: Graph, *shown: Output) -> str:
        """The message with which the graph fails at a node of ours."""
        from likeness.host.client import RunFailed

        with pytest.raises(RunFailed) as caught:
            self.run(graph, *shown)
        assert caught.value.exception_type in ("ValueError", "CheckpointError") or (
            caught.value.exception_type.endswith(".CheckpointError")
        ), caught.value.exception_type
        return caught.value.exception_message

    def fetch(self, address: str) -> str:
        """A text file from the server, as a browser gets it."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.server.url + address) as answer:
            return answer.read().decode()

    def saved(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of an identity that Save Identity wrote."""
        from safetensors.torch import load_file

        return load_file(self.server.folder / "output" / "identities" / f"{name}.safetensors")


@dataclass(frozen=True)
class Results:
    """What a run showed."""

    studio: Studio
    entry: Mapping[str, Any]
    previews: Mapping[Output, Output]

    def text(self, output: Output) -> str:
        """The sentence and the warnings that a node of ours showed."""
        return self.entry["outputs"][output.node]["text"][0]

    def own_pictures(self, output: Output) -> list[np.ndarray]:
        """The pictures that a node of ours showed."""
        return self._open(output)

    def pictures(self, output: Output) -> list[np.ndarray]:
        """A shown output's pictures (H, W, 3) uint8."""
        return self._open(self.previews[output])

    def _open(self, output: Output) -> list[np.ndarray]:
        images = self.entry["outputs"][output.node]["images"]
        return [np.array(Image.open(io.BytesIO(self.studio.client.view(image))).convert("RGB")) for image in images]


def _pictures() -> dict[str, np.ndarray]:
    """A woman (NASA, public domain) and her mirror image, six people and parts of that, a wall, two drawn people."""
    import skimage.data
    from likeness.synthetic.people import test_people
    from likeness.synthetic.render import render
    from likeness.synthetic.scene import draw_reference

    found = importlib.util.find_spec("insightface")
    assert found is not None and found.origin is not None, "insightface brings the photograph of six people"
    group = np.array(Image.open(Path(found.origin).parent / "data" / "images" / "t1.jpg").convert("RGB"))
    woman = skimage.data.astronaut()[:256, 64:384]
    wall = np.full((96, 160, 3), 150, np.uint8)
    drawn = [render([draw_reference(person)]).pixels()[0] for person in test_people(2)]
    return {
        "woman": woman,
        "mirrored": np.ascontiguousarray(woman[:, ::-1]),
        "group": group,
        "man": group[180:460, 400:660],
        "other man": group[20:260, 830:1110],
        "other woman": group[200:460, 10:270],
        "wall": wall,
        "drawn": drawn[0],
        "other drawn": drawn[1],
    }


@pytest.fixture(scope="session")
def photographs() -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8 RGB."""
    return _pictures()


@pytest.fixture(scope="session")
def studio(comfy_server: Any, photographs: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The server, furnished."""
    from likeness.demo.tiny_models import TRAINED, write_tiny_models
    from likeness.demo.tiny_sizes import TinySizes

    models = write_tiny_models(comfy_server.folder / "models", weights=TRAINED)
    others = write_tiny_models(tmp_path_factory.mktemp("other"), seed=1, sizes=TinySizes(vision_width=96))
    for name in (models.faceid, models.clip_vision):
        place = models.paths[name]
        shutil.copy(others.paths[name], place.with_name(OTHER + name))
    folder = tmp_path_factory.mktemp("photos")
    photos = {}
    for name, pixels in photographs.items():
        path = folder / f"{name.replace(' ', '-')}.png"
        Image.fromarray(pixels).save(path)
        photos[name] = comfy_server.client.upload(path)
    return Studio(comfy_server, models, photos)


@pytest.fixture(scope="session")
def node_classes(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The node classes in this process by their id, in folders of their own, for what no server can be given."""
    import asyncio

    import folder_paths
    from likeness.nodes import LikenessExtension

    base = tmp_path_factory.mktemp("in-process")
    before = (folder_paths.models_dir, folder_paths.output_directory, folder_paths.temp_directory)
    folder_paths.models_dir = str(base / "models")
    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_temp_directory(str(base / "temp"))
    extension = LikenessExtension()
    asyncio.run(extension.on_load())
    classes = asyncio.run(extension.get_node_list())
    yield {node.define_schema().node_id: node for node in classes}
    folder_paths.models_dir, folder_paths.output_directory, folder_paths.temp_directory = before


@pytest.fixture
def call(node_classes: dict[str, Any]) -> Callable[..., Any]:
    """`call("DetectFaces", image=...)` runs a node class as ComfyUI does and returns its outputs."""

    def run(name: str, **inputs: Any) -> tuple[Any, ...]:
        with torch.inference_mode():
            return node_classes[f"Likeness_{name}"].execute(**inputs).args

    return run
