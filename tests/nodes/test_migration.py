"""Workflows of older PuLID packs: their nodes become ours, with their values, and give what ours give.

The workflows in old_workflows are our own, of the packs' node types; the packs are not installed.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

OLD = Path(__file__).with_name("old_workflows")
NAMES = sorted(path.stem for path in OLD.glob("*.json") if not path.stem.endswith(".api"))
STRENGTH = {"noise_seed": 0, "joining": "mean"}
# What the Apply nodes of each workflow become, less their links.
APPLIED = {
    "sdxl-style": {
        "33": dict(method="style", id_scale=0.9, start_percent=0.1, end_percent=0.95, projection="ortho_v2")
        | dict(num_zero=8, noise=0.0, no_face="error")
    },
    "sdxl-two-people": {
        "33": dict(method="fidelity", id_scale=0.7, start_percent=0, end_percent=1, projection="ortho_v2")
        | dict(num_zero=8, noise=0.0, no_face="error"),
        "47": dict(method="custom", id_scale=0.8, start_percent=0, end_percent=1, projection="none")
        | dict(num_zero=4, noise=0.2, no_face="error"),
    },
    "flux-photo": {
        "33": dict(method="auto", id_scale=0.9, start_percent=0.14, end_percent=1, projection="ortho_v2")
        | dict(num_zero=8, noise=0.0, no_face="skip picture")
    },
    "flux-fork": {
        "33": dict(method="auto", id_scale=1.2, start_percent=0, end_percent=0.8, projection="ortho_v2")
        | dict(num_zero=8, noise=0.0, no_face="skip picture")
    },
}


def read(name: str) -> dict[str, Any]:
    return json.loads((OLD / f"{name}.json").read_text("utf-8"))


@dataclass
class Engine:
    """ComfyUI's executor in this process, with our nodes and two of the test's own."""

    loop: asyncio.AbstractEventLoop
    server: Any
    manager: Any
    executor: Any
    events: list[tuple[str, Any]]
    taken: dict[str, Any] = field(default_factory=dict)

    def migrate(self, graph: dict[str, Any]) -> dict[str, Any]:
        """What /prompt makes of a graph before it is checked."""
        data = self.server.trigger_on_prompt({"prompt": copy.deepcopy(graph)})
        self.manager.apply_replacements(data["prompt"])
        return data["prompt"]

    def run(self, graph: dict[str, Any]) -> set[str]:
        """Run a graph, and return the ids of the nodes that were computed, also of those that a node became."""
        import execution

        async def all_of_it() -> Any:
            ok, error, outputs, node_errors = await execution.validate_prompt("p", graph, None)
            assert ok and not node_errors, (error, node_errors)
            await self.executor.execute_async(graph, "p", {"client_id": "x"}, outputs)

        self.events.clear()
        self.loop.run_until_complete(all_of_it())
        assert self.executor.success, self.executor.status_messages[-1]
        return {data["node"] for kind, data in self.events if kind == "executing" and data["node"]}


@pytest.fixture(scope="module")
def engine(comfyui_path: Path, node_classes: dict[str, Any], tiny_bases: dict[str, Any]) -> Iterator[Engine]:
    import execution
    import server
    from comfy_api.latest import io
    from likeness.nodes import LikenessExtension

    import nodes

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    running = server.PromptServer(loop)
    events: list[tuple[str, Any]] = []
    running.send_sync = lambda event, data, sid=None: events.append((event, data))
    loop.run_until_complete(LikenessExtension().on_load())
    sizes = {"lru": 0, "ram": 2.0, "ram_inactive": 8.0}
    executor = execution.PromptExecutor(running, cache_type=execution.CacheType.CLASSIC, cache_args=sizes)
    engine = Engine(loop, running, running.node_replace_manager, executor, events)

    class Base(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs = [io.Combo.Input("base", options=["SDXL", "FLUX"])]
            return io.Schema("LikenessTest_Base", inputs=inputs, outputs=[io.Model.Output()])

        @classmethod
        def execute(cls, base: str) -> io.NodeOutput:
            return io.NodeOutput(tiny_bases[base])

    class Take(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs = [io.Model.Input("model"), io.Image.Input("crops", optional=True)]
            return io.Schema("LikenessTest_Take", inputs=inputs, outputs=[], is_output_node=True)

        @classmethod
        def execute(cls, model: Any, crops: Any = None) -> io.NodeOutput:
            engine.taken.update(model=model, crops=crops)
            return io.NodeOutput()

    before = dict(nodes.NODE_CLASS_MAPPINGS)
    masks = str(comfyui_path / "comfy_extras" / "nodes_mask.py")
    loop.run_until_complete(nodes.load_custom_node(masks, module_parent="comfy_extras"))
    for node in (*node_classes.values(), Base, Take):
        nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node
    yield engine
    nodes.NODE_CLASS_MAPPINGS.clear()
    nodes.NODE_CLASS_MAPPINGS.update(before)
    server.PromptServer.instance = None


@pytest.fixture(scope="module")
def photos(photographs: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The pictures that the workflows name, in an input folder of this process."""
    import folder_paths

    before, folder = folder_paths.get_input_directory(), tmp_path_factory.mktemp("input")
    for name, person in (("anna", "woman"), ("ben", "man")):
        Image.fromarray(photographs[person]).save(folder / f"{name}.png")
    folder_paths.set_input_directory(str(folder))
    yield
    folder_paths.set_input_directory(before)


