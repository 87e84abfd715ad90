"""The node Apply UniPortrait."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ..adapters.identity import Identity
from ..model_patches.uniportrait import ImagePrompt, UniPortraitSettings, apply_uniportrait
from ..model_patches.uniportrait_models import SYSTEM, UniPortraitModels
from .types import AdapterType, IdentityType, RoutingType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

MOST_PEOPLE = 10


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
                io.Autogrow.Input("identities", template=_numbered(_identity_input(), 1), tooltip="Who is drawn."),
                io.Autogrow.Input(
                    "masks",
                    template=_numbered(_mask_input(), 0),
                    tooltip="Where each person may appear; mask_2 belongs to identity_2. Gaps are allowed: people "
                    "without a mask share what no mask covers.",
                ),
                *_scale_inputs(),
                *_window_inputs(),
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
        settings = UniPortraitSettings(
            id_scale=id_scale,
            lora_scale=lora_scale if id_scale > 0 else 0.0,
            start_percent=start_percent,
            end_percent=end_percent,
            masks=masks_by_identity(identities, masks),
            keep_soft_edges=keep_soft_edges,
            image_prompt=make_image_prompt(adapter, image_prompt, image_prompt_scale),
        )
        people = list(identities.values())
        return io.NodeOutput(*apply_uniportrait(model, adapter, people, settings))


def masks_by_identity(
    identities: Mapping[str, Identity], masks: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """One mask or None for each connected identity, in their order; identity_2 belongs to mask_2.

    Raises:
        ValueError: a mask without its identity.
    """
    sockets = [name.removeprefix("identity_") for name in identities]
    by_number = {name.removeprefix("mask_"): mask for name, mask in masks.items()}
    for number in by_number:
        if number not in sockets:
            raise ValueError(
                f"Apply UniPortrait: mask_{number} is connected, but identity_{number} is not. Connect the identity, "
                "or move the mask to the number of the person it belongs to."
            )
    return tuple(by_number.get(number) for number in sockets)


def make_image_prompt(adapter: UniPortraitModels, image: torch.Tensor | None, scale: float) -> ImagePrompt | None:
    """The image prompt of one picture (1, H, W, 3); None without a picture or with scale 0."""
    if image is None or scale <= 0:
        return None
    if len(image) != 1:
        raise ValueError(f"Apply UniPortrait: the image prompt holds {len(image)} pictures; give one.")
    if adapter.encoder is None:
        raise ValueError("Apply UniPortrait: an image prompt needs CLIP vision; connect it to Load UniPortrait.")
    return ImagePrompt(*adapter.encoder.image_prompt_tokens(image), scale)


def _numbered(template: io.Input, least: int) -> io.Autogrow.TemplateNames:
    names = [f"{template.id}_{number}" for number in range(1, MOST_PEOPLE + 1)]
    return io.Autogrow.TemplateNames(template, names=names, min=least)


def _identity_input() -> io.Input:
    return IdentityType.Input("identity", tooltip="One person, from Encode, Mix or Load Identity.")


def _mask_input() -> io.Input:
    return io.Mask.Input(
        "mask", tooltip="Where the identity of the same number may appear, in the shape of the picture being made."
    )


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


def _window_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps before the people come in. With 0.1 the prompt alone sets the composition.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps after which the people are left out again.",
        ),
        io.Boolean.Input(
            "keep_soft_edges",
            default=False,
            advanced=True,
            tooltip="Let grey parts of a mask work at part strength. Off: as published, where only shares between "
            "masks are soft.",
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
