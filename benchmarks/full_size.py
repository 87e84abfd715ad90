"""Networks at their published sizes with random weights, inside ComfyUI: they prove speed, not likeness."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from ..adapters.identity import Identity
from ..adapters.resampler import ResamplerSizes
from ..adapters.uniportrait import UniPortrait, UniPortraitSizes
from ..model_patches.uniportrait_models import UniPortraitModels

HIDDEN = (*[320] * 4, *[640] * 4, *[1280] * 10, *[640] * 6, *[320] * 6, *[1280] * 2)


def step_dtype() -> torch.dtype:
    """float16 where the device computes in it, else float32."""
    half = comfy.model_management.should_use_fp16(comfy.model_management.get_torch_device())
    return torch.float16 if half else torch.float32


def fill(module: torch.nn.Module) -> None:
    """Random weights that keep activations finite; ComfyUI's layers leave them uninitialised."""
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(std=0.5 / tensor[0].numel() ** 0.5)
        elif tensor.is_floating_point():
            tensor.fill_(1.0 if name.endswith(("weight", "running_var")) else 0.0)


def sd15() -> ModelPatcher:
    """The SD 1.5 UNet."""
    unet_config = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "context_dim": 768,
        "adm_in_channels": None,
        "use_temporal_resblock": False,
        "use_temporal_attention": False,
        "dtype": step_dtype(),
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
    }
    config = comfy.supported_models.SD15(unet_config)
    config.set_inference_dtype(step_dtype(), None)
    model = config.get_model({}, "")
    fill(model.diffusion_model)
    return comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def uniportrait() -> UniPortraitModels:
    """UniPortrait at the sizes of the released files, stored as they are in float16."""
    sizes = UniPortraitSizes(HIDDEN, ResamplerSizes(), rank=128, multi_rank=128)
    weights = UniPortrait(sizes, operations=comfy.ops.manual_cast, dtype=torch.float16)
    fill(weights)
    return UniPortraitModels(weights)


def people(models: UniPortraitModels, count: int) -> Sequence[Identity]:
    """Identities of random tokens."""
    nobody = torch.randn(16, 768)
    fingerprint = models.weights.fingerprint
    return [
        Identity("uniportrait", fingerprint, {"cond": torch.randn(16, 768), "uncond": nobody}) for _ in range(count)
    ]
