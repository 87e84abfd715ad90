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
        kind = caught.value.exception_type.rpartition(".")[2]
        assert kind in ("ValueError", "CheckpointError", "DamagedFileError"), caught.value.exception_type
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


@dataclass(frozen=True)
class PulidFiles:
    """PuLID's files at tiny size below a models folder, under their published names, and networks of its bases."""

    models: Path
    v1: str = "pulid_v1.bin"
    v1_1: str = "pulid_v1.1.safetensors"
    flux: str = "pulid_flux_v0.9.1.safetensors"
    converted: str = "ip-adapter_pulid_sdxl_fp16.safetensors"
    eva_clip: str = "EVA02_CLIP_L_336_psz14_s6B.pt"
    parser: str = "parsing_bisenet.pth"
    recogniser: str = "glintr100.onnx"

    def place(self, name: str) -> Path:
        """Where a file lies."""
        return next(self.models.rglob(name))


@pytest.fixture(scope="session")
def write_pulid_files(tiny_pulid_models: Any) -> Callable[[Path], PulidFiles]:
    """`write_pulid_files(models)` writes all of PuLID's files below a models folder."""

    def write(models: Path) -> PulidFiles:
        from likeness.adapters.pulid import save_pulid
        from safetensors.torch import load_file, save_file

        for folder in ("pulid", "clip_vision", "facexlib", "insightface/models/antelopev2"):
            (models / folder).mkdir(parents=True, exist_ok=True)
        files = PulidFiles(models)
        save_pulid(models / "pulid" / files.v1_1, tiny_pulid("pulid-v1.1"))
        save_pulid(models / "pulid" / files.flux, tiny_pulid("pulid-flux"))
        save_pulid(models / "v1.safetensors", tiny_pulid("pulid-v1"))
        v1 = load_file(models / "v1.safetensors")
        (models / "v1.safetensors").unlink()
        torch.save(v1, models / "pulid" / files.v1)
        renamed = {
            key.replace("id_adapter_attn_layers.", "ip_adapter.")
            .replace(".id_to_k.", ".to_k_ip.")
            .replace(".id_to_v.", ".to_v_ip.")
            .replace("id_adapter.", "image_proj."): value.half()
            for key, value in v1.items()
        }
        save_file(renamed, models / "pulid" / files.converted)
        for name in (files.eva_clip, files.parser, files.recogniser):
            demo = tiny_pulid_models.paths[name]
            shutil.copy(demo, models / demo.relative_to(tiny_pulid_models.folder))
        return files

    return write


def tiny_pulid(edition: str) -> Any:
    """A PuLID for `tiny_bases`, whose weights are strong enough to be seen."""
    from likeness.adapters.flux_attention import FluxAttentionSizes
    from likeness.adapters.id_encoder import IDEncoderSizes
    from likeness.adapters.id_former import IDFormerSizes
    from likeness.adapters.layers import sdxl_layers
    from likeness.adapters.pulid import PuLID, PuLIDSizes

    seen = 12 + 24  # the demo's recogniser and tower
    former = IDFormerSizes(seen, 32, (11, 9), (7, 13), 12, 3, 4, 5, 8, 64, 2)
    hidden = tuple(32 * layer.level for layer in sdxl_layers(1, 2))
    sizes = {
        "pulid-v1": PuLIDSizes(edition, IDEncoderSizes(seen, 32, (11, 9), (7, 13), 5, 64), hidden),
        "pulid-v1.1": PuLIDSizes(edition, former, hidden),
        "pulid-flux": PuLIDSizes(edition, former, block=FluxAttentionSizes(64, 64, 4, 16), num_blocks=4),
    }[edition]
    generator = torch.Generator().manual_seed(sum(map(ord, edition)))
    adapter = PuLID(sizes).requires_grad_(False)
    for name, value in sorted(adapter.state_dict().items()):
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim > 1:
            value.copy_(noise * 2 / value[0].numel() ** 0.5)
        else:
            value.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
    return adapter


@pytest.fixture(scope="module")
def pulid_files(node_classes: dict[str, Any], write_pulid_files: Callable[[Path], PulidFiles]) -> Iterator[PulidFiles]:
    """PuLID's files in this process's models folder, and gone again after the module."""
    import folder_paths

    models = Path(folder_paths.models_dir)
    before = folder_paths.folder_names_and_paths["clip_vision"]
    folder_paths.folder_names_and_paths["clip_vision"] = ([str(models / "clip_vision")], before[1])
    yield write_pulid_files(models)
    folder_paths.folder_names_and_paths["clip_vision"] = before
    for folder in ("pulid", "clip_vision", "facexlib", "insightface"):
        for file in (models / folder).rglob("*.*"):  # the folders stay: ComfyUI remembers them
            file.unlink()


@pytest.fixture(scope="module")
def uniid_files(node_classes: dict[str, Any], tiny_uniid_models: Any) -> Iterator[Any]:
    """UniID's tiny files in this process's models folder, and gone again after the module: a TinyUniidModels."""
    import folder_paths
    from likeness.demo.tiny_uniid import TinyUniidModels

    models = TinyUniidModels(Path(folder_paths.models_dir))
    shutil.copytree(tiny_uniid_models.folder / "uniid", models.folder / "uniid", dirs_exist_ok=True)
    yield models
    for file in (models.folder / "uniid").rglob("*.*"):  # the folders stay: ComfyUI remembers them
        file.unlink()