@pytest.fixture
def photo(photos: None, call: Callable[..., Any]) -> Callable[[str], torch.Tensor]:
    """`photo("anna")`: what LoadImage gives."""
    import nodes

    return lambda name: nodes.LoadImage().load_image(f"{name}.png")[0]


def test_every_workflow_has_both_forms_and_an_expectation():
    assert sorted(APPLIED) == NAMES
    assert {path.name for path in OLD.iterdir()} == {f"{name}{form}.json" for name in NAMES for form in ("", ".api")}


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_that_comes_by_prompt_is_replaced_with_its_values(engine: Engine, name: str) -> None:
    old, new = read(f"{name}.api"), engine.migrate(read(f"{name}.api"))
    assert not [node["class_type"] for node in new.values() if "ulid" in node["class_type"].replace("PuLID", "")]
    infix = "Flux" if name.startswith("flux") else ""
    for node, before in old.items():
        kind, inputs = new[node]["class_type"], new[node]["inputs"]
        if before["class_type"] == f"Pulid{infix}ModelLoader":
            assert (kind, inputs["parser"]) == ("Likeness_LoadPuLID", "auto")
            assert inputs["file"] == before["inputs"]["pulid_file"]
        elif before["class_type"] == f"Pulid{infix}InsightFaceLoader":
            assert kind == "Likeness_LoadFaceRecogniser"
            assert inputs == {"file": "auto", "provider": before["inputs"]["provider"]}
        elif before["class_type"] == f"Pulid{infix}EvaClipLoader":
            assert (kind, inputs) == ("Likeness_LoadEvaClip", {"file": "auto"})
        elif node in APPLIED[name]:
            assert kind == "Likeness_PuLIDFromPhoto"
            links = {key: before["inputs"][key] for key in ("model", "image", "eva_clip")}
            links["adapter"] = before["inputs"]["pulid_flux" if infix else "pulid"]
            links["recogniser"] = before["inputs"]["face_analysis"]
            links |= {"mask": before["inputs"]["attn_mask"]} if "attn_mask" in before["inputs"] else {}
            assert inputs == {**APPLIED[name][node], **STRENGTH, **links}
        else:
            assert new[node] == before


