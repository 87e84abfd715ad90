"""User-drawn masks in the sampler: one for some or all identities, at any layer size and inside conditioning areas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..adapters.regions import region_weights
from .sampling_run import Area

LEAST_GREY = 1 / 512  # half a level of a drawn mask: less than this is rounding
ASPECT_TOLERANCE = 0.05  # sizes in pixels are rounded to multiples of 8 or 64 on their way to latents


class RegionMasks:
    """The masks of one Apply node, identity by identity; None means no mask was drawn for that person.

    Masked identities share the picture by UniPortrait's region rule (spec 5.5). Those without a mask share what no mask
    covers, as the system routes: with no mask at all that is everything, with masks for all it is nothing.

    Args:
        masks: one for each of the first identities.
        num_people: how many identities there are.
        keep_soft_edges: keep the grey of a mask where it stands alone.
    """

    def __init__(self, masks: Sequence[torch.Tensor | None], num_people: int, keep_soft_edges: bool) -> None:
        masks = (*masks, *[None] * (num_people - len(masks)))
        self.masked = [index for index, mask in enumerate(masks) if mask is not None]
        self.unmasked = [index for index, mask in enumerate(masks) if mask is None]
        self.keep_soft_edges = keep_soft_edges
        self._stack = stack_masks([mask for mask in masks if mask is not None], self.masked)

    @property
    def covers_everyone(self) -> bool:
        """True if every identity has a mask, so that nothing is left to route."""
        return not self.unmasked

    @property
    def shares_places(self) -> bool:
        """True if several identities without masks share places, which the system has to route."""
        return len(self.unmasked) > 1

    def check_aspect(self, latent_size: tuple[int, int]) -> None:
        """Refuse masks of another shape than the picture.

        Raises:
            ValueError: the aspect ratios differ by more than 5 %.
        """
        if self._stack is None:
            return
        mask_height, mask_width = self._stack.shape[-2:]
        height, width = latent_size
        if abs((mask_width / mask_height) / (width / height) - 1.0) > ASPECT_TOLERANCE:
            raise ValueError(
                f"Apply: the masks are {mask_width}x{mask_height} pixels, but the picture being made is "
                f"{width * 8}x{height * 8}. Draw them on a picture of the same shape."
            )

    def weights(
        self,
        size: tuple[int, int],
        latent_size: tuple[int, int],
        area: Area | None,
        place: torch.Tensor,
        route: Callable[[list[int]], torch.Tensor],
    ) -> torch.Tensor:
        """Identity weights (1 or B, n, N) for a layer grid of `size`, on the device and in the dtype of `place`.

        `area` says which part of a latent of `latent_size` this grid shows. `route(indices)` gives the weights
        (B, n, len(indices)) of those identities among themselves; it is only asked where several have no mask.
        """
        if self._stack is None:
            return route(self.unmasked).to(place)
        region = region_weights(self._cropped(latent_size, area), size, self.keep_soft_edges).to(place)
        if self.covers_everyone:
            return region
        free = 1.0 - region.sum(-1, keepdim=True)
        routed = free * route(self.unmasked).to(place) if self.shares_places else free
        batch = max(region.shape[0], routed.shape[0])
        joined = torch.cat([region.expand(batch, -1, -1), routed.expand(batch, -1, -1)], dim=-1)
        order = [(self.masked + self.unmasked).index(index) for index in range(joined.shape[-1])]
        return joined[..., order]

    def parts(self) -> list[torch.Tensor]:
        """What each masked identity gets of the picture, and last what they leave: (H, W) each, of the masks' size."""
        assert self._stack is not None
        size = (self._stack.shape[-2], self._stack.shape[-1])
        region = region_weights(self._stack, size, self.keep_soft_edges)[0].unflatten(0, size)  # (H, W, N)
        left = 1.0 - region.sum(-1)
        return [*region.unbind(-1), left * (left > LEAST_GREY)]

    def coverage(
        self, size: tuple[int, int], latent_size: tuple[int, int], area: Area | None, place: torch.Tensor
    ) -> torch.Tensor | None:
        """Sum of all weights, (1, n, 1): what equal tokens are weighted with. None where it is 1 everywhere."""
        if self.unmasked or self._stack is None:
            return None
        region = region_weights(self._cropped(latent_size, area), size, self.keep_soft_edges)
        return region.sum(-1, keepdim=True).to(place)

    def _cropped(self, latent_size: tuple[int, int], area: Area | None) -> torch.Tensor:
        assert self._stack is not None
        if area is None:
            return self._stack
        scale_y = self._stack.shape[-2] / latent_size[0]
        scale_x = self._stack.shape[-1] / latent_size[1]
        height, width, y, x = area
        rows = slice(int(y * scale_y), max(int((y + height) * scale_y), int(y * scale_y) + 1))
        columns = slice(int(x * scale_x), max(int((x + width) * scale_x), int(x * scale_x) + 1))
        return self._stack[:, rows, columns]


def stack_masks(masks: Sequence[torch.Tensor], numbers: Sequence[int]) -> torch.Tensor | None:
    """Check masks ((1, H, W) or (H, W) float) and stack them to (N, H, W), float32 on the CPU.

    Raises:
        ValueError: several masks in one input, an empty mask, values that are not numbers, or sizes that differ. The
            message counts identities from 1.
    """
    if not masks:
        return None
    stacked = []
    for mask, number in zip(masks, numbers, strict=True):
        name = f"the mask of identity {number + 1}"
        if mask.ndim == 3 and mask.shape[0] != 1:
            raise ValueError(f"Apply: {name} holds {mask.shape[0]} pictures; give one mask for each identity.")
        flat = mask.detach().reshape(mask.shape[-2:]).float().cpu()
        if not torch.isfinite(flat).all():
            raise ValueError(f"Apply: {name} contains values that are not numbers (NaN or infinity).")
        if flat.max() <= 0:
            hint = " (Load Image gives an empty 64x64 mask for a picture without transparency)"
            raise ValueError(
                f"Apply: {name} is empty{hint if flat.shape == (64, 64) else ''}, so this person could appear nowhere. "
                "Draw the mask, or disconnect it."
            )
        stacked.append(flat.clamp(0.0, 1.0))
    sizes = {tuple(mask.shape) for mask in stacked}
    if len(sizes) > 1:
        listed = ", ".join(f"{mask.shape[1]}x{mask.shape[0]}" for mask in stacked)
        raise ValueError(f"Apply: the masks have different sizes ({listed}); make them all the size of the picture.")
    return torch.stack(stacked)
