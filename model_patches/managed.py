"""Modules under ComfyUI's memory manager."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
from torch import nn


def managed(module: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """A patcher for a frozen module: computed where ComfyUI computes, put aside where it puts the UNet aside."""
    return comfy.model_patcher.CoreModelPatcher(
        module.requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
