"""Networks at their published sizes with random weights, inside ComfyUI: they prove speed, not likeness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher

from ..adapters.flux_attention import FluxAttentionSizes
from ..adapters.id_encoder import IDEncoderSizes
from ..adapters.id_former import IDFormerSizes
from ..adapters.identity import Identity
from ..adapters.image_resampler import ImageResamplerSizes
from ..adapters.layers import flux_places, sdxl_layers
from ..adapters.perceiver import StackSizes
from ..adapters.pulid import PuLID, PuLIDSizes
from ..adapters.resampler import ResamplerSizes
from ..adapters.text_branch import TextBranchSizes
from ..adapters.uniid import UniID, UniIDSizes
from ..adapters.uniportrait import UniPortrait, UniPortraitSizes
from ..model_patches.pulid_models import PulidModels
from ..model_patches.uniid_models import UniidModels
from ..model_patches.uniportrait_models import UniPortraitModels
from .steps import Workload

HIDDEN = (*[320] * 4, *[640] * 4, *[1280] * 10, *[640] * 6, *[320] * 6, *[1280] * 2)

# Widths of the UNet's levels, of the text and of the pooled text; the small ones are for a quick look.
SDXL: dict[str, Any] = {"widths": (320, 640, 1280), "context": 2048, "pooled": 1280}
SMALL_SDXL: dict[str, Any] = {"widths": (64, 64, 128), "context": 128, "pooled": 64}
FLUX: dict[str, Any] = {"hidden_size": 3072, "num_heads": 24, "context_in_dim": 4096, "vec_in_dim": 768}
SMALL_FLUX: dict[str, Any] = {"hidden_size": 128, "num_heads": 1, "context_in_dim": 64, "vec_in_dim": 32}


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
    return _patcher(comfy.supported_models.SD15(unet_config), step_dtype())


def sdxl(sizes: dict[str, Any]) -> ModelPatcher:
    """The SDXL UNet, at these widths."""
    widths = sizes["widths"]
    unet_config = {
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": widths[0],
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [width // widths[0] for width in widths],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "context_dim": sizes["context"],
        "num_classes": "sequential",
        "adm_in_channels": sizes["pooled"] + 6 * 256,
        "use_temporal_attention": False,
        "dtype": step_dtype(),
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
    }
    return _patcher(comfy.supported_models.SDXL(unet_config), step_dtype())


def sdxl_workload(sizes: dict[str, Any], size: int, batch: int) -> Workload:
    """Latents of this side and prompts with guidance, for the UNet of these widths."""

    def prompt() -> list[Any]:
        return [[torch.randn(1, 77, sizes["context"]), {"pooled_output": torch.randn(1, sizes["pooled"])}]]

    return Workload((batch, 4, size, size), prompt(), prompt(), guided=True, sigma=3.0)


def flux(sizes: dict[str, Any]) -> ModelPatcher:
    """FLUX at this width and depth; bfloat16 on a GPU, as it is distributed."""
    dtype = torch.float32 if comfy.model_management.cpu_mode() else torch.bfloat16
    config = {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "mlp_ratio": 4.0,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
        "dtype": dtype,
        **sizes,
    }
    return _patcher(comfy.supported_models.Flux(config), dtype)


def _patcher(config: Any, dtype: torch.dtype) -> ModelPatcher:
    config.set_inference_dtype(dtype, None)
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


def pulid_sdxl(sizes: dict[str, Any]) -> PulidModels:
    """PuLID v1 for this UNet, stored in float16; its encoder is small, since nothing is encoded here."""
    encoder = IDEncoderSizes(8, 8, (8, 8), (8, 8), output_dim=sizes["context"])
    hidden = tuple(sizes["widths"][layer.level] for layer in sdxl_layers())
    return _pulid(PuLIDSizes("pulid-v1", encoder, hidden), torch.float16)


def pulid_flux(sizes: dict[str, Any]) -> PulidModels:
    """PuLID for this FLUX, stored in bfloat16; its encoder is small, since nothing is encoded here."""
    width, context = sizes["hidden_size"], 2048 * sizes["hidden_size"] // 3072
    encoder = IDFormerSizes(8, 8, (8, 8), (8, 8), dim=8, heads=1, dim_head=8, output_dim=context)
    block = FluxAttentionSizes(width, context, heads=max(1, context // 128))
    num_blocks = len(flux_places(sizes["depth"], sizes["depth_single_blocks"]))
    return _pulid(PuLIDSizes("pulid-flux", encoder, block=block, num_blocks=num_blocks), torch.bfloat16)


def uniid(sizes: dict[str, Any]) -> UniidModels:
    """UniID for this UNet, stored in float16; what makes its tokens is small, since nothing is encoded here."""
    context = sizes["context"]
    of_first = context * 768 // 2048
    text = TextBranchSizes((StackSizes(of_first, 1, 1, 8), StackSizes(context - of_first, 1, 1, 8)), hidden=8)
    resampler = ImageResamplerSizes(StackSizes(8, 1, 1, 8), output_dim=context)
    hidden = tuple(sizes["widths"][layer.level] for layer in sdxl_layers())
    weights = UniID(UniIDSizes(text, resampler, hidden), operations=comfy.ops.manual_cast, dtype=torch.float16)
    fill(weights)
    return UniidModels(weights)


def uniid_people(models: UniidModels, count: int) -> Sequence[Identity]:
    """Identities of random tokens: 3 words and 25 ID tokens."""
    width = models.weights.sizes.context
    nobody = torch.randn(25, width)
    return [
        Identity(
            models.system,
            models.weights.fingerprint,
            {"cond": torch.randn(25, width), "uncond": nobody, "text": torch.randn(3, width)},
        )
        for _ in range(count)
    ]


def _pulid(sizes: PuLIDSizes, dtype: torch.dtype) -> PulidModels:
    weights = PuLID(sizes, operations=comfy.ops.manual_cast, dtype=dtype)
    fill(weights)
    return PulidModels(weights)


def pulid_people(models: PulidModels, count: int) -> Sequence[Identity]:
    """Identities of random tokens: 10 in v1, 32 for FLUX."""
    tokens = 10 if models.system == "pulid-v1" else 32
    width = models.weights.sizes.encoder.output_dim
    nobody = torch.randn(tokens, width)
    return [
        Identity(models.system, models.weights.fingerprint, {"cond": torch.randn(tokens, width), "uncond": nobody})
        for _ in range(count)
    ]
