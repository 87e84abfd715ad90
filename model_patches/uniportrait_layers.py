"""What UniPortrait does in one attention layer of ComfyUI's UNet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.projection import KeysValues, identity_attention
from ..adapters.regions import image_prompt_weights
from ..adapters.routing import IDRouter, hard_routing
from ..adapters.sharing import shared_self_attention, without_reference_rows
from .lora import LayerLoRA, layer_input
from .rows import kv_of_rows, weights_of_rows
from .sampling_run import ModelCall, Rows, call_of
from .slots import AttentionSlot, host_attention

if TYPE_CHECKING:
    from .uniportrait import ImagePrompt, UniPortraitPatch


@dataclass(frozen=True)
class PreparedTokens:
    """One layer's view of the identity tokens of one guidance half, computed once per run.

    When all identities have equal tokens (the negative half, normally) `kv` holds them once and `router_keys` is None.
    """

    kv: KeysValues
    router_keys: torch.Tensor | None


@dataclass(frozen=True)
class PreparedLayer:
    """Tokens of one cross-attention layer, each for the (positive, negative) half; None where there are none."""

    identity: tuple[PreparedTokens, PreparedTokens] | None
    image: tuple[KeysValues, KeysValues] | None


class UniPortraitSlot(AttentionSlot, ABC):
    """A slot that works inside its patch's window, with the windowed LoRA around it if there is one."""

    def __init__(
        self,
        previous: Callable[..., torch.Tensor] | None,
        patch: UniPortraitPatch,
        number: int,
        lora: LayerLoRA | None,
    ) -> None:
        super().__init__(previous)
        self.patch = patch
        self.number = number
        self.lora = lora

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        call = call_of(self.patch, extra_options)
        if call is None:
            return self.underlying(q, k, v, extra_options)
        call.reached.add(self.number)
        if self.lora is not None:
            q, k, v = self.lora.on_inputs(q, k, v, extra_options)
        out = self.attend_in_window(call, q, k, v, extra_options)
        if self.lora is not None:
            self.lora.remember_output(out, extra_options)
        return out

    @abstractmethod
    def attend_in_window(
        self, call: ModelCall, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        """The layer's attention with this patch at work: (B, n, C) before to_out."""


class SelfAttentionSlot(UniPortraitSlot):
    """Self-attention of a style run, which also sees the reference picture (spec 7.4), or with a windowed LoRA."""

    def attend_in_window(
        self, call: ModelCall, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        sharing = self.patch.settings.sharing
        if sharing is None:
            return self.underlying(q, k, v, options)
        return shared_self_attention(q, k, v, options["n_heads"], sharing, q.shape[0] // call.rows_per_chunk)


class CrossAttentionSlot(UniPortraitSlot):
    """Text attention as before, plus the identity and image-prompt terms (spec 5.3)."""

    def __init__(
        self,
        previous: Callable[..., torch.Tensor] | None,
        patch: UniPortraitPatch,
        number: int,
        lora: LayerLoRA | None,
        router: IDRouter | None,
    ) -> None:
        super().__init__(previous, patch, number, lora)
        self.router = router

    def attend_in_window(
        self, call: ModelCall, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        out = self.underlying(q, k, v, options)
        settings, prepared = self.patch.settings, call.prepared[self.number]
        if self.patch.draws:
            out = torch.add(out, self._identity_term(call, prepared.identity, q, options), alpha=call.scale)
        prompt = settings.image_prompt
        if prompt is not None and prompt.scale > 0:
            out = torch.add(out, self._image_term(call, prepared.image, prompt, q, options), alpha=prompt.scale)
        return out

    def _identity_term(
        self, call: ModelCall, halves: tuple[PreparedTokens, PreparedTokens], q: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        attention, heads = host_attention(options), options["n_heads"]
        if not self.patch.regions.masked and all(half.kv.keys.shape[1] == 1 for half in halves):
            kv = kv_of_rows(call, ("identity", self.number), {False: halves[0].kv, True: halves[1].kv})
            return self._without_reference(call, identity_attention(q, kv, None, heads, attention))
        parts = []
        for rows in call.rows:
            tokens = halves[rows.unconditional]
            weights = self._weights(call, rows, tokens, q, options)
            parts.append(identity_attention(q[rows.start : rows.stop], tokens.kv, weights, heads, attention))
        return self._without_reference(call, parts[0] if len(parts) == 1 else torch.cat(parts))

    def _image_term(
        self,
        call: ModelCall,
        halves: tuple[KeysValues, KeysValues],
        prompt: ImagePrompt,
        q: torch.Tensor,
        options: dict[str, Any],
    ) -> torch.Tensor:
        weights, mask = None, prompt.mask
        if mask is not None:
            size = tuple(options["activations_shape"][-2:])
            key = ("image mask", size, q.device, q.dtype)
            weights = call.run.cached(key, lambda: image_prompt_weights(mask, size).to(q))
        kv = kv_of_rows(call, ("image", self.number), {False: halves[0], True: halves[1]})
        term = identity_attention(q, kv, weights, options["n_heads"], host_attention(options))
        return self._without_reference(call, term)

    def _weights(
        self, call: ModelCall, rows: Rows, tokens: PreparedTokens, q: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor | None:
        """Identity weights of these rows (1 or rows, n, N), or None where one block of tokens counts everywhere."""
        size = tuple(options["activations_shape"][-2:])

        def route(indices: list[int]) -> torch.Tensor:
            router, keys = self.router, tokens.router_keys
            assert router is not None and keys is not None
            keys = keys if len(indices) == keys.shape[1] else keys[:, indices]
            return hard_routing(router.logits(layer_input(options)[rows.start : rows.stop], keys))

        as_one = tokens.kv.keys.shape[1] == 1
        return weights_of_rows(call, rows, self.patch.regions, self.number, size, q, as_one, route)

    def _without_reference(self, call: ModelCall, term: torch.Tensor) -> torch.Tensor:
        if self.patch.settings.sharing is None:
            return term
        return without_reference_rows(term, term.shape[0] // call.rows_per_chunk)
