"""A step with PuLID over the bare step, at the width of SDXL or FLUX, beside a plain implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ..adapters.pulid_attention import PRESETS, Injection
from ..model_patches.pulid import PulidSettings, apply_pulid
from ..model_patches.pulid_models import PulidModels
from . import full_size
from .plain_pulid import apply_plainly
from .steps import Timing, Variant, Workload, print_steps

_INJECTIONS = {"plain": PRESETS["neutral"], "ortho": PRESETS["style"], "ortho_v2": PRESETS["fidelity"]}


def print_sdxl_table(size: int, batch: int, timing: Timing, counts: Sequence[int], small: bool) -> None:
    """Measure each form for each number of people, in turn with the bare UNet; prompts with guidance."""
    sizes = full_size.SMALL_SDXL if small else full_size.SDXL
    with torch.inference_mode():
        bare, models = full_size.sdxl(sizes), full_size.pulid_sdxl(sizes)
        workload = full_size.sdxl_workload(sizes, size, batch)
        name = f"SDXL{' in small' if small else ''}"
        print_steps(name, bare, _variants(bare, models, _INJECTIONS, counts), workload, timing)


def print_flux_table(
    size: int, batch: int, timing: Timing, counts: Sequence[int], depth: tuple[int, int], small: bool
) -> None:
    """Measure one model call at this depth, (double, single) blocks, in turn with the bare network; no true guidance.

    A place for the adapter stands behind every second double and every fourth single block at any depth.
    """
    sizes = {**(full_size.SMALL_FLUX if small else full_size.FLUX), "depth": depth[0], "depth_single_blocks": depth[1]}
    with torch.inference_mode():
        bare, models = full_size.flux(sizes), full_size.pulid_flux(sizes)

        def prompt() -> list[Any]:
            pooled = torch.randn(1, sizes["vec_in_dim"])
            return [[torch.randn(1, 512, sizes["context_in_dim"]), {"pooled_output": pooled, "guidance": 4.0}]]

        workload = Workload((batch, 16, size, size), prompt(), prompt(), guided=False, sigma=0.7)
        name = f"FLUX{' in small' if small else ''}, {depth[0]} + {depth[1]} blocks"
        print_steps(name, bare, _variants(bare, models, {"": Injection()}, counts), workload, timing)


def _variants(
    bare: ModelPatcher, models: PulidModels, injections: dict[str, Injection], counts: Sequence[int]
) -> list[Variant]:
    variants = [Variant("bare", 0, bare)]  # its ratio is what the measurement itself makes of 1
    for form, injection in injections.items():
        for count in counts:
            people = full_size.pulid_people(models, count)
            ours, _ = apply_pulid(bare, models, people, PulidSettings(injection))
            variants.append(Variant(f"likeness {form}".strip(), count, ours))
        plain = apply_plainly(bare, models, full_size.pulid_people(models, 1)[0], injection)
        variants.append(Variant(f"plain code {form}".strip(), 1, plain))
    return variants
