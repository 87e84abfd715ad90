"""The pack's own wire types. Each name is a contract with saved workflows and never changes."""

from __future__ import annotations

from comfy_api.latest import io

FacesType = io.Custom("LIKENESS_FACES")  # faces.types.Faces
AdapterType = io.Custom("LIKENESS_ADAPTER")  # UniPortraitModels, PulidModels or UniidModels of model_patches
IdentityType = io.Custom("LIKENESS_IDENTITY")  # adapters.identity.Identity
RoutingType = io.Custom("LIKENESS_ROUTING")  # model_patches.routing_maps.RoutingRecord
EvaClipType = io.Custom("LIKENESS_EVA_CLIP")  # ModelPatcher of a faces.eva_clip.EvaClip
RecogniserType = io.Custom("LIKENESS_RECOGNISER")  # faces.arcface.ArcFace
PuLIDOptionsType = io.Custom("LIKENESS_PULID_OPTIONS")  # nodes.pulid_options.PhotoReading
NameNormsType = io.Custom("LIKENESS_NAME_NORMS")  # model_patches.name_norms.NameNorms
