"""Face features: the golden file, single crops, nobody, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from likeness.faces.backbone import IRBackbone
from likeness.trainer.batch import FaceFeatures
from likeness.trainer.model.encoders import load_face_encoders
from likeness.trainer.model.identity_tokens import TokenMaker
from safetensors.torch import save_file

TOLERANCE = 5e-5  # tests/golden/uniportrait/README.md


@pytest.fixture(scope="module")
def reference(golden):
    return golden("uniportrait", "face_embedding")


@pytest.fixture(scope="module")
def published(reference, tmp_path_factory):
    """The published encoders of the reference file, from files as users have them."""
    folder = tmp_path_factory.mktemp("encoders")
    save_file(reference.weights("backbone."), folder / "backbone.safetensors")
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text(json.dumps(reference.metadata["config"]["clip"]), "utf-8")
    save_file(reference.weights("clip."), folder / "clip" / "model.safetensors")
    return load_face_encoders(folder / "backbone.safetensors", folder / "clip", "cpu", torch.float32)


def resampler_of(reference):
    from likeness.adapters.resampler import IDResampler, ResamplerSizes

    config = reference.metadata["config"]["resampler"]
    sizes = ResamplerSizes(
        intrinsic_dim=config["intrinsic_id_embedding_dim"],
        structure_dim=config["structure_embedding_dim"],
        **{name: config[name] for name in ("dim", "depth", "heads", "dim_head", "num_tokens", "output_dim", "ff_mult")},
    )
    resampler = IDResampler(sizes)
    resampler.load_state_dict(reference.weights("faceid_proj."))
    return resampler


def test_tokens_of_the_published_code(reference, published):
    maker = TokenMaker(resampler_of(reference), "local", torch.device("cpu"), published, None, None)
    cases = [case for case in reference.cases() if "images" in reference.metadata["cases"][case]]  # else: whole prompts
    assert len(cases) == 2
    for name in cases:
        case, expected = reference.metadata["cases"][name], reference.expected(name)
        crops = reference.inputs()["face_crops"][case["images"]].movedim(1, -1)
        identity = maker.identities([crops], case["face_structure_scale"])[0]
        assert (identity.tokens["cond"] - expected["tokens"][0]).abs().max() < TOLERANCE, name
        if "uncond_tokens" in expected:
            assert (identity.tokens["uncond"] - expected["uncond_tokens"][0]).abs().max() < TOLERANCE, name


def test_features_of_each_crop(encoders):
    crops = torch.randint(0, 256, (5, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = encoders.features(crops, batch=2)
    sizes = encoders.sizes
    assert features.intrinsic.shape == (5, 49, sizes.intrinsic) and (sizes.intrinsic, sizes.embedding) == (24, 20)
    assert features.structure.shape == (5, 256, sizes.structure) and sizes.structure == 8 + 12 + 16 + 32
    alone = encoders.features(crops[3:4])
    torch.testing.assert_close(features.intrinsic[3:4], alone.intrinsic)
    torch.testing.assert_close(features.structure[3:4], alone.structure)
    with pytest.raises(ValueError, match="face crops must be"):
        encoders.features(crops[:, :112])


def test_nobody_and_the_recognition_embedding(encoders):
    nobody = encoders.unconditional()
    assert nobody.intrinsic.shape == (1, 49, 24) and not nobody.intrinsic.any()
    assert not nobody.structure[..., :36].any() and nobody.structure[..., 36:].any()
    crops = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    maps = encoders.features(crops).intrinsic.transpose(1, 2).unflatten(-1, (7, 7))
    from likeness.adapters.features import clip_pixels, recognition_input

    pixels = recognition_input(clip_pixels(crops.movedim(-1, 1).float() / 255))
    torch.testing.assert_close(encoders.head()(maps), encoders.backbone.embed(pixels))


def test_files_are_told_apart(world, tmp_path):
    backbone, clip = world / "backbone.safetensors", world / "clip"
    load = lambda *paths: load_face_encoders(*paths, "cpu", torch.float32)  # noqa: E731
    with pytest.raises(ValueError, match="is a CLIP vision model; expected a CurricularFace"):
        load(clip / "model.safetensors", clip)
    with pytest.raises(ValueError, match="is a CurricularFace IR backbone; expected a CLIP vision model"):
        load(backbone, backbone)
    with pytest.raises(ValueError, match="does not fit its configuration"):  # a lone file must be the ViT-H
        load(backbone, clip / "model.safetensors")
    with pytest.raises(ValueError, match="config.json is missing"):
        load(backbone, tmp_path)
    shutil.copy(clip / "config.json", tmp_path)
    with pytest.raises(ValueError, match="holds no model.safetensors"):
        load(backbone, tmp_path)
    save_file(IRBackbone((8, 12, 16, 24), (1, 1, 1, 1), 20, input_size=64).state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="reads 64 px faces"):
        load(tmp_path / "small.safetensors", clip)


def test_the_fingerprint_follows_both_networks(world, encoders, tmp_path):
    again = load_face_encoders(world / "backbone.safetensors", world / "clip", "cpu", torch.bfloat16)
    assert again.fingerprint == encoders.fingerprint
    save_file(IRBackbone((8, 12, 16, 24), (1, 1, 1, 1), 20).state_dict(), tmp_path / "other.safetensors")
    other = load_face_encoders(tmp_path / "other.safetensors", world / "clip", "cpu", torch.float32)
    assert other.fingerprint != encoders.fingerprint
    assert again.features(torch.zeros(1, 224, 224, 3, dtype=torch.uint8)).structure.dtype == torch.bfloat16


def test_encoders_of_other_widths_do_not_go_with_an_adapter(encoders, make_training):
    resampler = make_training().adapter.resampler
    nobody = FaceFeatures(torch.zeros(1, 49, 8), torch.zeros(1, 256, 68))
    with pytest.raises(ValueError, match="give 8-wide intrinsic and 68-wide structure.*takes 24 and 68"):
        TokenMaker(resampler, "local", torch.device("cpu"), None, nobody, None)
    with pytest.raises(ValueError, match="the features of nobody are needed"):
        TokenMaker(resampler, "local", torch.device("cpu"), None, None, None)
