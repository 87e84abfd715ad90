"""From photographs to what PuLID's encoders read, and the files that it takes, as a host strings them together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from likeness.adapters.checkpoint import CheckpointError, read_tensors
from likeness.adapters.id_former import IDFormer, IDFormerSizes
from likeness.adapters.references import id_condition, person_tokens
from likeness.faces.arcface import ArcFace
from likeness.faces.bisenet import BiSeNet, BiSeNetSizes
from likeness.faces.composite import composite_pictures
from likeness.faces.detection import find_faces
from likeness.faces.eva_clip import EvaClip
from likeness.faces.parsing import FaceParser
from likeness.faces.portraits import portrait_of, released_choice
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def tower_state() -> dict[str, torch.Tensor]:
    """A small tower's tensors under their released names."""
    eva = pytest.importorskip("timm.models.eva", exc_type=ImportError)
    torch.manual_seed(0)
    model = eva.eva02_large_patch14_clip_336(img_size=56, embed_dim=64, depth=6, num_heads=1, num_classes=24)
    return {f"visual.trunk.{key}": value for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def parser_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = BiSeNetSizes(stem=4, stages=(4, 6, 8, 10), context=6, fusion=8, bottleneck=2, head=5)
    return BiSeNet(sizes).state_dict()


def test_golden_pulid_08_conditions(golden):
    file = golden("pulid", "08_face_composite")
    inputs, expected = file.inputs(), file.expected()
    for name in (f"img{number}" for number in range(file.metadata["config"]["n_images"])):
        got = id_condition(inputs[f"{name}.ante_embedding"][None], inputs[f"{name}.clip_proj"])
        torch.testing.assert_close(got, expected[f"{name}.id_cond"], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_golden_pulid_08_two_photographs_for_v1_1(golden):
    """What the encoder of v1.1 is given for the person and for nobody, seen at its door."""
    file = golden("pulid", "08_face_composite")
    inputs, expected, width = file.inputs(), file.expected(), file.metadata["config"]["vit_dim"]
    sizes = IDFormerSizes(vit_dim=width, embedding_hidden=(8, 8), mapping_hidden=(8, 8), dim=8, heads=1, dim_head=8)
    encoder, calls = IDFormer(sizes), []
    encoder.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
    conditions = torch.cat([expected["img0.id_cond"], expected["img1.id_cond"]])
    hidden = [torch.cat([inputs[f"img{photo}.clip_hidden.{scale}"] for photo in (0, 1)]) for scale in range(5)]
    person_tokens(encoder, conditions, hidden)
    nobody, person = calls
    torch.testing.assert_close(person[0], expected["v1_1.id_cond_stacked"], rtol=0, atol=0)
    torch.testing.assert_close(person[1][0], expected["v1_1.vit_hidden0_concat"], rtol=0, atol=0)
    torch.testing.assert_close(nobody[0], expected["v1_1.uncond_id_cond"], rtol=0, atol=0)
    torch.testing.assert_close(nobody[1][0], expected["v1_1.uncond_vit_hidden0"], rtol=0, atol=0)


@torch.inference_mode()
def test_photographs_of_several_people_become_conditions_and_hidden_states(
    detector, astronaut, six_people, recogniser_model, parser_state, tower_state
):
    """The largest face of each of two photographs, read together and apart."""
    faces = find_faces([astronaut, six_people], detector)
    chosen = [next(face for face in faces if face.image_index == index) for index in (0, 1)]
    portraits = [portrait_of(faces, face) for face in chosen]
    recogniser, parser = ArcFace(recogniser_model(), "test"), FaceParser.from_state_dict(parser_state)
    tower = EvaClip.from_state_dict(tower_state)

    def encode(some):
        embeddings = torch.from_numpy(recogniser.embed(np.stack([portrait.recognition for portrait in some])))
        pixels = torch.from_numpy(np.stack([portrait.crop for portrait in some])).movedim(-1, 1) / 255
        composites = parser.composite(pixels)
        seen = tower.see(composites, antialias=True)
        return id_condition(embeddings, seen.projected), seen.hidden, composite_pictures(composites)

    condition, hidden, pictures = encode(portraits)
    assert condition.shape == (2, 12 + 24) and [tuple(state.shape) for state in hidden] == [(2, 17, 64)] * 5
    assert (
        pictures.shape == (2, 512, 512, 3) and (pictures == 255).any() and (pictures[..., 0] == pictures[..., 1]).all()
    )
    for index, portrait in enumerate(portraits):
        alone = encode([portrait])
        torch.testing.assert_close(alone[0], condition[index : index + 1], rtol=1e-5, atol=1e-5)
        for state, together in zip(alone[1], hidden, strict=True):
            torch.testing.assert_close(state, together[index : index + 1], rtol=1e-4, atol=1e-4)


def test_a_group_photograph_can_mean_two_people_as_released(detector, six_people):
    faces = find_faces([six_people], detector)
    central, largest = released_choice(faces, 0)
    assert central is not largest and largest is faces[0]
    portrait = portrait_of(faces, central, largest)
    np.testing.assert_array_equal(portrait.crop, portrait_of(faces, central).crop)
    np.testing.assert_array_equal(portrait.recognition, portrait_of(faces, largest).recognition)


def test_a_photograph_without_a_face_is_refused(detector):
    faces = find_faces([np.full((64, 64, 3), 90, np.uint8)], detector)
    with pytest.raises(ValueError, match="picture 1 shows no face; use a photo where the whole face is visible"):
        released_choice(faces, 0)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_tower_loads_from_files(tmp_path, tower_state, suffix):
    path = tmp_path / f"EVA02_CLIP_L_336_psz14_s6B.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": tower_state, "epoch": 3}, path)
    else:
        save_file({key: value.contiguous() for key, value in tower_state.items()}, path)
    file = read_tensors(path)
    assert EvaClip.from_state_dict(file.tensors, file.name).image_size == 56


def test_the_parser_loads_from_its_file(tmp_path, parser_state):
    torch.save(parser_state, tmp_path / "parsing_bisenet.pth")
    file = read_tensors(tmp_path / "parsing_bisenet.pth")
    assert FaceParser.from_state_dict(file.tensors, file.name).labels(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


class _Code:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_are_missing_damaged_or_hold_code_are_named_and_not_run(tmp_path, parser_state, capsys):
    path = tmp_path / "parsing_bisenet.pth"
    with pytest.raises(CheckpointError, match="parsing_bisenet.pth does not exist"):
        read_tensors(path)
    torch.save({"state_dict": parser_state, "more": _Code()}, path)
    with pytest.raises(CheckpointError, match="parsing_bisenet.pth contains code"):
        read_tensors(path)
    assert capsys.readouterr().out == ""
    torch.save(parser_state, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="parsing_bisenet.pth is damaged or incomplete"):
        read_tensors(path)


def test_a_parser_in_the_towers_place_is_named(tmp_path, parser_state, tower_state):
    with pytest.raises(ValueError, match="parsing_bisenet.pth is not an EVA02-CLIP vision tower"):
        EvaClip.from_state_dict(parser_state, "parsing_bisenet.pth")
    with pytest.raises(ValueError, match="EVA02.pt is not a face parser"):
        FaceParser.from_state_dict(tower_state, "EVA02.pt")
