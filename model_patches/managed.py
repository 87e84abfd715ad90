"""Modules under ComfyUI's memory manager."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

_EVERYTHING = 1e32  # bytes; ComfyUI's own number for no limit


def managed(module: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """A patcher for a frozen module: computed where ComfyUI computes, put aside where it puts the UNet aside."""
    return comfy.model_patcher.CoreModelPatcher(
        module.requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def managed_whole(module: nn.Module) -> comfy.model_patcher.ModelPatcher:
    """A patcher like `managed`, for a module with layers of others, which cannot fetch weights that are offloaded.

    It is loaded and unloaded as a whole, also where ComfyUI would leave parts of it behind to save memory.
    """
    return _WholePatcher(
        module.requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


class _WholePatcher(comfy.model_patcher.ModelPatcher):
    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        return super().partially_load(device_to, _EVERYTHING, force_patch_weights)

    def partially_unload(
        self, device_to: torch.device, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        return 0  # the manager then unloads all of it