def as_the_browser_does(
    workflow: dict[str, Any], replacements: dict[str, Any], schemas: dict[str, Any]
) -> dict[str, Any]:
    """The prompt of a workflow whose nodes the browser has replaced: ComfyUI's rules for values and links by position.

    As frontend 1.47 has them: values are looked up by position in old_widget_ids; dotted inputs are left out; outputs
    without a mapping lose their links; what is not mapped keeps the new node's default.
    """
    origins = {link[0]: (link[1], link[2]) for link in workflow["links"]}
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] not in replacements:
            continue
        new = replacements[node["type"]][0]
        inputs = dict(schemas[new["new_node_id"]])
        values, order = node.get("widgets_values", []), new["old_widget_ids"] or []
        links = {slot["name"]: origins[slot["link"]] for slot in node.get("inputs", []) if slot["link"] is not None}
        for entry in new["input_mapping"] or []:
            if "." in entry["new_id"]:
                continue
            if "set_value" in entry:
                inputs[entry["new_id"]] = entry["set_value"]
            elif entry["old_id"] in links:
                origin, slot = links[entry["old_id"]]
                inputs[entry["new_id"]] = [str(origin), slot]
            elif entry["old_id"] in order and order.index(entry["old_id"]) < len(values):
                inputs[entry["new_id"]] = values[order.index(entry["old_id"])]
        carried = {entry["old_idx"] for entry in new["output_mapping"] or []}
        used = {number for number, output in enumerate(node["outputs"]) if output["links"]}
        assert used <= carried, f"{node['type']} loses an output"
        graph[str(node["id"])] = {"class_type": new["new_node_id"], "inputs": inputs}
    return graph


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_that_the_browser_opens_becomes_the_same(
    engine: Engine, node_classes: dict[str, Any], name: str
) -> None:
    defaults = {
        node_id: {
            each.id: each.default for each in node.define_schema().inputs if getattr(each, "default", None) is not None
        }
        for node_id, node in node_classes.items()
    }
    opened = as_the_browser_does(read(name), engine.manager.as_dict(), defaults)
    queued = engine.migrate(read(f"{name}.api"))
    for node, found in opened.items():
        assert found == {"class_type": queued[node]["class_type"], "inputs": queued[node]["inputs"]}


def test_every_replacement_fits_our_nodes(engine: Engine, node_classes: dict[str, Any]) -> None:
    """Each input of ours is mapped once, fixed values are allowed ones, and all of the asked node ids are there."""
    found = engine.manager.as_dict()
    ours = {old: new[0] for old, new in found.items() if new[0]["new_node_id"].startswith("Likeness_")}
    loaders = [f"Pulid{infix}{name}Loader" for infix in ("", "Flux") for name in ("Model", "InsightFace", "EvaClip")]
    assert set(ours) == {*loaders, "ApplyPulid", "ApplyPulidAdvanced", "ApplyPulidFlux"}
    for old, new in ours.items():
        schema = {each.id: each for each in node_classes[new["new_node_id"]].define_schema().inputs}
        mapped = [entry["new_id"] for entry in new["input_mapping"]]
        assert len(mapped) == len(set(mapped)) and set(mapped) <= set(schema), old
        missing = {key for key, each in schema.items() if not each.optional} - set(mapped)
        assert not missing, (old, missing)
        for entry in new["input_mapping"]:
            options = getattr(schema[entry["new_id"]], "options", None)
            assert "set_value" not in entry or options is None or entry["set_value"] in options, (old, entry)


