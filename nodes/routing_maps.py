"""The node Routing Maps."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..model_patches.routing_maps import RoutingRecord
from .previews import counted, shown
from .routing_overlay import draw_legend, overlay
from .routing_votes import VIEWS, routing_views
from .types import RoutingType


class RoutingMaps(io.ComfyNode):
    """Shows which person each place of a picture was drawn as."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Likeness_RoutingMaps",
            display_name="Routing Maps",
            category="Likeness/identity",
            description="Colours a finished picture by which person each place was drawn as: shows why two people "
            "were mixed up or one of them is missing.",
            search_aliases=["attention map", "router", "debug identities", "who is where", "heatmap"],
            inputs=[
                RoutingType.Input("routing", tooltip="From the Apply node whose model was sampled."),
                io.Image.Input("image", tooltip="The decoded result, so that this node runs after the sampler."),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default=VIEWS[0],
                    tooltip="average: one picture, by majority over all steps and layers. per step: how it settled. "
                    "per layer: what each attention layer chose.",
                ),
                io.Float.Input(
                    "opacity",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much the colours cover the picture. Places that belong to nobody stay as they are.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The coloured pictures.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, routing: RoutingRecord, image: torch.Tensor, view: str, opacity: float) -> io.NodeOutput:
        views = routing_views(routing, view)
        recorded = views[0].winners.shape[0]
        pictures = image[..., :3].float().cpu()
        if recorded not in (1, len(pictures)):
            raise ValueError(
                f"Routing Maps: {counted(recorded, 'picture')} were recorded, but image holds {len(pictures)}. Connect "
                "the decoded result of the sampler that used this routing."
            )
        frames = [
            draw_legend(picture, routing.labels, frame.caption)
            for frame in views
            for picture in overlay(pictures, frame.winners.expand(len(pictures), -1, -1), opacity)
        ]
        drawn = torch.stack(frames)
        people = ", ".join(f"{number} {label}" for number, label in enumerate(routing.labels, 1))
        return io.NodeOutput(drawn, ui=shown(cls, f"{counted(len(frames), 'map')}: {people}", images=drawn))
