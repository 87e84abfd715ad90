"""A step with UniID over the bare step, at the width of SDXL, beside a plain implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..model_patches.merge_step import MergePercent
from ..model_patches.uniid import apply_uniid
from ..model_patches.uniid_patch import Scales, UniidSettings
from . import full_size
from .plain_uniid import apply_plainly
from .steps import Timing, Variant, print_steps

_MERGE = MergePercent(0.19)  # before the step that is measured, which so has the strong scales
_OFF = Scales(0.0, 0.0)
_BRANCHES = {
    "both branches": UniidSettings(merge=_MERGE),
    "text branch": UniidSettings(merge=_MERGE, adapter=_OFF),
    "adapter branch": UniidSettings(merge=_MERGE, text=_OFF),
}


def print_table(size: int, batch: int, timing: Timing, counts: Sequence[int], small: bool) -> None:
    """Measure both branches and each alone for each number of people, in turn with the bare UNet, with guidance."""
    sizes = full_size.SMALL_SDXL if small else full_size.SDXL
    with torch.inference_mode():
        bare, models = full_size.sdxl(sizes), full_size.uniid(sizes)
        workload = full_size.sdxl_workload(sizes, size, batch)
        variants = [Variant("bare", 0, bare)]  # its ratio is what the measurement itself makes of 1
        for name, settings in _BRANCHES.items():
            for count in counts:
                people = full_size.uniid_people(models, count)
                ours, positive, *_ = apply_uniid(bare, workload.positive, models, people, settings)
                variants.append(Variant(f"likeness {name}", count, ours, positive))
        (someone,) = full_size.uniid_people(models, 1)
        published = UniidSettings(merge=_MERGE)
        plain = apply_plainly(bare, workload.positive, workload.negative, models, someone, published)
        variants.append(Variant("plain code", 1, *plain))
        print_steps(f"SDXL{' in small' if small else ''}", bare, variants, workload, timing)
