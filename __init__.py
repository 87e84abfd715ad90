"""ComfyUI-Likeness: people from reference photos in generated pictures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Return the pack's nodes. Lazy, because `import likeness.adapters` runs this file where there is no ComfyUI."""
    try:
        from .nodes import LikenessExtension
    except Exception:
        logging.getLogger("likeness").exception("ComfyUI-Likeness could not be loaded")  # ComfyUI prints no traceback
        raise
    return LikenessExtension()
