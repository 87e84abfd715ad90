"""PuLID behind the blocks of a FLUX model (docs/pulid.md, 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..adapters.flux_attention import FoldedTokens, folded_logits, folded_output, folded_shares
from ..adapters.identity import Identity
from ..adapters.layers import FluxPlace
from .pulid_patch import PulidPatch, PulidSettings
from .rows import weights_of_rows
from .sampling_run import ModelCall, Rows, call_of
from .slots import BlockSlot, Patch, fill_block

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .pulid_models import PulidModels

TEXT_TOKENS = "text tokens"


class PulidFluxPatch(PulidPatch):
    """One Apply node's state on a FLUX model. Prepared for each place: the people's folded tokens, b = 1."""

    models: PulidModels

    def __init__(
        self,
        model: ModelPatcher,
        models: PulidModels,
        identities: Sequence[Identity],
        settings: PulidSettings,
        places: tuple[FluxPlace, ...],
    ) -> None:
        super().__init__(model, models, identities, settings)
        self.places = places
        # The side of the square of latent pixels that one image token holds.
        self.patch_size: int = model.get_model_object("diffusion_model").patch_size

    @property
    def weights(self) -> ModelPatcher:
        return self.models.patchers["blocks"]

    @property
    def merges(self) -> bool:
        return True

    def prepare_half(
        self, tokens: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype
    ) -> tuple[FoldedTokens, ...]:
        people = torch.stack(list(tokens))[None].to(device)  # (1, N, m, D)
        blocks = self.models.weights.blocks
        assert blocks is not None
        return tuple(block.fold(people).to(device, dtype) for block in blocks)

    def fill_slots(self, model: ModelPatcher) -> int:
        for number, place in enumerate(self.places):
            fill_block(model, place, partial(PulidBlockSlot, self, number, place.kind))
        return len(self.places)


class PulidBlockSlot(BlockSlot):
    """The block as before, then the people on the image tokens of the picture that is being made.

    Others follow them in the image stream, such as Kontext's reference pictures, and stay as they are.
    """

    def __init__(self, patch: PulidFluxPatch, number: int, kind: str, previous: Patch | None) -> None:
        super().__init__(previous)
        self.patch = patch
        self.number = number
        self.kind = kind

    def __call__(self, args: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        call = call_of(self.patch, args.get("transformer_options"))
        out = self.underlying(args, extra)
        if call is None:
            return out
        call.reached.add(self.number)
        height, width = (-(-side // self.patch.patch_size) for side in call.size)
        tokens = out["img"]
        first = self._first_image_token(call, args, tokens.shape[1], height * width)
        image = tokens[:, first : first + height * width]
        parts = [self._term(call, rows, image[rows.start : rows.stop], (height, width)) for rows in call.rows]
        added = parts[0] if len(parts) == 1 else torch.cat(parts)
        # Never in place: a pack that skips blocks may keep what they gave and hand it out again.
        if image.shape == tokens.shape:
            tokens = torch.add(tokens, added, alpha=call.scale)
        else:
            tokens = tokens.clone()
            tokens[:, first : first + height * width].add_(added, alpha=call.scale)
        return {**out, "img": tokens}

    def _term(self, call: ModelCall, rows: Rows, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """What the people add to these rows' image tokens (rows, n, X), before the strength."""
        folded: FoldedTokens = call.prepared[rows.unconditional][self.number]
        logits = folded_logits(image, folded)

        def route(indices: list[int]) -> torch.Tensor:
            among = logits if len(indices) == logits.shape[2] else logits[:, :, indices]
            return self.patch.routed(folded_shares(among))

        as_one = logits.shape[2] == 1
        weights = weights_of_rows(call, rows, self.patch.regions, self.number, size, image, as_one, route)
        return folded_output(logits, folded, weights)

    def _first_image_token(self, call: ModelCall, args: Mapping[str, Any], length: int, count: int) -> int:
        """Where the picture's `count` tokens begin: first in double blocks, behind the text in single ones.

        ComfyUI tells single blocks; for accelerators that do not, the double blocks before them have noted it.
        """
        if self.kind == "double_block":
            first, call.notes[TEXT_TOKENS] = 0, args["txt"].shape[1]
        else:
            options = args.get("transformer_options") or {}
            first = options["img_slice"][0] if "img_slice" in options else call.notes.get(TEXT_TOKENS, length)
        if first + count > length:
            raise RuntimeError(
                f"{self.patch.title}: a block of this model has {length} tokens, in which the {count} image tokens of "
                "this picture are not found. Something else in the workflow removes tokens or skips the blocks in a "
                "way that cannot be followed; leave it out."
            )
        return first