@pytest.mark.parametrize(
    ("old", "widget", "values"),
    [
        ("ApplyPulid", "method", ["fidelity", "style", "neutral"]),
        ("ApplyPulidAdvanced", "projection", ["ortho_v2", "ortho", "none"]),
        ("ApplyPulidAdvanced", "fidelity", [0, 32]),
        ("ApplyPulidAdvanced", "noise", [-1.0, 1.0]),
        ("ApplyPulidAdvanced", "weight", [-1.0, 5.0]),
        ("ApplyPulidFlux", "start_at", [0.0, 1.0]),
        ("PulidInsightFaceLoader", "provider", ["CPU", "CUDA", "ROCM"]),
    ],
)
def test_every_value_of_an_older_node_is_one_of_ours(
    engine: Engine, node_classes: dict[str, Any], old: str, widget: str, values: list[Any]
) -> None:
    [new] = engine.manager.as_dict()[old]
    [name] = [entry["new_id"] for entry in new["input_mapping"] if entry.get("old_id") == widget]
    [ours] = [each for each in node_classes[new["new_node_id"]].define_schema().inputs if each.id == name]
    for value in values:
        assert value in ours.options if isinstance(value, str) else ours.min <= value <= ours.max


def test_an_installed_pack_keeps_its_nodes(engine: Engine, node_classes: dict[str, Any]) -> None:
    import nodes

    nodes.NODE_CLASS_MAPPINGS["PulidEvaClipLoader"] = node_classes["Likeness_DetectFaces"]
    try:
        graph = {"1": {"class_type": "PulidEvaClipLoader", "inputs": {}}}
        assert engine.migrate(graph) == graph
    finally:
        del nodes.NODE_CLASS_MAPPINGS["PulidEvaClipLoader"]


@pytest.mark.parametrize(
    "data", [{}, {"prompt": None}, {"prompt": {"1": None, "2": {"inputs": {}}, "3": {"class_type": 5}}}]
)
def test_requests_that_are_no_graphs_pass_through(engine: Engine, data: dict[str, Any]) -> None:
    assert engine.server.trigger_on_prompt(copy.deepcopy(data)) == data


def test_a_node_without_its_links_is_replaced_and_lacks_them(engine: Engine) -> None:
    """ComfyUI then says which input is missing, as of any node."""
    graph = engine.migrate({"1": {"class_type": "ApplyPulid", "inputs": {"weight": 0.3}, "_meta": {"title": "mine"}}})
    assert graph["1"]["_meta"] == {"title": "mine"}
    inputs = graph["1"]["inputs"]
    assert "model" not in inputs and (inputs["id_scale"], inputs["method"]) == (0.3, "fidelity")


@pytest.mark.parametrize("name", NAMES)
def test_comfyuis_own_replacing_agrees(engine: Engine, name: str) -> None:
    """Where it works: with titles and all inputs. What it cannot do stands in `replace_old_nodes`."""
    graph = {node: {**entry, "_meta": {"title": ""}} for node, entry in read(f"{name}.api").items()}
    for entry in graph.values():
        if entry["class_type"].startswith("ApplyPulid"):
            entry["inputs"].setdefault("attn_mask", ["12", 1])
    expected = engine.migrate(graph)
    engine.manager.apply_replacements(graph)
    assert graph == expected


def shortened(graph: dict[str, Any], base: str, last: str) -> dict[str, Any]:
    """The graph up to its last Apply node, on a tiny model."""
    left_out = ("KSampler", "VAEDecode", "PreviewImage", "CLIPTextEncode", "EmptyLatentImage")
    loaders = ("CheckpointLoaderSimple", "UNETLoader", "DualCLIPLoader", "VAELoader")
    kept = {node: entry for node, entry in graph.items() if entry["class_type"] not in (*left_out, *loaders)}
    kept["4"] = {"class_type": "LikenessTest_Base", "inputs": {"base": base}}
    kept["99"] = {"class_type": "LikenessTest_Take", "inputs": {"model": [last, 0], "crops": [last, 1]}}
    return kept


