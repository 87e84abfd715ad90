"""A UNet step with identities over the bare step, at full SD 1.5 width, beside a plain implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..model_patches.uniportrait import UniPortraitSettings, apply_uniportrait
from . import full_size
from .plain_uniportrait import apply_plainly
from .steps import Timing, Variant, Workload, print_steps


def print_table(size: int, batch: int, timing: Timing, counts: Sequence[int]) -> None:
    """Measure ours and the plain way for each number of people."""
    positive, negative = ([[torch.randn(1, 77, 768), {}]] for _ in range(2))
    workload = Workload((batch, 4, size, size), positive, negative, guided=True, sigma=3.0)
    with torch.inference_mode():
        bare, models = full_size.sd15(), full_size.uniportrait()
        variants = []
        for count in counts:
            identities = full_size.people(models, count)
            ours, _ = apply_uniportrait(bare, models, identities, UniPortraitSettings())
            plain = apply_plainly(bare, models, identities, 0.7)
            variants += [Variant("likeness", count, ours), Variant("plain", count, plain)]
        print_steps("SD 1.5", bare, variants, workload, timing)
