"""The pack's own wire types. Each name is a contract with saved workflows and never changes."""

from __future__ import annotations

from comfy_api.latest import io

FacesType = io.Custom("LIKENESS_FACES")  # faces.types.Faces
AdapterType = io.Custom("LIKENESS_ADAPTER")  # model_patches.uniportrait_models.UniPortraitModels
IdentityType = io.Custom("LIKENESS_IDENTITY")  # adapters.identity.Identity
RoutingType = io.Custom("LIKENESS_ROUTING")  # model_patches.routing_maps.RoutingRecord
