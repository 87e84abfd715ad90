"""What UniPortrait does in one attention layer of ComfyUI's UNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.projection import KeysValues, identity_attention
from ..adapters.regions import image_prompt_weights
from ..adapters.routing import IDRouter, hard_routing
from ..adapters.sharing import shared_self_attention, without_reference_rows
from .lora import LayerLoRA, layer_input
from .routing_maps import LayerWeights
from .sampling_run import ModelCall, Rows, call_of
from .slots import AttentionSlot, host_attention

if TYPE_CHECKING:
    from .uniportrait import UniPortraitPatch


@dataclass(frozen=True)
class PreparedTokens:
    """One layer's view of the identity tokens of one guidance half, computed once per run.

    When all identities have equal tokens (the negative half, normally) `kv` holds them once and `router_keys` is None.
    """

    kv: KeysValues
    router_keys: torch.Tensor | None


@dataclass(frozen=True)
class PreparedLayer:
    """Both halves of one cross-attention layer; image prompt None where there is none."""

    positive: PreparedTokens
    negative: PreparedTokens
    positive_image: KeysValues | None
    negative_image: KeysValues | None


class CrossAttentionSlot(AttentionSlot):
    """Text attention as before, plus the identity and image-prompt terms (spec 5.3)."""

    def __init__(
        self,
        previous: Callable[..., torch.Tensor] | None,
        patch: UniPortraitPatch,
        number: int,
        router: IDRouter | None,
        lora: LayerLoRA | None,
    ) -> None:
        super().__init__(previous)
        self.patch = patch
        self.number = number
        self.router = router
        self.lora = lora

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        call = call_of(self.patch, extra_options)
        if call is None:
            return super().attend(q, k, v, extra_options)
        if self.lora is not None:
            q, k, v = self.lora.on_inputs(q, k, v, extra_options)
        out = super().attend(q, k, v, extra_options)
        settings = self.patch.settings
        if settings.id_scale > 0:
            out = torch.add(out, self._identity_term(call, q, extra_options), alpha=settings.id_scale)
        if settings.image_prompt is not None and settings.image_prompt.scale > 0:
            out = torch.add(out, self._image_term(call, q, extra_options), alpha=settings.image_prompt.scale)
        if self.lora is not None:
            self.lora.remember_output(out, extra_options)
        return out

    def _identity_term(self, call: ModelCall, q: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        attention, heads = host_attention(options), options["n_heads"]
        prepared: PreparedLayer = call.prepared[self.number]
        if self.patch.one_block_everywhere(prepared):
            halves = (prepared.negative.kv, prepared.positive.kv)
            return self._joined(
                call, [identity_attention(q, self._kv_of_rows(call, "id", *halves), None, heads, attention)]
            )
        parts = []
        for rows in call.rows:
            tokens = prepared.negative if rows.unconditional else prepared.positive
            weights = self._weights(call, rows, tokens, q, options)
            parts.append(identity_attention(q[rows.start : rows.stop], tokens.kv, weights, heads, attention))
        return self._joined(call, parts)

    def _kv_of_rows(self, call: ModelCall, kind: str, negative: KeysValues, positive: KeysValues) -> KeysValues:
        """Each batch row's own single block, so that one attention call serves both halves: (B, 1, m, C)."""

        def arrange() -> KeysValues:
            return KeysValues(
                *(
                    torch.cat(
                        [half[rows.unconditional].expand(rows.stop - rows.start, -1, -1, -1) for rows in call.rows]
                    )
                    for half in zip(positive, negative, strict=True)
                )
            )

        return call.run.cached((kind, self.number, call.rows, positive.keys.device), arrange)

    def _weights(
        self, call: ModelCall, rows: Rows, tokens: PreparedTokens, q: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor | None:
        """Identity weights of these rows (1 or rows, n, N), or None where one block of tokens counts everywhere."""
        regions = self.patch.regions
        size = tuple(options["activations_shape"][-2:])
        key = (size, rows.area, q.device, q.dtype)
        if tokens.kv.keys.shape[1] == 1:
            return call.run.cached(("coverage", *key), lambda: regions.coverage(size, call.latent_size, rows.area, q))
        router_keys = tokens.router_keys
        if router_keys is None:  # a mask for everyone: nothing depends on the step
            weights = call.run.cached(
                ("regions", *key), lambda: regions.weights(size, call.latent_size, rows.area, q, _no_router)
            )
        else:
            router, x = self.router, layer_input(options)[rows.start : rows.stop]
            assert router is not None

            def route(indices: list[int]) -> torch.Tensor:
                keys = router_keys if len(indices) == router_keys.shape[1] else router_keys[:, indices]
                return hard_routing(router.logits(x, keys))

            weights = regions.weights(size, call.latent_size, rows.area, q, route)
        if not rows.unconditional and rows.area is None:
            call.routing.setdefault(self.number, LayerWeights(weights, size))
        return weights

    def _image_term(self, call: ModelCall, q: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        attention, heads = host_attention(options), options["n_heads"]
        prepared: PreparedLayer = call.prepared[self.number]
        prompt = self.patch.settings.image_prompt
        assert prompt is not None and prepared.positive_image is not None and prepared.negative_image is not None
        weights, mask = None, prompt.mask
        if mask is not None:
            size = tuple(options["activations_shape"][-2:])
            weights = call.run.cached(
                ("image prompt", size, q.device, q.dtype), lambda: image_prompt_weights(mask, size).to(q)
            )
        kv = self._kv_of_rows(call, "image", prepared.negative_image, prepared.positive_image)
        return self._joined(call, [identity_attention(q, kv, weights, heads, attention)])

    def _joined(self, call: ModelCall, parts: list[torch.Tensor]) -> torch.Tensor:
        term = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.patch.settings.sharing is None:
            return term
        return without_reference_rows(term, term.shape[0] // call.rows_per_chunk)


class SelfAttentionSlot(AttentionSlot):
    """Self-attention of a style run, which also sees the reference picture (spec 7.4), or with a windowed LoRA."""

    def __init__(
        self, previous: Callable[..., torch.Tensor] | None, patch: UniPortraitPatch, lora: LayerLoRA | None
    ) -> None:
        super().__init__(previous)
        self.patch = patch
        self.lora = lora

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        call = call_of(self.patch, extra_options)
        if call is None:
            return super().attend(q, k, v, extra_options)
        if self.lora is not None:
            q, k, v = self.lora.on_inputs(q, k, v, extra_options)
        sharing = self.patch.settings.sharing
        if sharing is None:
            out = super().attend(q, k, v, extra_options)
        else:
            num_chunks = q.shape[0] // call.rows_per_chunk
            out = shared_self_attention(q, k, v, extra_options["n_heads"], sharing, num_chunks)
        if self.lora is not None:
            self.lora.remember_output(out, extra_options)
        return out


def _no_router(_: list[int]) -> torch.Tensor:
    raise AssertionError("masks for everyone leave nothing to route")
