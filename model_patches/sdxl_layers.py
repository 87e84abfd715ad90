"""People as extra keys and values in the cross-attention layers of an SDXL model, whatever system adds them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.attention import AttentionFunction
from ..adapters.projection import KeysValues, with_zero_tokens
from ..adapters.routing import attention_shares
from .identity_patch import IdentityPatch
from .rows import kv_of_rows, weights_of_rows
from .sampling_run import ModelCall, Rows, call_of
from .slots import AttentionSlot, Patch, fill_slot, host_attention

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class SdxlPatch(IdentityPatch):
    """One Apply node's state on an SDXL model. Prepared for each layer: keys and values of each person, (1, m, C)."""

    @property
    def num_zero(self) -> int:
        """How many zero tokens share the attention with a person's own."""
        return 0

    @property
    def measures_text(self) -> bool:
        """True if `added` is to be given ComfyUI's own attention, whatever other packs made of it."""
        return False

    @abstractmethod
    def added(
        self,
        q: torch.Tensor,
        text_result: torch.Tensor,
        people: Sequence[KeysValues],
        weights: torch.Tensor | None,
        heads: int,
        attention: AttentionFunction,
    ) -> torch.Tensor:
        """What the people add to a layer's result before to_out: (B, n, C), before its factor.

        q and text_result (B, n, C); weights (B or 1, n, N), or None where one block of tokens counts everywhere.
        """

    @property
    def weights(self) -> ModelPatcher:
        return self.models.patchers["projections"]

    def prepare_half(
        self, tokens: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype
    ) -> dict[int, tuple[KeysValues, ...]]:
        joined = torch.cat(list(tokens))[None].to(device)  # one projection for all, however many tokens each has
        lengths = [len(each) for each in tokens]
        layers = {}
        for number, projection in self.weights.model.items():
            keys, values = (x.to(dtype).split(lengths, dim=1) for x in projection(joined))
            layers[int(number)] = tuple(
                with_zero_tokens(KeysValues(k, v), self.num_zero) for k, v in zip(keys, values, strict=True)
            )
        return layers

    def fill_slots(self, model: ModelPatcher) -> int:
        layers = [layer for layer in self.models.weights.sizes.layers if layer.is_cross]
        for layer in layers:
            fill_slot(model, layer, partial(SdxlSlot, self, layer.number), by_index=True)
        return len(layers)


class SdxlSlot(AttentionSlot):
    """Text attention as before, plus the people's term."""

    def __init__(self, patch: SdxlPatch, number: int, previous: Patch | None) -> None:
        super().__init__(previous)
        self.patch = patch
        self.number = number

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        call = call_of(self.patch, extra_options)
        out = self.underlying(q, k, v, extra_options)
        if call is None:
            return out
        call.reached.add(self.number)
        if call.scale == 0:
            return out
        text_result = out
        if self.patch.measures_text and self.before(extra_options) is not None:
            text_result = host_attention(extra_options)(q, k, v, extra_options["n_heads"])
        return torch.add(out, self._term(call, q, text_result, extra_options), alpha=call.scale)

    def _term(
        self, call: ModelCall, q: torch.Tensor, text_result: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        halves: dict[bool, tuple[KeysValues, ...]] = {
            rows.unconditional: call.prepared[rows.unconditional][self.number] for rows in call.rows
        }
        if not self.patch.regions.masked and _is_one_block(halves):
            kv = kv_of_rows(call, self.number, {half: people[0] for half, people in halves.items()})
            return self._of_rows(q, text_result, [kv], None, options)
        parts = []
        for rows in call.rows:
            people, those = halves[rows.unconditional], slice(rows.start, rows.stop)
            weights = self._weights(call, rows, people, q[those], options)
            parts.append(self._of_rows(q[those], text_result[those], people, weights, options))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _of_rows(
        self,
        q: torch.Tensor,
        text_result: torch.Tensor,
        people: Sequence[KeysValues],
        weights: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        return self.patch.added(q, text_result, people, weights, options["n_heads"], host_attention(options))

    def _weights(
        self, call: ModelCall, rows: Rows, people: Sequence[KeysValues], q: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor | None:
        """The people's weights in these rows (1 or rows, n, N), or None where one block of tokens counts everywhere."""

        def route(indices: list[int]) -> torch.Tensor:
            among = [people[index] for index in indices]
            return self.patch.routed(attention_shares(q, among, options["n_heads"], self.patch.num_zero))

        height, width = options["activations_shape"][-2:]
        as_one = len(people) == 1
        return weights_of_rows(call, rows, self.patch.regions, self.number, (height, width), q, as_one, route)


def _is_one_block(halves: Mapping[bool, Sequence[KeysValues]]) -> bool:
    """True if each half has one block of tokens, equally many in both: then one attention call serves all rows."""
    return all(len(people) == 1 for people in halves.values()) and (
        len({people[0].keys.shape for people in halves.values()}) == 1
    )
