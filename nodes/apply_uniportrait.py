"""The node Apply UniPortrait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..adapters.identity import Identity
from ..model_patches.routing_maps import RoutingRecord
from ..model_patches.uniportrait import ImagePrompt, UniPortraitSettings, apply_uniportrait
from ..model_patches.uniportrait_models import SYSTEM, UniPortraitModels
from .people import connected_people, people_inputs, soft_edges_input, window_inputs
from .types import AdapterType, RoutingType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class ApplyUniPortrait(io.ComfyNode):
    """Makes a model draw certain people."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_ApplyUniPortrait",
            display_name="Apply UniPortrait",
            category="Likeness/UniPortrait",
            description="Makes an SD 1.5 model draw these people. Several share a picture without masks: a router "
            "decides which place belongs to whom.",
            search_aliases=["uniportrait", "faceid", "identity", "apply adapter", "several people", "ip-adapter face"],
            inputs=[
                io.Model.Input("model", tooltip="An SD 1.5 model or a fine-tune of it, such as Realistic Vision."),
                AdapterType.Input("adapter", tooltip="From Load UniPortrait; with a router file for several people."),
                *people_inputs(),
                *_scale_inputs(),
                *window_inputs(),
                soft_edges_input(False),
                *_image_prompt_inputs(),
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
        adapter: UniPortraitModels,
        identities: dict[str, Identity],
        masks: dict[str, torch.Tensor],
        id_scale: float,
        lora_scale: float,
        start_percent: float,
        end_percent: float,
        keep_soft_edges: bool,
        image_prompt_scale: float,
        image_prompt: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        if adapter.system != SYSTEM:
            raise ValueError(f"Apply UniPortrait: this is a {adapter.system} adapter. Connect Load UniPortrait.")
        people, by_person = connected_people(identities, masks, "Apply UniPortrait")
        if identities and not people and image_prompt is None:
            return io.NodeOutput(model, RoutingRecord(()))  # none of the photos showed a face, and that was allowed
        settings = UniPortraitSettings(
            id_scale=id_scale,
            lora_scale=lora_scale if id_scale > 0 else 0.0,
            start_percent=start_percent,
            end_percent=end_percent,
            masks=by_person,
            keep_soft_edges=keep_soft_edges,
            image_prompt=make_image_prompt(adapter, image_prompt, image_prompt_scale),
        )
        return io.NodeOutput(*apply_uniportrait(model, adapter, people, settings))


def make_image_prompt(adapter: UniPortraitModels, image: torch.Tensor | None, scale: float) -> ImagePrompt | None:
    """The image prompt of one picture (1, H, W, 3); None without a picture or with scale 0."""
    if image is None or scale <= 0:
        return None
    if len(image) != 1:
        raise ValueError(f"Apply UniPortrait: the image prompt holds {len(image)} pictures; give one.")
    if adapter.encoder is None:
        raise ValueError("Apply UniPortrait: an image prompt needs CLIP vision; connect it to Load UniPortrait.")
    return ImagePrompt(*adapter.encoder.image_prompt_tokens(image), scale)


def _scale_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "id_scale",
            default=0.7,
            min=0.0,
            max=1.5,
            step=0.05,
            tooltip="How strongly the faces are drawn: 0.5 to 0.7 for one person, 0.3 to 0.7 for several. 0 hands the "
            "model through unchanged, apart from an image prompt.",
        ),
        io.Float.Input(
            "lora_scale",
            default=1.0,
            min=0.0,
            max=1.5,
            step=0.05,
            tooltip="How much of UniPortrait's LoRA is added. It does not follow id_scale; 1 is as trained.",
        ),
    ]


def _image_prompt_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "image_prompt_scale",
            default=0.6,
            min=0.0,
            max=1.5,
            step=0.05,
            advanced=True,
            tooltip="Strength of the image prompt; without a picture it does nothing.",
        ),
        io.Image.Input(
            "image_prompt",
            optional=True,
            tooltip="A picture whose content or style is taken up as IP-Adapter does. Needs the image-prompt file in "
            "Load UniPortrait.",
        ),
    ]
