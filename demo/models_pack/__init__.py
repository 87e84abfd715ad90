"""Lets ComfyUI load the tiny models of the demo and the tests. Not for anything else: nothing a user needs is in here.

ComfyUI knows models by their widths. This small custom node pack, linked into a custom_nodes folder, adds classes to
its list that no other model matches (SD 1.5, SDXL and FLUX of 64 channels), and a loader node for the tiny CLIP vision
tower. A checkpoint and a ControlNet of that width then load through the stock nodes. It stands alone, because ComfyUI
loads it from a folder of its own.
"""

from __future__ import annotations

import comfy.supported_models
from comfy_api.latest import ComfyExtension, io

from .clip_vision import LoadCLIPVision
from .flux import TinyFlux
from .sd15 import TinySD15
from .sdxl import TinySDXL


class DemoExtension(ComfyExtension):
    async def on_load(self) -> None:
        known = comfy.supported_models.models
        known += [TinySD15, TinySDXL]
        # In front, for the first that matches counts: ComfyUI takes every width for FLUX's.
        known.insert(known.index(comfy.supported_models.Flux), TinyFlux)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadCLIPVision]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
