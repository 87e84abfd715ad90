"""A small diffusers host for the adapters, and small files in the released layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from likeness.adapters.attention_layer import Term, cross_attention_layer, self_attention_layer
from likeness.adapters.flux_attention import FluxAttentionSizes
from likeness.adapters.id_encoder import IDEncoderSizes
from likeness.adapters.id_former import IDFormerSizes
from likeness.adapters.layers import AttentionLayer, sdxl_layers
from likeness.adapters.projection import TokenProjection
from likeness.adapters.pulid import PuLID, PuLIDSizes
from likeness.adapters.resampler import ResamplerSizes
from likeness.adapters.uniportrait import UniPortrait, UniPortraitSizes, save_faceid, save_router
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SD15_BLOCKS = (0, 0, 1, 1, 2, 2, 3, 3, 3, 2, 2, 2, 1, 1, 1, 3)  # a different width for each level, as in the model


class PlainAttention(nn.Module):
    """The frozen attention layer of the reference files."""

    def __init__(self, hidden: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(hidden, hidden, bias=False)
        self.to_k = nn.Linear(context, hidden, bias=False)
        self.to_v = nn.Linear(context, hidden, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(hidden, hidden)])


@pytest.fixture(scope="session")
def plain_attention() -> type[PlainAttention]:
    return PlainAttention


class Processor:
    """What diffusers calls in place of its own attention; `terms` says what each layer adds, by number."""

    def __init__(self, layer: AttentionLayer, terms: Mapping[int, Term]) -> None:
        self.layer, self.terms = layer, terms

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:
        if not self.layer.is_cross:
            return self_attention_layer(attention, hidden_states)
        term = self.terms.get(self.layer.number)
        return cross_attention_layer(attention, hidden_states, encoder_hidden_states, None, term)


@pytest.fixture(scope="session")
def hosted() -> Callable[[Any, Sequence[AttentionLayer]], dict[int, Term]]:
    """`hosted(unet, layers)`: puts our layers into a diffusers U-Net; the terms to be filled, by layer number."""

    def install(unet: Any, layers: Sequence[AttentionLayer]) -> dict[int, Term]:
        terms: dict[int, Term] = {}
        unet.set_attn_processor({f"{layer.diffusers}.processor": Processor(layer, terms) for layer in layers})
        return terms

    return install


@pytest.fixture(scope="session")
def tiny_sizes() -> UniPortraitSizes:
    """Sizes of a complete adapter with a different width at each level and heads that are not 64 wide."""
    return UniPortraitSizes(
        hidden=tuple(8 * (level + 1) for level in SD15_BLOCKS for _ in range(2)),
        resampler=ResamplerSizes(
            intrinsic_dim=10,
            structure_dim=14,
            dim=12,
            depth=2,
            heads=3,
            dim_head=4,
            num_tokens=5,
            output_dim=20,
            ff_mult=2,
        ),
        rank=3,
        multi_rank=2,
        image_embed=9,
        image_tokens=4,
    )


@pytest.fixture
def tiny_adapter(tiny_sizes: UniPortraitSizes) -> UniPortrait:
    torch.manual_seed(0)
    return UniPortrait(tiny_sizes)


@dataclass(frozen=True)
class Files:
    faceid: Path
    router: Path
    image_prompt: Path


@pytest.fixture
def tiny_files(tiny_adapter: UniPortrait, tmp_path: Path) -> Files:
    """The three files of `tiny_adapter`, as .safetensors."""
    files = Files(tmp_path / "faceid.safetensors", tmp_path / "router.safetensors", tmp_path / "ip.safetensors")
    save_faceid(files.faceid, tiny_adapter)
    save_router(files.router, tiny_adapter)
    tensors = {f"image_proj.{key}": value for key, value in tiny_adapter.image_projection.state_dict().items()}
    for number, projection in tiny_adapter.ip_projections.items():
        tensors[f"ip_adapter.{number}.to_k_ip.weight"] = projection.to_k.weight.detach()
        tensors[f"ip_adapter.{number}.to_v_ip.weight"] = projection.to_v.weight.detach()
    save_file(tensors, files.image_prompt)
    return files


@pytest.fixture(scope="session")
def pulid_sizes() -> dict[str, PuLIDSizes]:
    """Sizes of a complete tiny adapter of each edition, with another width at each level."""
    hidden = tuple(8 * layer.level for layer in sdxl_layers(1, 2))
    former = IDFormerSizes(
        id_dim=14,
        vit_dim=10,
        embedding_hidden=(11, 9),
        mapping_hidden=(7, 13),
        dim=12,
        heads=3,
        dim_head=4,
        num_id_tokens=5,
        num_queries=6,
        output_dim=20,
        ff_mult=2,
    )
    return {
        "pulid-v1": PuLIDSizes("pulid-v1", IDEncoderSizes(14, 10, (11, 9), (7, 13), 5, 20), hidden),
        "pulid-v1.1": PuLIDSizes("pulid-v1.1", former, hidden),
        "pulid-flux": PuLIDSizes("pulid-flux", former, block=FluxAttentionSizes(24, 20, 3, 8), num_blocks=4),
    }


@pytest.fixture
def tiny_pulid(pulid_sizes: dict[str, PuLIDSizes]) -> Callable[[str], PuLID]:
    """`tiny_pulid(edition)`: an adapter with random weights."""

    def make(edition: str) -> PuLID:
        torch.manual_seed(0)
        return PuLID(pulid_sizes[edition]).requires_grad_(False)

    return make


@pytest.fixture
def layer() -> TokenProjection:
    """One layer's projection of tokens 6 wide, and three more inputs of an identity term there, in float64."""
    torch.manual_seed(0)
    return TokenProjection(12, 6).double().requires_grad_(False)


@pytest.fixture
def q() -> Tensor:
    return torch.randn(2, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def text_result() -> Tensor:
    return torch.randn(2, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def weights() -> Tensor:
    return torch.rand(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def edited() -> Callable[..., Path]:
    """`edited(path, edit, metadata)`: a copy of a .safetensors file after edit(tensors)."""

    def copy(path: Path, edit: Callable[[dict[str, Tensor]], Any], metadata: Mapping[str, str] | None) -> Path:
        tensors = load_file(path)
        edit(tensors)
        save_file(tensors, path.with_name("edited.safetensors"), metadata)
        return path.with_name("edited.safetensors")

    return copy


@pytest.fixture(scope="session")
def assert_same_weights() -> Callable[..., None]:
    """`assert_same_weights(actual, expected, dtype)`: equal keys and values, as far as the dtype can tell them."""

    def check(actual: nn.Module, expected: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        left, right = actual.state_dict(), expected.state_dict()
        assert set(left) == set(right)
        for key, value in left.items():
            assert value.dtype == dtype
            assert torch.equal(value.float(), right[key].to(dtype).float()), key

    return check