@pytest.fixture(scope="module")
def sdxl(models_pack: Any, tiny_pulid_models: Any) -> tuple[Any, Any]:
    """The demo's SDXL, to which UniID's tiny files fit: a ModelPatcher and the text encoders."""
    import comfy.sd

    path = str(tiny_pulid_models.paths[tiny_pulid_models.sdxl])
    model, clip = comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=True)[:2]
    return model, clip


@pytest.fixture
def load_uniid(call: Callable[..., Any], uniid_files: Any) -> Callable[..., Any]:
    """`load_uniid()`: an adapter with both branches that sees photos; other inputs of Load UniID by their names."""

    def run(**inputs: Any) -> Any:
        files = {"text_branch": uniid_files.text_branch, "adapter_branch": uniid_files.adapter_branch}
        return call("LoadUniID", **{**files, "backbone": "auto", **inputs})[0]

    return run


@pytest.fixture(scope="session")
def tiny_bases(comfyui_path: Path) -> dict[str, Any]:
    """ModelPatchers of tiny SDXL and FLUX networks with random weights."""
    import comfy.supported_models

    class TinySDXL(comfy.supported_models.SDXL):
        unet_extra_config = {**comfy.supported_models.SDXL.unet_extra_config, "num_head_channels": 16}

    sdxl = TinySDXL(
        dict(in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[2, 2, 2], channel_mult=[1, 1, 2])
        | dict(transformer_depth=[0, 0, 1, 1, 2, 2], transformer_depth_output=[0, 0, 0, 1, 1, 1, 2, 2, 2])
        | dict(transformer_depth_middle=2, use_linear_in_transformer=True, context_dim=64, num_classes="sequential")
        | dict(adm_in_channels=64 + 6 * 256, use_temporal_attention=False, dtype=torch.float32, image_size=32)
        | dict(use_spatial_transformer=True, legacy=False)
    )
    flux = comfy.supported_models.Flux(
        dict(image_model="flux", in_channels=16, out_channels=16, patch_size=2, vec_in_dim=32, context_in_dim=64)
        | dict(hidden_size=64, mlp_ratio=2.0, num_heads=4, depth=3, depth_single_blocks=5, axes_dim=[4, 6, 6])
        | dict(theta=10000, qkv_bias=True, guidance_embed=True, txt_ids_dims=[], dtype=torch.float32)
    )
    return {"SDXL": _random_model(sdxl), "FLUX": _random_model(flux)}


def _random_model(config: Any) -> Any:
    import comfy.model_management
    import comfy.model_patcher

    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(1)
    for name, value in sorted(model.diffusion_model.state_dict().items()):
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.7 / value[0].numel() ** 0.5)
        else:
            value.fill_(1.0 if name.endswith(("weight", "scale")) else 0.0)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


@pytest.fixture
def sample(tiny_bases: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """`sample("SDXL", model)`: the latents of three steps of 64 x 64 pixels with guidance."""
    import comfy.sample

    def drawn(*shape: int, seed: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    def run(base: str, model: Any = None) -> torch.Tensor:
        channels, width, scheduler = (4, 64, "normal") if base == "SDXL" else (16, 32, "simple")
        extra = {"pooled_output": drawn(1, width, seed=6), "guidance": 3.5}
        positive, negative = ([[drawn(1, 77, 64, seed=seed), extra]] for seed in (11, 12))
        noise = drawn(1, channels, 8, 8, seed=3)
        model = tiny_bases[base] if model is None else model
        with torch.inference_mode():
            arguments = (noise, 3, 4.0, "euler", scheduler, positive, negative, torch.zeros_like(noise))
            return comfy.sample.sample(model, *arguments, disable_pbar=True, seed=5)

    return run


@pytest.fixture
def woman(photographs: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(photographs["woman"].copy())[None].float() / 255


@pytest.fixture
def group(photographs: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(photographs["group"].copy())[None].float() / 255


@pytest.fixture
def load(call: Callable[..., Any], pulid_files: PulidFiles) -> Callable[..., Any]:
    """`load("v1_1")`: an adapter that sees photos; `load("v1_1", blind=True)`: one that does not."""

    def run(edition: str, blind: bool = False, **inputs: Any) -> Any:
        if not blind:
            inputs.setdefault("eva_clip", call("LoadEvaClip", file="auto")[0])
        return call("LoadPuLID", file=getattr(pulid_files, edition), **{"parser": "auto", **inputs})[0]

    return run


@pytest.fixture
def encode(call: Callable[..., Any]) -> Callable[..., Any]:
    """`encode(adapter, image, ...)`: Detect Faces and Encode Identity; returns identity, crops and found."""

    def run(
        adapter: Any,
        *images: torch.Tensor,
        structure_scale: float = 0.1,
        label: str = "",
        no_face: str = "error",
        **inputs: Any,
    ) -> Any:
        faces = [call("DetectFaces", image=image, detector="bundled")[0] for image in images]
        numbered = {f"faces_{number}": each for number, each in enumerate(faces, 1)}
        inputs = dict(structure_scale=structure_scale, label=label, no_face=no_face, **inputs)
        return call("EncodeIdentity", adapter=adapter, faces=numbered, **inputs)

    return run


@pytest.fixture
def shown(node_classes: dict[str, Any]) -> Callable[..., str]:
    """`shown("LoadPuLID", file=...)`: the sentence that a node shows about its run."""

    def run(name: str, **inputs: Any) -> str:
        with torch.inference_mode():
            text: str = node_classes[f"Likeness_{name}"].execute(**inputs).ui["text"][0]
        return text

    return run
