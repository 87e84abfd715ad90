"""The node Apply UniID."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..adapters.identity import Identity
from ..model_patches.identity_patch import SHARING
from ..model_patches.merge_step import MergePercent, MergePoint, MergeStep
from ..model_patches.routing_maps import RoutingRecord
from ..model_patches.uniid import apply_uniid
from ..model_patches.uniid_models import SYSTEM, UniidModels
from ..model_patches.uniid_patch import BY_MASK, SEVERAL_TEXTS, Scales, UniidSettings
from .people import connected_people, people_inputs, soft_edges_input
from .previews import shown
from .types import AdapterType, NameNormsType, RoutingType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..model_patches.name_norms import NameNorms

AT_STEP, AT_PERCENT = "at step", "at percent"
_NODE = "Apply UniID"


class ApplyUniID(io.ComfyNode):
    """Makes an SDXL model draw certain people, by their words in the prompt and in its layers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_ApplyUniID",
            display_name="Apply UniID",
            category="Likeness/UniID",
            description="Makes an SDXL model draw these people: weakly until the composition stands, strongly from the "
            "merge on.",
            search_aliases=[
                "uniid",
                "faceid",
                "identity",
                "apply adapter",
                "sdxl face",
                "merge step",
                "several people",
            ],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model or a fine-tune of it, such as RealVisXL."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The positive prompt, into which the text branch puts the people. Take the output of this "
                    "node to the sampler; the negative prompt goes there as it is.",
                ),
                AdapterType.Input("adapter", tooltip="From Load UniID, with one branch or both."),
                *people_inputs(),
                _merge_input(),
                *_scale_inputs(),
                io.Boolean.Input(
                    "rescaling",
                    default=True,
                    advanced=True,
                    tooltip="Make the adapter branch as loud as the prompt in each layer, as published. Off: it is "
                    "added as it is; other scales suit then.",
                ),
                io.Combo.Input(
                    "sharing",
                    options=list(SHARING),
                    default=SHARING[0],
                    advanced=True,
                    tooltip="Adapter branch, only for several people without masks. attention: each place is shared by "
                    "how much it looks like each person. one each: each place belongs to one of them.",
                ),
                io.Combo.Input(
                    "several_texts",
                    options=list(SEVERAL_TEXTS),
                    default=SEVERAL_TEXTS[0],
                    advanced=True,
                    tooltip="Text branch, only for several people. together: the words of all stand in one prompt. by "
                    "mask: each person's words count in their mask; each person makes a step slower.",
                ),
                soft_edges_input(True),
                NameNormsType.Input(
                    "name_norms",
                    optional=True,
                    tooltip="From Name Norms: how long the people's words should be. Without it those of the adapter "
                    "or of the identity count, where they have some.",
                ),
            ],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="The model that draws these people."),
                io.Conditioning.Output(
                    "positive", display_name="positive", tooltip="The prompt with the people in it, for the sampler."
                ),
                RoutingType.Output("routing", display_name="routing", tooltip="Who is drawn where, for Routing Maps."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: list[Any],
        adapter: UniidModels,
        identities: dict[str, Identity],
        masks: dict[str, torch.Tensor],
        merge: dict[str, Any],
        text_scale_before: float,
        text_scale: float,
        adapter_scale_before: float,
        adapter_scale: float,
        rescaling: bool,
        sharing: str,
        several_texts: str,
        keep_soft_edges: bool,
        name_norms: NameNorms | None = None,
    ) -> io.NodeOutput:
        if adapter.system != SYSTEM:
            raise ValueError(f"{_NODE}: this is a {adapter.system} adapter. Connect Load UniID.")
        people, by_person = connected_people(identities, masks, _NODE)
        if identities and not people:  # none of the photos showed a face, and that was allowed
            text = "Nobody: model and prompt are unchanged"
            return io.NodeOutput(model, positive, RoutingRecord(()), ui=shown(cls, text))
        settings = UniidSettings(
            merge=_merge_point(merge),
            text=Scales(text_scale_before, text_scale),
            adapter=Scales(adapter_scale_before, adapter_scale),
            rescaling=rescaling,
            several_texts=several_texts,
            masks=by_person,
            keep_soft_edges=keep_soft_edges,
            sharing=sharing,
        )
        patched, prompt, record, norms = apply_uniid(model, positive, adapter, people, settings, name_norms)
        branches = _branches(adapter, settings)
        text = _description(record, branches, settings.merge, norms)
        return io.NodeOutput(patched, prompt, record, ui=shown(cls, text, _idle_masks(settings, branches)))


