"""A small diffusers host for the adapters, and small files in the released layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from likeness.adapters.attention_layer import ScaledLoRA, Term, TokenTerm, cross_attention_layer, self_attention_layer
from likeness.adapters.flux_attention import FluxAttentionSizes
from likeness.adapters.id_encoder import IDEncoderSizes
from likeness.adapters.id_former import IDFormerSizes
from likeness.adapters.layers import AttentionLayer, sdxl_layers
from likeness.adapters.lora import AttentionLoRA, choose_lora
from likeness.adapters.projection import TokenProjection
from likeness.adapters.pulid import PuLID, PuLIDSizes
from likeness.adapters.regions import image_prompt_weights, region_weights
from likeness.adapters.resampler import ResamplerSizes
from likeness.adapters.routing import IDRouter, hard_routing
from likeness.adapters.sharing import Sharing
from likeness.adapters.uniportrait import UniPortrait, UniPortraitSizes, save_faceid, save_router
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SD15_BLOCKS = (0, 0, 1, 1, 2, 2, 3, 3, 3, 2, 2, 2, 1, 1, 1, 3)  # a different width for each level, as in the model


@dataclass(frozen=True)
class LayerAdapter:
    """What one attention layer has of the adapter; a self-attention layer has only the LoRA sets."""

    single: AttentionLoRA | None = None
    multi: AttentionLoRA | None = None
    identity: TokenProjection | None = None
    image: TokenProjection | None = None
    router: IDRouter | None = None


@dataclass(frozen=True)
class LayerRun:
    """A layer's output (B, n, C), and the router's logits (B, n, N) where it has something to decide."""

    output: Tensor
    logits: Tensor | None = None


def chosen_lora(adapter: LayerAdapter, options: Mapping[str, Any]) -> ScaledLoRA | None:
    name, scale = choose_lora(options.get("lora_scale", 0.0), options.get("multi_id_lora_scale", 0.0))
    return ScaledLoRA(getattr(adapter, name), scale) if name else None


def cross_layer(
    layer: Any,
    adapter: LayerAdapter,
    x: Tensor,
    inputs: Mapping[str, Tensor],
    options: Mapping[str, Any],
    size: tuple[int, int],
    reference_chunks: int = 2,
) -> LayerRun:
    """One cross-attention layer with the options and input names of the reference files."""
    identity = image_prompt = logits = None
    num_identities = options.get("num_faceids", 0)
    if num_identities:
        tokens = inputs["faceid_tokens"].unflatten(1, (num_identities, -1))
        weights = None
        if num_identities > 1:
            logits = adapter.router.logits(x, adapter.router.keys(tokens))
            weights = hard_routing(logits)
        if "faceid_mask" in inputs:
            weights = region_weights(inputs["faceid_mask"][0], size)
        identity = TokenTerm(adapter.identity(tokens), options.get("faceid_scale", 0.0), weights)
    if options.get("ip_scale", 0.0):
        mask = inputs.get("ip_mask")
        weights = None if mask is None else image_prompt_weights(mask[0, 0], size)
        image_prompt = TokenTerm(adapter.image(inputs["ip_tokens"][:, None]), options["ip_scale"], weights)
    chunks = reference_chunks if options.get("enable_share_attn") else None
    text = inputs["text_tokens"]
    output = cross_attention_layer(
        layer, x, text, chosen_lora(adapter, options), identity, image_prompt, reference_chunks=chunks
    )
    return LayerRun(output, logits)


def self_layer(layer: Any, adapter: LayerAdapter, x: Tensor, options: Mapping[str, Any]) -> Tensor:
    """One self-attention layer with the options of the reference files."""
    sharing = None
    if options.get("enable_share_attn"):
        sharing = Sharing(
            options.get("shared_score_shift", 0.0),
            options.get("shared_score_scale", 1.0),
            options.get("adain_queries_and_keys", False),
        )
    return self_attention_layer(layer, x, chosen_lora(adapter, options), sharing)


@pytest.fixture(scope="session")
def run_cross() -> Callable[..., LayerRun]:
    return cross_layer


@pytest.fixture(scope="session")
def run_self() -> Callable[..., Tensor]:
    return self_layer


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


@pytest.fixture(scope="session")
def layer_adapter() -> Callable[[Mapping[str, Tensor]], LayerAdapter]:
    """`layer_adapter(weights)`: the adapter of one layer from the keys of the published attention processor."""

    def lora(weights: Mapping[str, Tensor], infix: str) -> AttentionLoRA | None:
        state = {
            key.replace(f"_{infix}.", "."): value
            for key, value in weights.items()
            if key.split(".")[0] in {f"to_{name}_{infix}" for name in ("q", "k", "v", "out")}
        }
        if not state:
            return None
        hidden, rank = state["to_q.up.weight"].shape
        return filled(AttentionLoRA(hidden, state["to_k.down.weight"].shape[1], rank), state)

    def projection(weights: Mapping[str, Tensor], infix: str) -> TokenProjection | None:
        if f"to_k_{infix}.weight" not in weights:
            return None
        state = {f"to_{name}.weight": weights[f"to_{name}_{infix}.weight"] for name in ("k", "v")}
        return filled(TokenProjection(*state["to_k.weight"].shape), state)

    def router(weights: Mapping[str, Tensor]) -> IDRouter | None:
        state = {key: value for key, value in weights.items() if "_router." in key}
        if not state:
            return None
        hidden, context = state["to_q_router.0.weight"].shape[1], state["to_k_router.0.weight"].shape[1]
        return filled(IDRouter(hidden, context, state["aggr_router.weight"].shape[1]), state)

    def filled(module: nn.Module, state: Mapping[str, Tensor]) -> Any:
        module.load_state_dict(state)
        return module.requires_grad_(False)

    def build(weights: Mapping[str, Tensor]) -> LayerAdapter:
        return LayerAdapter(
            lora(weights, "lora"),
            lora(weights, "multi_id_lora"),
            projection(weights, "faceid"),
            projection(weights, "ip"),
            router(weights),
        )

    return build


@pytest.fixture(scope="session")
def of_layer() -> Callable[[UniPortrait, int], LayerAdapter]:
    """`of_layer(adapter, number)`: one layer's part of a loaded adapter."""

    def pick(adapter: UniPortrait, number: int) -> LayerAdapter:
        parts = (
            adapter.lora_single,
            adapter.lora_multi,
            adapter.projections,
            adapter.ip_projections,
            adapter.routers,
        )
        return LayerAdapter(*(part[str(number)] if part and str(number) in part else None for part in parts))

    return pick


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
