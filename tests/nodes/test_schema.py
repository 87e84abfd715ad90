"""What every node promises to the user interface and to saved workflows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IDS = [
    "ApplyPuLID",
    "ApplyUniID",
    "ApplyUniPortrait",
    "ClassWord",
    "CompletePuLID",
    "DetectFaces",
    "EncodeIdentity",
    "FacesFromBoxes",
    "IdentitySimilarity",
    "LoadEvaClip",
    "LoadFaceRecogniser",
    "LoadIdentity",
    "LoadPuLID",
    "LoadUniID",
    "LoadUniPortrait",
    "MixIdentities",
    "NameNorms",
    "PickFaces",
    "PuLIDFromPhoto",
    "PuLIDOptions",
    "RoutingMaps",
    "SaveIdentity",
]
# Node ids of other packs for faces and identities: two packs with one id cannot be installed side by side.
PEERS = {
    "PulidModelLoader",
    "PulidInsightFaceLoader",
    "PulidEvaClipLoader",
    "ApplyPulid",
    "ApplyPulidAdvanced",
    "PulidFluxModelLoader",
    "PulidFluxInsightFaceLoader",
    "PulidFluxEvaClipLoader",
    "ApplyPulidFlux",
    "IPAdapter",
    "IPAdapterFaceID",
    "IPAdapterUnifiedLoader",
    "IPAdapterUnifiedLoaderFaceID",
    "IPAdapterModelLoader",
    "IPAdapterInsightFaceLoader",
    "InstantIDModelLoader",
    "ApplyInstantID",
    "InstantIDFaceAnalysis",
    "FaceAnalysisModels",
    "FaceEmbedDistance",
    "ReActorFaceSwap",
    "ReActorLoadFaceModel",
    "ReActorSaveFaceModel",
    "InfiniteYouApply",
    "PhotoMakerLoader",
    "PhotoMakerEncode",
    "FaceDetailer",
    "LoadFace",
    "SaveFace",
    "DetectFaces",
}


def inputs_of(schema):
    """Every input, with the templates of growing ones and those of each choice: name -> options."""
    for group in ("required", "optional"):
        for name, (kind, *options) in schema["input"].get(group, {}).items():
            yield name, options[0] if options else {}
            if kind == "COMFY_AUTOGROW_V3":
                for part in options[0]["template"]["input"].values():
                    for inner, (_, *inner_options) in part.items():
                        yield f"{name}.{inner}", inner_options[0] if inner_options else {}
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for choice in options[0]["options"]:
                    for part in choice["inputs"].values():
                        for inner, (_, *inner_options) in part.items():
                            yield inner, inner_options[0] if inner_options else {}


@pytest.fixture(scope="module")
def ours(studio):
    return {name: schema for name, schema in studio.info.items() if name.startswith("Likeness_")}


def test_the_nodes_are_there_under_names_that_never_change(ours):
    assert sorted(ours) == [f"Likeness_{name}" for name in IDS]


def test_no_node_takes_a_name_of_another_pack(node_classes):
    """As the pack itself names them, not as the fixture above finds them."""
    assert sorted(node_classes) == [f"Likeness_{name}" for name in IDS]
    assert not set(node_classes) & PEERS


def test_every_input_and_output_explains_itself(ours):
    silent = []
    for name, schema in ours.items():
        tooltips = {f"{name}: {key}": options.get("tooltip") for key, options in inputs_of(schema)}
        outputs = dict(zip(schema["output_name"], schema["output_tooltips"], strict=True))
        tooltips |= {f"{name} -> {key}": tooltip for key, tooltip in outputs.items()}
        silent += [key for key, tooltip in tooltips.items() if not tooltip or len(tooltip) < 10]
    assert silent == []


def test_every_node_can_be_found(ours):
    for name, schema in ours.items():
        assert schema["description"] and schema["category"].startswith("Likeness/"), name
        assert len(schema["search_aliases"]) >= 3, name


def test_every_number_has_a_range(ours):
    for name, schema in ours.items():
        for key, options in inputs_of(schema):
            if isinstance(options.get("default"), (int, float)) and not isinstance(options.get("default"), bool):
                assert options["min"] <= options["default"] <= options["max"], (name, key)


@pytest.mark.parametrize("name", IDS)
def test_every_node_has_a_help_page_that_names_its_inputs(ours, studio, name):
    page = (ROOT / "web" / "docs" / f"Likeness_{name}.md").read_text("utf-8")
    for key, _ in inputs_of(ours[f"Likeness_{name}"]):
        assert f"`{key.split('.')[0]}`" in page, f"{name}: {key}"
    assert studio.fetch(f"/extensions/ComfyUI-Likeness/docs/Likeness_{name}.md") == page


def test_no_help_page_is_left_over():
    assert sorted(path.stem for path in (ROOT / "web" / "docs").iterdir()) == [f"Likeness_{name}" for name in IDS]


def test_the_browser_gets_the_extension_without_globals(studio):
    script = studio.fetch("/extensions/ComfyUI-Likeness/js/likeness.js")
    assert "registerExtension" in script and not re.search(r"\bwindow\.|globalThis", script)


@pytest.mark.parametrize("system", ["UniPortrait", "PuLID", "UniID"])
def test_the_help_names_every_model_file(node_classes, system):
    from likeness.nodes.model_files import PULID_FILES, UNIID_FILES, UNIPORTRAIT_FILES

    page = (ROOT / "web" / "docs" / f"Likeness_Load{system}.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for file in {"UniPortrait": UNIPORTRAIT_FILES, "PuLID": PULID_FILES, "UniID": UNIID_FILES}[system]:
        for fact in (file.name, file.folder, file.licence, file.size):
            assert fact in page and fact in readme, (file.name, fact)


def test_a_node_that_nobody_has_to_see_is_hidden(ours):
    assert [name for name, schema in ours.items() if schema.get("dev_only")] == ["Likeness_CompletePuLID"]


def test_old_workflows_of_ours_still_open(ours):
    """Inputs that a node gained later are optional and come last, so that values by position stay in their places."""
    encode = ours["Likeness_EncodeIdentity"]["input"]
    assert list(encode["required"]) == ["adapter", "faces", "structure_scale", "label", "no_face"]
    assert list(encode["optional"]) == ["pulid_options"]
    apply = ours["Likeness_ApplyUniPortrait"]["input"]
    widgets = ["id_scale", "lora_scale", "start_percent", "end_percent", "keep_soft_edges", "image_prompt_scale"]
    assert list(apply["required"]) == ["model", "adapter", "identities", "masks", *widgets]
    assert ours["Likeness_EncodeIdentity"]["output_name"][:2] == ["identity", "crops"]


def test_no_seed_changes_by_itself(ours):
    """By the name of an input the browser would draw another seed for each run, and encode the photos again."""
    for name, schema in ours.items():
        for key, options in inputs_of(schema):
            if key.rsplit(".", 1)[-1] in ("seed", "noise_seed"):
                assert options["control_after_generate"] is False, name
