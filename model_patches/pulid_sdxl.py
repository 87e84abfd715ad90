"""PuLID in the cross-attention layers of an SDXL model (docs/pulid.md, 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.projection import KeysValues
from ..adapters.pulid_attention import attention_shares, pulid_attention, with_zero_tokens
from .pulid_patch import PulidPatch
from .rows import kv_of_rows, weights_of_rows
from .sampling_run import ModelCall, Rows, call_of
from .slots import AttentionSlot, Patch, fill_slot, host_attention

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class SdxlPatch(PulidPatch):
    """One Apply node's state on an SDXL model. Prepared for each layer: keys and values of each person, (1, m, C)."""

    @property
    def weights(self) -> ModelPatcher:
        return self.models.patchers["projections"]

    @property
    def merges(self) -> bool:
        # In the ortho forms each person has a projection of their own, taken where their mask is.
        return self.settings.injection.form == "plain" or not self.regions.masked

    def prepare_half(
        self, tokens: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype
    ) -> dict[int, tuple[KeysValues, ...]]:
        joined = torch.cat(list(tokens))[None].to(device)  # one projection for all, however many tokens each has
        lengths = [len(each) for each in tokens]
        projections, num_zero = self.models.weights.projections, self.settings.injection.num_zero
        assert projections is not None
        layers = {}
        for number, projection in projections.items():
            keys, values = (x.to(dtype).split(lengths, dim=1) for x in projection(joined))
            layers[int(number)] = tuple(
                with_zero_tokens(KeysValues(k, v), num_zero) for k, v in zip(keys, values, strict=True)
            )
        return layers

    def fill_slots(self, model: ModelPatcher) -> int:
        layers = [layer for layer in self.models.weights.sizes.layers if layer.is_cross]
        for layer in layers:
            fill_slot(model, layer, partial(PulidAttentionSlot, self, layer.number), by_index=True)
        return len(layers)


class PulidAttentionSlot(AttentionSlot):
    """Text attention as before, plus the identity term; O of the formulas is what the slot would give without us."""

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
        return torch.add(out, self._term(call, q, out, extra_options), alpha=self.patch.settings.injection.scale)

    def _term(
        self, call: ModelCall, q: torch.Tensor, text_result: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor:
        halves: dict[bool, tuple[KeysValues, ...]] = {
            rows.unconditional: call.prepared[rows.unconditional][self.number] for rows in call.rows
        }
        if not self.patch.regions.masked and _is_one_block(halves):
            kv = kv_of_rows(call, self.number, {half: people[0] for half, people in halves.items()})
            return self._attended(q, text_result, [kv], None, options)
        parts = []
        for rows in call.rows:
            people, those = halves[rows.unconditional], slice(rows.start, rows.stop)
            weights = self._weights(call, rows, people, q[those], options)
            parts.append(self._attended(q[those], text_result[those], people, weights, options))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attended(
        self,
        q: torch.Tensor,
        text_result: torch.Tensor,
        people: Sequence[KeysValues],
        weights: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        form, attention = self.patch.settings.injection.form, host_attention(options)
        return pulid_attention(q, text_result, people, weights, options["n_heads"], form, attention)

    def _weights(
        self, call: ModelCall, rows: Rows, people: Sequence[KeysValues], q: torch.Tensor, options: dict[str, Any]
    ) -> torch.Tensor | None:
        """The people's weights in these rows (1 or rows, n, N), or None where one block of tokens counts everywhere."""

        def route(indices: list[int]) -> torch.Tensor:
            among = [people[index] for index in indices]
            num_zero = self.patch.settings.injection.num_zero
            return self.patch.routed(attention_shares(q, among, options["n_heads"], num_zero))

        height, width = options["activations_shape"][-2:]
        as_one = len(people) == 1
        return weights_of_rows(call, rows, self.patch.regions, self.number, (height, width), q, as_one, route)


def _is_one_block(halves: Mapping[bool, Sequence[KeysValues]]) -> bool:
    """True if each half has one block of tokens, equally many in both: then one attention call serves all rows."""
    return all(len(people) == 1 for people in halves.values()) and (
        len({people[0].keys.shape for people in halves.values()}) == 1
    )
