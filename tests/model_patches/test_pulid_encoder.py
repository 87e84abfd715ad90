"""From portraits to an identity, with real networks of tiny size and ComfyUI's own memory manager."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from likeness.adapters.id_encoder import IDEncoderSizes
from likeness.adapters.id_former import IDFormerSizes
from likeness.adapters.identity import mix_identities
from likeness.adapters.layers import sdxl_layers
from likeness.adapters.pulid import PuLID, PuLIDSizes
from likeness.adapters.references import id_condition, person_tokens
from likeness.faces.arcface import ArcFace
from likeness.faces.bisenet import BiSeNet, BiSeNetSizes
from likeness.faces.eva_clip import EvaClip
from likeness.faces.parsing import FaceParser
from likeness.faces.portraits import Portrait

EMBEDDING = 12  # of the tests' recogniser
PARSER = BiSeNetSizes(stem=4, stages=(4, 6, 6, 8), context=6, fusion=6, bottleneck=2, head=5)


@dataclass(frozen=True)
class Networks:
    tower: Any
    parser: Any
    recogniser: ArcFace


@pytest.fixture(scope="module")
def networks(golden: Any, recogniser_model: Callable[..., bytes]) -> Networks:
    """The published tower's tiny twin, and a parser and a recogniser as small."""
    from likeness.model_patches.managed import managed_whole

    torch.manual_seed(3)
    file = golden("pulid", "07_eva_clip_tiny")
    tower = EvaClip.from_state_dict(file.weights(), head_width=file.metadata["config"]["vision_cfg"]["head_width"])
    parser = FaceParser.from_state_dict(BiSeNet(PARSER).state_dict())
    return Networks(managed_whole(tower), managed_whole(parser), ArcFace(recogniser_model(), "test.onnx"))


def tiny_pulid(edition: str, vit_dim: int = 32, embedding: int = EMBEDDING) -> PuLID:
    import comfy.ops

    sizes: Any = IDFormerSizes(embedding + 24, vit_dim, (11, 9), (7, 13), 12, 3, 4, 5, 6, 20, 2)
    if edition == "pulid-v1":
        sizes = IDEncoderSizes(embedding + 24, vit_dim, (11, 9), (7, 13), 5, 20)
    hidden = tuple(8 * layer.level for layer in sdxl_layers(1, 1))
    adapter = PuLID(PuLIDSizes(edition, sizes, hidden), operations=comfy.ops.manual_cast)
    generator = torch.Generator().manual_seed(5)
    for key, value in adapter.state_dict().items():
        scale = 1.0 if value.ndim == 1 else value[0].numel() ** -0.5
        value.copy_(torch.randn(value.shape, generator=generator) * scale)
        assert torch.isfinite(value).all(), key
    return adapter


@pytest.fixture(scope="module")
def encoder_of(networks: Networks) -> Callable[..., Any]:
    """`encoder_of(edition)`: an encoder on the shared face networks."""
    from likeness.model_patches.pulid_encoder import PulidEncoder

    def make(edition: str = "pulid-v1.1", **sizes: int) -> Any:
        return PulidEncoder(tiny_pulid(edition, **sizes), networks.tower, networks.parser, networks.recogniser)

    return make


