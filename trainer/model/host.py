"""The diffusers host: attention processors that call the adapters' modules, and what they get for one model call.

Everything that belongs to a call travels through `cross_attention_kwargs`, so nothing is kept on modules or here.
Letters: B rows, N identities, m tokens of one, D their width, n = h·w positions and C width of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...adapters.attention import AttentionFunction, merge_heads, split_heads
from ...adapters.attention_layer import ScaledLoRA, TokenTerm, cross_attention_layer, self_attention_layer
from ...adapters.layers import SD15_LAYERS, AttentionLayer
from ...adapters.projection import KeysValues
from ...adapters.routing import hard_routing, soft_routing, straight_through_routing
from ...adapters.uniportrait import UniPortrait

LoraSet = Literal["lora_single", "lora_multi"]


@dataclass(frozen=True)
class GumbelRouting:
    """Routing in training: noise for each layer, temperature, and whether the forward pass is one-hot."""

    noise: Mapping[int, Tensor]  # layer -> (B, n, N)
    temperature: float = 1.0
    hard: bool = True


@dataclass(frozen=True)
class PreparedLayer:
    """One cross-attention layer's view of the identity tokens."""

    kv: KeysValues  # (B, N, m, C)
    router_keys: Tensor | None  # (B, N, 2C); None where there is nothing to route


@dataclass(frozen=True)
class IdentityCall:
    """What the attention layers get for one call of the U-Net; `logits` is where the routers leave theirs.

    Attributes:
        adapter: whose LoRA sets and routers are used.
        layers: by number; tokens as keys and values.
        valid: (B, N), False for padding; None: all are people.
        key_mask: (B, 1, 1, N·m) bool for people joined to one block, False for padding; else None.
        gumbel: None outside training: the best person gets the position.
    """

    adapter: UniPortrait
    lora: LoraSet
    layers: Mapping[int, PreparedLayer]
    valid: Tensor | None = None
    key_mask: Tensor | None = None
    gumbel: GumbelRouting | None = None
    id_scale: float = 1.0
    lora_scale: float = 1.0
    logits: dict[int, Tensor] = field(default_factory=dict)


class LayerProcessor:
    """What diffusers calls in place of its own attention in one layer. Without state, so adapters may share a U-Net."""

    def __init__(self, layer: AttentionLayer) -> None:
        self.number = layer.number
        self.key = str(layer.number)
        self.is_cross = layer.is_cross

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        call: IdentityCall | None = None,
    ) -> Tensor:
        """x (B, n, C) -> (B, n, C); the names are diffusers'. Without a call it is the plain layer."""
        assert attention_mask is None and temb is None, "SD 1.5 has neither in its attention layers"
        lora = None
        if call is not None and call.lora_scale > 0:
            lora = ScaledLoRA(getattr(call.adapter, call.lora)[self.key], call.lora_scale)
        with _adapters_dtype(hidden_states):
            if not self.is_cross:
                return self_attention_layer(attn, hidden_states, lora)
            term = None if call is None else self._identity_term(call, hidden_states)
            return cross_attention_layer(attn, hidden_states, encoder_hidden_states, lora, term)

    def _identity_term(self, call: IdentityCall, x: Tensor) -> TokenTerm:
        prepared = call.layers[self.number]
        if prepared.router_keys is None:
            return TokenTerm(prepared.kv, call.id_scale, attention=_attention_with(call.key_mask))
        assert call.adapter.routers is not None, "a call that routes comes from an adapter with routers"
        logits = call.adapter.routers[self.key].logits(x, prepared.router_keys)
        call.logits[self.number] = logits
        return TokenTerm(prepared.kv, call.id_scale, self._weights(call, logits))

    def _weights(self, call: IdentityCall, logits: Tensor) -> Tensor:
        gumbel = call.gumbel
        if gumbel is None:
            return hard_routing(logits, call.valid)
        noise = gumbel.noise[self.number]
        if gumbel.hard:
            return straight_through_routing(logits, gumbel.temperature, noise, valid=call.valid)
        return soft_routing((logits + noise) / gumbel.temperature, call.valid)


class DiffusersHost:
    """A U-Net with an adapter in its attention layers.

    Args:
        unet: diffusers' UNet2DConditionModel of SD 1.5's architecture. Its processors are replaced by ones without
            state, so that several hosts may share it.
        adapter: its modules are used, not copied.
    """

    def __init__(self, unet: Any, adapter: UniPortrait) -> None:
        self.unet = unet
        self.adapter = adapter
        unet.set_attn_processor({f"{layer.diffusers}.processor": LayerProcessor(layer) for layer in SD15_LAYERS})

    def prepare(
        self,
        tokens: Tensor,
        lora: LoraSet,
        valid: Tensor | None = None,
        gumbel: GumbelRouting | None = None,
        joined: bool = False,
        id_scale: float = 1.0,
        lora_scale: float = 1.0,
    ) -> IdentityCall:
        """What a call needs for identity tokens (B, N, m, D): keys and values of all layers, and router keys.

        With the single LoRA set there is one identity and nothing to route. joined makes all tokens of a row one block
        that counts everywhere, without routing.
        """
        key_mask = None
        if joined:
            if valid is not None:
                key_mask = valid.repeat_interleave(tokens.shape[2], dim=1)[:, None, None]
            tokens, valid = tokens.flatten(1, 2)[:, None], None
        routers = self.adapter.routers if lora == "lora_multi" and not joined else None
        layers = {}
        with _adapters_dtype(self.unet.conv_in.weight):
            for number, projection in self.adapter.projections.items():
                keys = None if routers is None else routers[number].keys(tokens)
                layers[int(number)] = PreparedLayer(projection(tokens), keys)
        return IdentityCall(self.adapter, lora, layers, valid, key_mask, gumbel, id_scale, lora_scale)

    def __call__(self, latents: Tensor, timesteps: Tensor, text: Tensor, call: IdentityCall | None = None) -> Tensor:
        """The prediction (B, c, h, w), float32, for latents (B, c, h, w), timesteps (B,) and text (B, t, D)."""
        dtype = self.unet.dtype
        kwargs = {} if call is None else {"call": call}
        with _unet_dtype(self.unet.conv_in.weight):
            predicted = self.unet(
                latents.to(dtype), timesteps, text.to(dtype), cross_attention_kwargs=kwargs, return_dict=False
            )[0]
        return predicted.float()


def _unet_dtype(weight: Tensor) -> Any:
    """A half-precision U-Net computes in its own type; autocast would give it float32 norms and casts for nothing."""
    return nullcontext() if weight.dtype == torch.float32 else torch.autocast(weight.device.type, enabled=False)


def _adapters_dtype(like: Tensor) -> Any:
    """The adapters keep float32 weights, which autocast casts where they meet a half-precision U-Net."""
    return nullcontext() if like.dtype == torch.float32 else torch.autocast(like.device.type, like.dtype)


def _attention_with(mask: Tensor | None) -> AttentionFunction | None:
    """Attention to the keys where mask (B, 1, 1, keys) is True; None without a mask."""
    if mask is None:
        return None

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        q, k, v = (split_heads(x, heads) for x in (q, k, v))
        return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))

    return attention
