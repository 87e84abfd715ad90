"""One attention layer of the UniPortrait reference files on a small host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from likeness.adapters.attention_layer import ScaledLoRA, TokenTerm, cross_attention_layer, self_attention_layer
from likeness.adapters.lora import AttentionLoRA, choose_lora
from likeness.adapters.projection import TokenProjection
from likeness.adapters.regions import image_prompt_weights, region_weights
from likeness.adapters.routing import IDRouter, hard_routing
from likeness.adapters.sharing import Sharing
from likeness.adapters.uniportrait import UniPortrait
from torch import Tensor, nn


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
