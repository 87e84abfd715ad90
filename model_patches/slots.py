"""Replace slots of a ModelPatcher: what was there is called, and what comes later can wrap us or add to us."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import CallbacksMP

from ..adapters.attention import AttentionFunction
from ..adapters.layers import AttentionLayer, FluxPlace
from .sampling_run import SIGMA_KEY, SLOTS_KEY

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

CLONE_KEY = "likeness"
Patch = Callable[..., Any]


def host_attention(options: dict[str, Any]) -> AttentionFunction:
    """ComfyUI's selected attention with this layer's precision, overrides of other packs included."""

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
        precision = options.get("attn_precision")
        return optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=options)

    return attention


class Slot:
    """What every replace slot of ours does for the patch that was there before.

    ComfyUI asks patch objects for `to`, `models` and `cleanup`; a wrapped patch must still be reached.
    """

    def __init__(self, previous: Patch | None) -> None:
        self.previous = previous

    def to(self, device_or_dtype: Any) -> Slot:
        if self.previous is not None and hasattr(self.previous, "to"):
            self.previous = self.previous.to(device_or_dtype)
        return self

    def models(self) -> list[ModelPatcher]:
        return self.previous.models() if self.previous is not None and hasattr(self.previous, "models") else []

    def cleanup(self) -> None:
        if self.previous is not None and hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


class AttentionSlot(Slot):
    """One attention slot: `slot(q, k, v, extra_options)` -> (B, n, C) before to_out, as ComfyUI calls it.

    Subclasses override `attend`. Other packs look for `add(callback, **kwargs)` on whatever sits in the slot and count
    on `callback(out, q, k, v, extra_options, **kwargs)` being added between `sigma_end` and `sigma_start`. ComfyUI's
    clones share patch objects, so each clone of the model gets its own copies (`_copy_slots`): an `add` never leaks.
    """

    def __init__(self, previous: Patch | None) -> None:
        super().__init__(previous)
        self.hides: tuple[str, tuple[str, int]] | None = None  # kind and key of a slot that ours comes before
        self._added: tuple[tuple[Callable[..., torch.Tensor], dict[str, Any]], ...] = ()

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]
    ) -> torch.Tensor:
        out = self.attend(q, k, v, extra_options)
        for callback, kwargs in self._added:
            if self._is_due(kwargs, extra_options):
                out = out + callback(out, q, k, v, extra_options, **kwargs)
        return out

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
        """This slot's attention: (B, n, C)."""
        return self.underlying(q, k, v, extra_options)

    def underlying(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]
    ) -> torch.Tensor:
        """What ComfyUI, or the patch that was here before, would compute."""
        before = self.before(extra_options)
        if before is not None:
            return before(q, k, v, extra_options)
        return host_attention(extra_options)(q, k, v, extra_options["n_heads"])

    def before(self, extra_options: dict[str, Any]) -> Patch | None:
        """The patch that works where ours comes in; None where that is ComfyUI's own attention."""
        if self.hides is None:
            return self.previous
        kind, key = self.hides  # asked now: it may have been filled, or filled anew, after ours
        return extra_options.get(SLOTS_KEY, {}).get(kind, {}).get(key, self.previous)

    def add(self, callback: Callable[..., torch.Tensor], **kwargs: Any) -> None:
        """Let another pack add to this slot's output."""
        self._added = (*self._added, (callback, kwargs))

    @staticmethod
    def _is_due(kwargs: dict[str, Any], extra_options: dict[str, Any]) -> bool:
        if "sigma_start" not in kwargs or "sigma_end" not in kwargs:
            return True
        sigma = extra_options.get(SIGMA_KEY)
        return sigma is None or kwargs["sigma_end"] <= sigma <= kwargs["sigma_start"]


class BlockSlot(Slot, ABC):
    """One block of a transformer: `slot(args, extra)` -> {"img": ..., "txt": ...}, as ComfyUI calls it.

    args holds the block's inputs, extra ComfyUI's own block under "original_block".
    """

    @abstractmethod
    def __call__(self, args: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """The block's outputs."""

    def underlying(self, args: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """What ComfyUI, or the patch that was here before, would compute."""
        if self.previous is not None:
            return self.previous(args, extra)
        return extra["original_block"](args)


def fill_slot(
    model: ModelPatcher, layer: AttentionLayer, make: Callable[[Patch | None], AttentionSlot], by_index: bool = False
) -> None:
    """Put `make(previous)` into the slot of this layer.

    ComfyUI looks for a slot under (block, number, index of the transformer in that block), then under (block, number).
    The short key is what packs use and look up for SD 1.5, whose blocks hold one transformer each; for SDXL they use
    the long one (`by_index`). Ours there would hide a patch under the short key, whether it came before or comes later,
    so that ours calls it.
    """
    slots = model.model_options["transformer_options"].get("patches_replace", {}).get(layer.kind, {})
    short = (layer.block, layer.block_id)
    long = (*short, layer.index)
    key = long if by_index or long in slots else short
    patch = make(slots.get(key))
    patch.hides = (layer.kind, short) if key == long and long not in slots else None
    model.set_model_patch_replace(patch, layer.kind, *key)
    _own_slots(model)


def fill_block(model: ModelPatcher, place: FluxPlace, make: Callable[[Patch | None], BlockSlot]) -> None:
    """Put `make(previous)` into the slot of this block of FLUX."""
    slots = model.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
    model.set_model_patch_replace(make(slots.get((place.kind, place.index))), "dit", place.kind, place.index)


def _own_slots(model: ModelPatcher) -> None:
    if not model.get_callbacks(CallbacksMP.ON_CLONE, CLONE_KEY):
        model.add_callback_with_key(CallbacksMP.ON_CLONE, CLONE_KEY, _copy_slots)


def _copy_slots(_: ModelPatcher, clone: ModelPatcher) -> None:
    for slots in clone.model_options["transformer_options"].get("patches_replace", {}).values():
        for key, patch in slots.items():
            if isinstance(patch, AttentionSlot):
                slots[key] = copy.copy(patch)
