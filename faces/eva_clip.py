"""The EVA02-CLIP visual tower through timm: the projected embedding and five hidden states (docs/pulid.md, 1.4 and 6).

Letters: B pictures, n patches, W the tower's width, E the length of its embedding; 576, 1024 and 768 in the published
tower of 24 blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .composite import clip_input
from .eva_clip_files import EXPECTED, NUM_HIDDEN, EvaSizes, tower_tensors
from .state_dicts import check_keys

if TYPE_CHECKING:
    from timm.models.eva import Eva

_REFERENCE_GRID = 16  # positions are those of a 16 x 16 grid, on which the network was first trained, stretched


@dataclass(frozen=True, eq=False)
class EvaFeatures:
    """What the tower says about B pictures.

    projected: (B, E) of unit length. hidden: five times (B, 1 + n, W), class token first, without the final norm.
    """

    projected: Tensor
    hidden: tuple[Tensor, ...]


class EvaClip(nn.Module):
    """A tower; `trunk` is timm's network."""

    def __init__(self, trunk: Eva) -> None:
        super().__init__()
        self.trunk = trunk
        self.image_size: int = trunk.patch_embed.img_size[0]
        step = len(trunk.blocks) // (NUM_HIDDEN + 1)
        self.taps = [step * number - 1 for number in range(1, NUM_HIDDEN + 1)]  # 3, 7, 11, 15, 19 of 24 blocks
        self.eval()

    @property
    def width(self) -> int:
        """Channels of a hidden state."""
        return self.trunk.embed_dim

    @property
    def embedding(self) -> int:
        """Length of the projected embedding."""
        return self.trunk.num_classes

    def see(self, composites: Tensor, antialias: bool) -> EvaFeatures:
        """The features of composites (B, 3, H, W), RGB in [0, 1]; antialias: see `composite.clip_input`."""
        return self(clip_input(composites, self.image_size, antialias))

    def forward(self, image: Tensor) -> EvaFeatures:
        """The features of CLIP-normalised pictures (B, 3, image_size, image_size), in type and place of the weights.

        Raises ValueError for pictures of another size.
        """
        side = self.image_size
        if image.ndim != 4 or tuple(image.shape[1:]) != (3, side, side):
            raise ValueError(f"this EVA02-CLIP tower reads pictures (B, 3, {side}, {side}), got {tuple(image.shape)}")
        final, taken = self.trunk.forward_intermediates(
            image.to(self.trunk.cls_token), indices=self.taps, return_prefix_tokens=True, output_fmt="NLC"
        )
        projected = F.normalize(self.trunk.forward_head(final), dim=-1)
        return EvaFeatures(projected, tuple(torch.cat([prefix, patches], dim=1) for patches, prefix in taken))

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        name: str = "the file",
        dtype: torch.dtype = torch.float32,
        head_width: int = 64,
    ) -> EvaClip:
        """Build the tower that a file's tensors describe and load it strictly; sizes are inferred.

        state_dict: EVA02_CLIP_L_336_psz14_s6B.pt with its own names, or an edition with those of timm or open_clip; a
        text tower beside it is left out. name: the file's, for messages. head_width: channels of an attention head,
        which a file does not show unless it has rotary constants. The result is on the CPU, and frozen.
        Raises ValueError naming the file and what it lacks, and when timm cannot be imported.
        """
        tensors, sizes = tower_tensors(state_dict, name, head_width)
        trunk = _build(sizes)
        check_keys(trunk.state_dict(), tensors, f"{name} is not a complete EVA02-CLIP vision tower", EXPECTED)
        own = {key: tensor.to("cpu", dtype, copy=True) for key, tensor in tensors.items()}
        trunk.load_state_dict(own, assign=True)
        return cls(trunk.to(dtype).requires_grad_(False))


def _build(sizes: EvaSizes) -> Eva:
    """timm's network with one block's memory: the tensors of its blocks are on the meta device, to be assigned.

    Built in full it would draw a gigabyte of random weights first. On the meta device as a whole it would lose the
    rotary constants, which no file brings back.
    """
    with torch.random.fork_rng(devices=[]):
        trunk = _timm_class()(
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            num_classes=sizes.embedding,
            global_pool="token",
            embed_dim=sizes.width,
            depth=1,
            num_heads=sizes.num_heads,
            mlp_ratio=(sizes.mlp_width + 0.5) / sizes.width,  # timm rounds the product down
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
            scale_attn_inner=True,
            use_rot_pos_emb=True,
            ref_feat_shape=(_REFERENCE_GRID, _REFERENCE_GRID),
        )
    (block,) = trunk.blocks.to("meta")
    trunk.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(sizes.depth))
    return trunk


def _timm_class() -> type[Eva]:
    try:
        from timm.models.eva import Eva
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit to torch
        raise ValueError(
            f"EVA02-CLIP needs timm, which cannot be imported ({error}). Install it with `pip install timm`, and a "
            "torchvision that fits to the installed torch"
        ) from error
    return Eva
