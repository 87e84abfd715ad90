"""PuLID on a ModelPatcher of an SDXL or FLUX model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..adapters.families import PULID_FLUX, PULID_V1, PULID_V1_1
from ..adapters.identity import Identity
from ..adapters.layers import FluxPlace
from .base_model import WantedBase, check_attention_layers, find_flux_places
from .people import check_anybody, check_identities
from .pulid_flux import PulidFluxPatch
from .pulid_patch import TITLE, PulidPatch, PulidSettings
from .pulid_sdxl import PulidSdxlPatch
from .routing_maps import RoutingRecord

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .pulid_models import PulidModels

NAMES = {PULID_V1.name: "PuLID v1", PULID_V1_1.name: "PuLID v1.1", PULID_FLUX.name: "PuLID for FLUX"}
_ADVICE = {
    "SDXL": "load an SDXL checkpoint; FLUX models take pulid_flux_v0.9.1.safetensors in Load PuLID",
    "FLUX": "load a FLUX.1 model; SDXL models take pulid_v1.1.safetensors or pulid_v1.bin in Load PuLID",
}


def apply_pulid(
    model: ModelPatcher, models: PulidModels, identities: Sequence[Identity], settings: PulidSettings
) -> tuple[ModelPatcher, RoutingRecord]:
    """A clone of `model` that draws these people, and the record that its sampling runs will fill.

    A model that has PuLID already gets more of it: each of the two adds its people to what it finds.

    Raises:
        ValueError: no identity; a model of another base than the adapter's; an identity of another edition or file; bad
            masks or a bad window.
    """
    places = _check_base(model, models)
    check_anybody(TITLE, identities)
    check_identities(TITLE, NAMES[models.system], identities, models, settings.masks)
    patch: PulidPatch
    if places:
        patch = PulidFluxPatch(model, models, identities, settings, places)
    else:
        patch = PulidSdxlPatch(model, models, identities, settings)
    return patch.apply_to(model), patch.record


def _check_base(model: ModelPatcher, models: PulidModels) -> tuple[FluxPlace, ...]:
    """Refuse a model that the adapter was not made for; returns the places in FLUX, none for SDXL."""
    weights = models.weights
    wanted = WantedBase(TITLE, NAMES[models.system], f"{weights.base} models", _ADVICE[weights.base])
    if weights.sizes.block is None:
        layers = [layer for layer in weights.sizes.layers if layer.is_cross]
        check_attention_layers(model, wanted, layers, weights.sizes.hidden, weights.sizes.encoder.output_dim)
        return ()
    return find_flux_places(model, wanted, weights.sizes.block.dim, weights.sizes.num_blocks)
