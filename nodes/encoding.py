"""From the chosen faces of one person to an identity: each system's way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..adapters.identity import Identity
from ..faces.portraits import Portrait, portrait_of, released_choice
from ..model_patches.uniid_encoder import UniidEncoder
from ..model_patches.uniportrait_encoder import UniPortraitEncoder
from .model_files import CLIP_VISION, EVA_CLIP, UNIID_BACKBONE, advice
from .previews import image_batch
from .pulid_options import PhotoReading
from .reference_faces import Reference, References

if TYPE_CHECKING:
    from ..model_patches.pulid_encoder import PulidEncoder
    from ..model_patches.pulid_models import PulidModels
    from ..model_patches.uniid_models import UniidModels
    from ..model_patches.uniportrait_models import UniPortraitModels

    Adapter = UniPortraitModels | PulidModels | UniidModels

# Of the way from photo to tokens, for each system; a change that moves the tokens needs another number.
PREPROCESSING = "1"
# Pixels: the sides of what the systems look at, and of the picture that stands for nobody.
_UNIPORTRAIT_CROP, _UNIID_CROP, _BLANK = 224, 112, 224


@dataclass(frozen=True)
class Encoded:
    """A person, what the encoder saw (k, H, W, 3) in [0, 1], and vectors (k, d) of unit length that tell people."""

    identity: Identity
    seen: torch.Tensor
    vectors: torch.Tensor


def encode_photos(
    adapter: Adapter,
    references: References,
    structure_scale: float,
    reading: PhotoReading,
    label: str,
) -> Encoded:
    """The person on these photos, by whichever system the adapter is of.

    Raises:
        ValueError: the adapter was loaded without what sees photos.
    """
    encoder = adapter.encoder
    if encoder is None:
        raise ValueError(_blind(adapter))
    if isinstance(encoder, UniPortraitEncoder):
        encoded = _by_uniportrait(encoder, references, structure_scale, label)
    elif isinstance(encoder, UniidEncoder):
        encoded = _by_uniid(encoder, references, label)
    else:
        encoded = _by_pulid(encoder, references, reading, label)
    return replace(encoded, identity=replace(encoded.identity, preprocessing=PREPROCESSING))


def nobody(adapter: Adapter, label: str) -> Encoded:
    """What stands for a person of whom no photo shows a face: Apply leaves them out."""
    weights = adapter.weights
    tokens = {half: torch.zeros(0, 1) for half in ("cond", "uncond")}
    identity = Identity(adapter.system, weights.fingerprint, tokens, label, PREPROCESSING)
    return Encoded(identity, torch.zeros(1, _BLANK, _BLANK, 3), torch.zeros(0, 1))


def _by_uniportrait(encoder: UniPortraitEncoder, references: References, structure_scale: float, label: str) -> Encoded:
    crops = image_batch(references.crops(_UNIPORTRAIT_CROP))
    vectors = encoder.embed(crops) if len(crops) > 1 else torch.zeros(1, 1)
    return Encoded(encoder.encode(crops, structure_scale, label), crops, vectors)


def _by_uniid(encoder: UniidEncoder, references: References, label: str) -> Encoded:
    crops = references.crops(_UNIID_CROP)
    seen = encoder.see(crops)
    return Encoded(encoder.encode(seen, label), image_batch(crops), F.normalize(seen.embeddings, dim=-1))


def _by_pulid(encoder: PulidEncoder, references: References, reading: PhotoReading, label: str) -> Encoded:
    seen = encoder.see([_portrait(one, reading.one_face) for one in references.chosen], reading.antialias)
    identity = encoder.encode(seen, label, reading.joining, reading.noise, reading.seed)
    return Encoded(identity, seen.composites, F.normalize(seen.embeddings, dim=-1))


def _portrait(reference: Reference, one_face: bool) -> Portrait:
    if one_face:
        return portrait_of(reference.faces, reference.face)
    return portrait_of(reference.faces, *released_choice(reference.faces, reference.image_index))


def _blind(adapter: Adapter) -> str:
    if adapter.system == "uniportrait":
        without, cure, file = "CLIP vision", "Connect Load CLIP Vision to Load UniPortrait", CLIP_VISION
    elif adapter.system == "uniid":
        without, cure, file = "a backbone", "Choose the backbone in Load UniID", UNIID_BACKBONE
    else:
        without, cure, file = "EVA-CLIP", "Connect Load EVA-CLIP to Load PuLID", EVA_CLIP
    return f"Encode Identity: the adapter was loaded without {without}, so it cannot see photos. {cure}. {advice(file)}"
