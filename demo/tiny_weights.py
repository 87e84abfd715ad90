"""Random weights for the tiny models, scaled so that what comes out is neither flat nor saturated.

Plain random networks make poor stand-ins: a random UNet predicts no noise, so a sampled latent keeps the size of the
first sigma; random encoders answer almost the same to every face. The gains below keep activations of order 1, and
`pass_noise_through` gives the UNet a straight path from its input to its prediction.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .colour_path import pass_colours_through
from .tiny_layouts import Shapes
from .tiny_sizes import UNetSizes

Rules = Sequence[tuple[str, float]]  # (pattern searched in the key, gain); the first that is found counts, else 1

UNET_RULES: Rules = (
    (r"\.bias$", 0.1),
    (r"attn\d\.to_[qk]\.", 1.6),  # attention that chooses rather than averages
    (r"attn2\.to_(v|out\.0)\.", 1.5),
    (r"(in_layers\.2|out_layers\.3|time_embed\.\d)\.", 1.3),  # SiLU loses variance
)
SDXL_RULES: Rules = (  # gentler than SD 1.5's, with which 70 layers make rounding errors a hundred times larger
    (r"\.bias$", 0.1),
    (r"attn1\.to_out\.0\.", 0.2),
    (r"attn2\.to_out\.0\.", 0.4),
    (r"ff\.net\.2\.", 0.2),
    (r"out_layers\.3\.", 0.5),
    (r"(in_layers\.2|time_embed\.\d|label_emb\.0\.\d)\.", 1.3),
)
CONTROL_RULES: Rules = (
    (r"\.bias$", 0.1),
    (r"input_hint_block\.", 1.6),
    (r"(zero_convs\.\d+|middle_block_out)\.0\.", 0.5),
    *UNET_RULES,
)
TAESD_RULES: Rules = (
    (r"\.bias$", 0.1),
    (r"\.conv\.4\.", 0.5),
    (r"\.conv\.", 1.4),  # ReLU halves the variance
)
CLIP_RULES: Rules = (
    (r"bias$", 0.05),
    (r"position(al)?_embedding", 0.3),
    (r"\.[qk]_proj\.", 1.5),
)
FLUX_RULES: Rules = (
    (r"\.bias$", 0.1),
    (r"(time_in|vector_in|guidance_in)\.", 1.3),  # SiLU loses variance
    (r"(_mod|modulation)\.lin\.", 0.7),
)
EVA_RULES: Rules = (
    (r"bias$", 0.05),
    (r"(pos_embed|cls_token)$", 0.3),
    (r"patch_embed\.proj\.weight", 3.0),
    (r"\.[qk]_proj\.", 1.5),
)
PARSER_RULES: Rules = ((r"\.conv.*\.weight$", 1.4),)  # ReLU halves the variance
PULID_RULES: Rules = (
    (r"bias$", 0.1),
    (r"/encoder\.latents", 0.1),  # they only ask, so that the answer is the face's
    (r"/(projections|blocks)\.", 2.0),  # strong enough to be seen
    (r"\.(to_q|to_kv)\.", 1.7),
    (r"mapping.*\.[036]\.", 1.5),
)
UNIID_RULES: Rules = (
    (r"bias$", 0.1),
    (r"/resampler\.latents", 0.1),  # they only ask, so that the answer is the face's
    (r"/projections\.", 2.0),  # strong enough to be seen
    (r"proj_\d\.proj\.0\.", 2.0),
    (r"\.(to_q|to_kv)\.", 1.7),
)
UNIPORTRAIT_RULES: Rules = (
    (r"\.bias$", 0.1),
    (r"/latents", 0.1),  # they only ask, so that the answer is the face's
    (r"proj_(id|clip)\.0\.", 2.0),
    (r"\.(to_q|to_kv)\.", 1.7),
    (r"layers\.\d\.2\.3\.", 0.3),
    (r"_lora\.", 0.6),
    (r"_router\.[02]\.", 1.5),
)
BACKBONE_RULES: Rules = (
    (r"\.bias$", 0.01),
    (r"(input_layer\.2|res_layer\.3)\.", 0.25),  # PReLU
    (r"res_layer\.5\.", 0.25),  # 49 residual branches add up, and statistics at rest normalise nothing
    (r"res_layer\.4\.", 1.4),
)
UNSCALED = (
    "embedding",
    "embedding.weight",
    "shared.weight",
    "latents",
    "pos_embed",
    "cls_token",
    "bias",
)  # tables and vectors: std is the gain itself
STRUCTURE_GAIN = 0.15  # what the UNet predicts beside noise; times the first sigma (14.6) it is left in the latent
SKIP_GAIN = 0.25
TEXTURE_GAIN = 0.08


def random_weights(name: str, shapes: Shapes, rules: Rules, seed: int) -> dict[str, Tensor]:
    """Return float32 tensors: scales of norms constant, statistics at rest, all else normal, std gain / sqrt(fan-in).

    Each tensor draws from a generator of its own key, so it does not depend on what else a table holds.
    """
    return {key: _random_tensor(f"{name}/{key}", shape, rules, seed) for key, shape in shapes.items()}


def _random_tensor(key: str, shape: tuple[int, ...], rules: Rules, seed: int) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if key.endswith("running_mean"):
        return torch.zeros(shape)
    if key.endswith("running_var"):
        return torch.ones(shape)
    gain = next((gain for pattern, gain in rules if re.search(pattern, key)), 1.0)
    if len(shape) == 1 and key.endswith((".weight", ".scale")):
        return torch.full(shape, gain)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()) ^ seed))
    fan_in = 1 if key.endswith(UNSCALED) or noise.ndim < 2 else noise[0].numel()
    return noise * (gain / fan_in**0.5)


def pass_noise_through(unet: Mapping[str, Tensor], sizes: UNetSizes, gain: float = STRUCTURE_GAIN) -> None:
    """Change a UNet's weights in place so that it predicts its normalised input plus `gain` times the rest.

    The first convolution writes x and -x to the first channels, the last block keeps them apart, and the output layer
    takes their difference: silu(a) - silu(-a) = a. The input of an epsilon model is almost noise at large sigmas.
    """
    pairs = 2 * sizes.latent_channels
    centre = torch.eye(sizes.latent_channels).repeat_interleave(2, 0)
    centre[1::2] *= -1  # (pairs, latent): x0, -x0, x1, -x1, ...
    last = f"output_blocks.{(sizes.num_res_blocks + 1) * len(sizes.channel_mult) - 1}"
    paths = ["input_blocks.0.0", f"{last}.0.skip_connection", f"{last}.0.out_layers.3"]
    if sizes.depths[0]:
        paths.append(f"{last}.1.proj_out")
    for key in paths:
        unet[f"{key}.weight"][:pairs] = 0
        unet[f"{key}.bias"][:pairs] = 0
    unet["input_blocks.0.0.weight"][:pairs, :, 1, 1] = centre
    below = sizes.widths[0]  # the block's input is what comes from below, then the first convolution's output
    unet[f"{last}.0.skip_connection.weight"][:pairs, below : below + pairs, 0, 0] = torch.eye(pairs)
    output = unet["out.2.weight"]
    output -= output.mean((1, 2, 3), keepdim=True)  # past SiLU all channels have a like mean, a tint in every picture
    output *= gain
    output[:, :pairs] = 0
    output[:, :pairs, 1, 1] = centre.T
    for key in ("out.0.bias", "out.2.bias"):
        unet[key].zero_()


def prefer_coarse(unet: Mapping[str, Tensor], sizes: UNetSizes) -> None:
    """Change a UNet's weights in place so that its decoder listens more to the coarser level than to the skips.

    The skips carry the noise of the latent; what text and identities say is then seen as blobs, not as grain.
    """
    for number in range((sizes.num_res_blocks + 1) * len(sizes.channel_mult)):
        key = f"output_blocks.{number}.0"
        feeding = f"output_blocks.{number - 1}.0" if number else "middle_block.2"
        below = len(unet[f"{feeding}.out_layers.3.bias"])
        for name in ("in_layers.2", "skip_connection"):
            unet[f"{key}.{name}.weight"][:, below:] *= SKIP_GAIN


def show_colours_and_texture(taesd: Mapping[str, Tensor], latent_scale: float, latent_shift: float = 0.0) -> None:
    """Change TAESD's weights in place so that colours come through, with a little random texture on them.

    scale and shift are those of the base model's latents: ComfyUI takes them out before decoding, TAESD puts them back.
    """
    texture = taesd["taesd_decoder.19.weight"]
    texture -= texture.mean(1, keepdim=True)  # the features are positive, and would make one colour cast
    texture *= TEXTURE_GAIN
    pass_colours_through(taesd)
    taesd["vae_scale"].fill_(latent_scale)
    taesd["vae_shift"].fill_(latent_shift)


def take_out_means(tensors: Mapping[str, Tensor], pattern: str) -> None:
    """Change the matrices whose keys match in place so that they ignore the mean of their inputs.

    What comes out of GELU, ReLU or PReLU has a mean that is much the same for every face and position: with it, all
    faces would get nearly the same tokens, one identity would win the routing, one class the parsing everywhere.
    """
    for key, weight in tensors.items():
        if re.search(pattern, key):
            weight -= weight.mean(tuple(range(1, weight.ndim)), keepdim=True)