def _merge_point(merge: dict[str, Any]) -> MergePoint:
    if merge["merge"] == AT_STEP:
        return MergeStep(merge["merge_step"], merge["steps"])
    return MergePercent(merge["merge_percent"])


def _branches(adapter: UniidModels, settings: UniidSettings) -> list[str]:
    """The branches that are loaded and not switched off."""
    weights = adapter.weights
    parts = {"text": (weights.text_branch, settings.text), "adapter": (weights.projections, settings.adapter)}
    return [name for name, (part, scales) in parts.items() if part is not None and scales.has_effect]


def _description(record: RoutingRecord, branches: Sequence[str], merge: MergePoint, norms: str) -> str:
    """Who is drawn, by which branches, from when on strongly, and what the words were made as loud as."""
    when = f"step {merge.step} of {merge.of}" if isinstance(merge, MergeStep) else f"{merge.percent:.0%} of the noise"
    how = f"{' and '.join(branches)}, merge at {when}" if branches else "switched off"
    return "\n".join([f"{', '.join(record.labels)}: UniID, {how}", *([norms] if norms else [])])


def _idle_masks(settings: UniidSettings, branches: Sequence[str]) -> list[str]:
    """A warning about masks that nothing reads."""
    masked = any(mask is not None for mask in settings.masks)
    if not masked or "adapter" in branches or settings.several_texts == BY_MASK:
        return []
    return [
        "the masks change nothing: they place people in the adapter branch, which is not loaded or has scales of 0. To "
        f'have them count for the words too, set several_texts to "{BY_MASK}"'
    ]


def _merge_input() -> io.Input:
    at_step: list[io.Input] = [
        io.Int.Input(
            "merge_step",
            default=5,
            min=0,
            max=1000,
            tooltip="The step from which the people are strong, counted from 0. 0: from the start.",
        ),
        io.Int.Input(
            "steps",
            default=30,
            min=1,
            max=1000,
            tooltip="Of how many steps: as many as the sampler is set to. If it makes another number, the same share "
            "counts.",
        ),
    ]
    at_percent = io.Float.Input(
        "merge_percent",
        default=0.19,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Part of the noise schedule before the people are strong, whatever steps there are. 0.19 is the "
        "noise level of step 5 of 30 as published.",
    )
    return io.DynamicCombo.Input(
        "merge",
        options=[io.DynamicCombo.Option(AT_STEP, at_step), io.DynamicCombo.Option(AT_PERCENT, [at_percent])],
        tooltip="When the people go from the weak scales to the strong ones: later leaves more to the prompt. at step: "
        "a step of the run, as published. at percent: a noise level.",
    )


def _scale_inputs() -> list[io.Input]:
    scales = (
        (
            "text_scale_before",
            0.5,
            "Strength of the text branch before the merge. With both text scales at 0 the prompt stays as it is.",
        ),
        ("text_scale", 1.8, "Strength of the text branch from the merge on."),
        (
            "adapter_scale_before",
            0.8,
            "Strength of the adapter branch before the merge. With both adapter scales at 0 it is left out.",
        ),
        ("adapter_scale", 1.2, "Strength of the adapter branch from the merge on."),
    )
    return [
        io.Float.Input(name, default=default, min=0.0, max=5.0, step=0.05, tooltip=tooltip)
        for name, default, tooltip in scales
    ]
