"""The node Apply PuLID."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..adapters.identity import Identity
from ..adapters.pulid_attention import FORMS, PRESETS, Injection
from ..model_patches.identity_patch import SHARING
from ..model_patches.pulid import NAMES, apply_pulid
from ..model_patches.pulid_models import PulidModels
from ..model_patches.pulid_patch import PulidSettings
from ..model_patches.routing_maps import RoutingRecord
from .people import connected_people, people_inputs, soft_edges_input, window_inputs
from .previews import shown
from .types import AdapterType, RoutingType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

AUTO, CUSTOM = "auto", "custom"
MOST_ZEROS = 80
_PUBLISHED = {"pulid-v1": "fidelity", "pulid-v1.1": "v1.1"}  # FLUX has no forms
_NODE = "Apply PuLID"


class ApplyPuLID(io.ComfyNode):
    """Makes an SDXL or FLUX model draw certain people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_ApplyPuLID",
            display_name="Apply PuLID",
            category="Likeness/PuLID",
            description="Makes an SDXL or FLUX model draw these people, with masks or without.",
            search_aliases=["pulid", "faceid", "identity", "apply adapter", "sdxl face", "flux face", "several people"],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL or a FLUX.1 model, whichever the adapter was made for."),
                AdapterType.Input("adapter", tooltip="From Load PuLID."),
                *people_inputs(),
                _method_input(),
                strength_input("id_scale", 0.8),
                *window_inputs(),
                io.Combo.Input(
                    "sharing",
                    options=list(SHARING),
                    default=SHARING[0],
                    tooltip="Only for several people without masks. attention: each place is shared by how much it "
                    "looks like each person. one each: each place belongs to one of them, which keeps faces apart.",
                ),
                soft_edges_input(True),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The model that draws these people."),
                RoutingType.Output("routing", display_name="routing", tooltip="Who is drawn where, for Routing Maps."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        adapter: PulidModels,
        identities: dict[str, Identity],
        masks: dict[str, torch.Tensor],
        method: dict[str, Any],
        id_scale: float,
        start_percent: float,
        end_percent: float,
        sharing: str,
        keep_soft_edges: bool,
    ) -> io.NodeOutput:
        if adapter.system not in NAMES:
            raise ValueError(f"{_NODE}: this is a {adapter.system} adapter. Connect Load PuLID.")
        people, by_person = connected_people(identities, masks, _NODE)
        if identities and not people:  # none of the photos showed a face, and that was allowed
            return io.NodeOutput(model, RoutingRecord(()), ui=shown(cls, "Nobody: the model is unchanged"))
        injection = chosen_injection(adapter.system, method, id_scale)
        settings = PulidSettings(
            injection,
            start_percent=start_percent,
            end_percent=end_percent,
            masks=by_person,
            keep_soft_edges=keep_soft_edges,
            sharing=sharing,
        )
        patched, record = apply_pulid(model, adapter, people, settings)
        return io.NodeOutput(patched, record, ui=shown(cls, _description(adapter.system, record, injection)))


def strength_input(name: str, default: float) -> io.Float.Input:
    """How strongly people are drawn."""
    return io.Float.Input(
        name,
        default=default,
        min=-1.0,
        max=5.0,
        step=0.05,
        tooltip="How strongly the faces are drawn: 0.8 with SDXL, 1 with FLUX or method neutral. 0 hands the model "
        "through unchanged; below 0 draws away from these people.",
    )


def chosen_injection(system: str, method: dict[str, Any], scale: float) -> Injection:
    """Form and number of zero tokens of a method, at this strength; FLUX has neither."""
    name = method["method"]
    if system not in _PUBLISHED:
        return Injection(scale=scale)
    if name == CUSTOM:
        return Injection(method["form"], method["num_zero"], scale)
    return replace(PRESETS[_PUBLISHED[system] if name == AUTO else name], scale=scale)


def _description(system: str, record: RoutingRecord, injection: Injection) -> str:
    how = f", {injection.form} with {injection.num_zero} zero tokens" if system in _PUBLISHED else ""
    return f"{', '.join(record.labels)}: {NAMES[system]}{how}"


def _method_input() -> io.Input:
    custom: list[io.Input] = [
        io.Combo.Input(
            "form",
            options=list(FORMS),
            default="ortho_v2",
            tooltip="plain: the face is added as it is. ortho: what the prompt draws already is left out, for styles. "
            "ortho_v2: left out only where the face itself is not drawn.",
        ),
        io.Int.Input(
            "num_zero",
            default=8,
            min=0,
            max=MOST_ZEROS,
            tooltip="Zero tokens that share the attention with the face: more leave more to the prompt.",
        ),
    ]
    return io.DynamicCombo.Input(
        "method",
        options=[
            io.DynamicCombo.Option(AUTO, []),
            *(io.DynamicCombo.Option(name, []) for name in PRESETS),
            io.DynamicCombo.Option(CUSTOM, custom),
        ],
        tooltip="SDXL only; FLUX has one way. auto: as published for the file, fidelity for v1 and v1.1 for v1.1. "
        "fidelity: closest to the photo. style: for drawings and paintings. neutral: the face simply added. custom: "
        "the numbers themselves.",
    )