@pytest.fixture
def encoded(call: Callable[..., Any], photo: Callable[[str], torch.Tensor]) -> Callable[..., Any]:
    """`encoded("anna", file, noise=0.2)`: an adapter and a person by our separate nodes, with photos averaged."""

    def encode(name: str, file: str, noise: float = 0.0) -> tuple[Any, Any]:
        adapter = call("LoadPuLID", file=file, parser="auto", eva_clip=call("LoadEvaClip", file="auto")[0])[0]
        reading = dict(joining="mean", faces="one for both", shrinking="as released", noise=noise, noise_seed=0)
        faces = {"faces_1": call("DetectFaces", image=photo(name), detector="auto")[0]}
        inputs = dict(structure_scale=0.1, label="", no_face="error", pulid_options=call("PuLIDOptions", **reading)[0])
        return adapter, call("EncodeIdentity", adapter=adapter, faces=faces, **inputs)[0]

    return encode


@pytest.fixture
def applied(call: Callable[..., Any]) -> Callable[..., Any]:
    """`applied(model, (adapter, person), method, scale, ...)`: the model of Apply PuLID."""

    def apply(model: Any, who: Any, method: dict[str, Any], scale: float, mask: Any = None, **window: float) -> Any:
        adapter, person = who
        window = dict(start_percent=0.0, end_percent=1.0) | window
        people = dict(identities={"identity_1": person}, masks={} if mask is None else {"mask_1": mask})
        how = dict(method=method, id_scale=scale, sharing="attention", keep_soft_edges=True)
        return call("ApplyPuLID", model=model, adapter=adapter, **people, **how, **window)[0]

    return apply


def test_two_people_of_an_old_workflow_are_those_of_our_nodes(
    engine: Engine, pulid_files: Any, encoded: Any, applied: Any, sample: Any, tiny_bases: Any
) -> None:
    """Two Apply nodes in a row, with masks: in old workflows that is how two people are drawn."""
    engine.run(engine.migrate(shortened(read("sdxl-two-people.api"), "SDXL", "47")))
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1
    anna, ben = encoded("anna", pulid_files.converted), encoded("ben", pulid_files.converted, noise=0.2)
    first = applied(tiny_bases["SDXL"], anna, {"method": "fidelity"}, 0.7, left)
    plain = {"method": "custom", "form": "plain", "num_zero": 4}
    second = applied(first, ben, plain, 0.8, 1 - left)
    found = sample("SDXL", engine.taken["model"])
    assert torch.equal(found, sample("SDXL", second))
    assert (found - sample("SDXL", first)).abs().max() > 1e-4
    assert engine.taken["crops"].shape == (1, 512, 512, 3)


@pytest.mark.parametrize(("name", "window"), [("flux-photo", (0.14, 1.0)), ("flux-fork", (0.0, 0.8))])
def test_a_flux_workflow_is_what_our_nodes_make(
    engine: Engine, pulid_files: Any, encoded: Any, applied: Any, sample: Any, tiny_bases: Any, name: str, window: Any
) -> None:
    engine.run(engine.migrate(shortened(read(f"{name}.api"), "FLUX", "33")))
    person = encoded("anna", pulid_files.flux)
    scale = APPLIED[name]["33"]["id_scale"]
    start, end = window
    model = applied(tiny_bases["FLUX"], person, {"method": "auto"}, scale, start_percent=start, end_percent=end)
    assert torch.equal(sample("FLUX", engine.taken["model"]), sample("FLUX", model))


def test_a_change_of_strength_does_not_encode_the_photo_again(
    engine: Engine, pulid_files: Any, photos: None, sample: Any
) -> None:
    """The one node becomes three, whose results ComfyUI keeps."""
    graph = engine.migrate(shortened(read("sdxl-style.api"), "SDXL", "33"))
    engine.run(copy.deepcopy(graph))
    weak = sample("SDXL", engine.taken["model"])
    again = copy.deepcopy(graph)
    again["33"]["inputs"]["id_scale"] = 2.0
    computed = engine.run(again)
    assert (sample("SDXL", engine.taken["model"]) - weak).abs().max() > 1e-4
    inner = {node for node in computed if node.startswith("33.")}
    assert len(inner) == 1, computed  # Apply PuLID alone
    assert not {"12", "16", "17", "19"} & computed