def portraits(count: int, seed: int = 0) -> list[Portrait]:
    """Smooth pictures, so that the parser sees areas."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        crop = np.kron(generator.integers(0, 256, (8, 8, 3)), np.ones((64, 64, 1))).astype(np.uint8)
        made.append(Portrait(crop, generator.integers(0, 256, (112, 112, 3), np.uint8)))
    return made


def test_an_identity_is_what_the_networks_give_one_after_the_other(encoder_of: Any, networks: Networks) -> None:
    encoder, photos = encoder_of("pulid-v1.1"), portraits(3)
    seen = encoder.see(photos)
    identity = encoder.encode(seen, "Anna")
    pixels = torch.from_numpy(np.stack([photo.crop for photo in photos])).movedim(-1, 1) / 255
    composites = networks.parser.model.composite(pixels)
    features = networks.tower.model.see(composites, antialias=True)
    embeddings = torch.from_numpy(networks.recogniser.embed(np.stack([photo.recognition for photo in photos])))
    condition = id_condition(embeddings, features.projected)
    expected = person_tokens(encoder.weights.encoder, condition, features.hidden)
    for half in ("cond", "uncond"):
        torch.testing.assert_close(identity.tokens[half], expected[half], rtol=1e-4, atol=1e-5)
    assert (identity.system, identity.adapter, identity.label) == ("pulid-v1.1", encoder.weights.fingerprint, "Anna")
    torch.testing.assert_close(seen.composites, composites.movedim(1, -1))
    assert (seen.composites[..., 0] == seen.composites[..., 1]).all()


@pytest.mark.parametrize(
    ("edition", "joining", "num"),
    [
        ("pulid-v1", "published", 20),
        ("pulid-v1", "all tokens", 30),
        ("pulid-v1", "mean", 10),
        ("pulid-v1.1", "mean", 6),
    ],
)
def test_photos_are_joined_as_the_edition_says(encoder_of: Any, edition: str, joining: str, num: int) -> None:
    encoder = encoder_of(edition)
    tokens = encoder.encode(encoder.see(portraits(3)), joining=joining).tokens
    assert tokens["cond"].shape == tokens["uncond"].shape == (num, 20)


def test_shrinking_is_as_each_edition_was_published(encoder_of: Any) -> None:
    photos = portraits(1)
    for edition, published in (("pulid-v1", False), ("pulid-v1.1", True)):
        encoder = encoder_of(edition)
        default, with_it, without = (encoder.see(photos, antialias).projected for antialias in (None, True, False))
        assert torch.equal(default, with_it if published else without)
        assert not torch.equal(with_it, without)


def test_many_photos_are_seen_in_parts(encoder_of: Any) -> None:
    encoder, photos = encoder_of(), portraits(6)
    together, alone = encoder.see(photos), encoder.see(photos[5:])
    assert together.embeddings.shape == (6, EMBEDDING) and together.hidden[0].shape == (6, 17, 32)
    torch.testing.assert_close(together.hidden[4][5:], alone.hidden[4], rtol=1e-4, atol=1e-4)
    assert torch.equal(together.composites[5:], alone.composites)


def test_noise_reaches_nobody(encoder_of: Any) -> None:
    encoder = encoder_of()
    seen = encoder.see(portraits(1))
    quiet, loud = encoder.encode(seen), encoder.encode(seen, noise=0.5, seed=3)
    assert torch.equal(quiet.tokens["cond"], loud.tokens["cond"])
    assert not torch.equal(quiet.tokens["uncond"], loud.tokens["uncond"])


def test_identities_of_one_adapter_mix(encoder_of: Any) -> None:
    encoder = encoder_of()
    anna, ben = (encoder.encode(encoder.see(portraits(1, seed)), name) for seed, name in enumerate(("Anna", "Ben")))
    half = mix_identities(anna, [(ben, 0.5)])
    torch.testing.assert_close(half.tokens["cond"], (anna.tokens["cond"] + ben.tokens["cond"]) / 2)


def test_twenty_references_in_a_row_leave_nothing_behind(encoder_of: Any) -> None:
    """Bytes of all tensors, and ComfyUI's list of loaded models, after the second and after the last."""
    import comfy.model_management

    encoder, counts = encoder_of(), []
    for number in range(20):
        encoder.encode(encoder.see(portraits(2, seed=number)))
        gc.collect()
        alive = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for tensor in gc.get_objects()
            if issubclass(type(tensor), torch.Tensor) and not tensor.is_meta
        }
        counts.append((sum(alive.values()), len(comfy.model_management.current_loaded_models)))
    assert abs(counts[-1][0] - counts[1][0]) < 10_000
    assert counts[-1][1] == counts[1][1]


def test_an_interrupt_is_obeyed_between_photos(encoder_of: Any, networks: Networks) -> None:
    import comfy.model_management

    encoder, seen = encoder_of(), []

    class Interrupting:
        name = "interrupting"

        def embed(self, crops: np.ndarray) -> np.ndarray:
            comfy.model_management.interrupt_current_processing()
            seen.append(len(crops))
            return networks.recogniser.embed(crops)

    encoder.recogniser = Interrupting()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        encoder.see(portraits(9))
    assert seen == [4]


def test_face_networks_are_loaded_whole_whatever_memory_there_is(networks: Networks) -> None:
    """Their layers are not ComfyUI's, so that a part left behind would stay on another device than its input."""
    import comfy.model_management

    networks.tower.detach()
    loaded = networks.tower.partially_load(networks.tower.load_device, extra_memory=0.1)
    assert loaded == networks.tower.model_size() and not networks.tower.model.model_lowvram
    record = comfy.model_management.LoadedModel(networks.tower)
    record.model_load()
    assert record.model_unload(memory_to_free=1000) and networks.tower.loaded_size() == 0


def test_a_tower_of_another_width_is_named(encoder_of: Any) -> None:
    with pytest.raises(ValueError, match="gives 32-wide features .* 24 numbers, while pulid-v1.1 .* features 48 wide"):
        encoder_of(vit_dim=48)


def test_a_recogniser_of_another_length_is_named(encoder_of: Any) -> None:
    encoder = encoder_of(embedding=16)
    with pytest.raises(ValueError, match=r"test.onnx gives 12 numbers .* trained with 16. Use glintr100.onnx"):
        encoder.see(portraits(1))
