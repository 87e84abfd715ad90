"""The tiny models, written once, and ComfyUI with the pack that makes it know them."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from likeness.demo.tiny_models import TinyModels, write_tiny_models


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models_pack(comfyui_path: Path) -> Iterator[ModuleType]:
    """The demo's models pack, loaded into this process as ComfyUI does, and taken out again."""
    import comfy.supported_models
    import likeness.demo

    path = Path(likeness.demo.__file__).parent / "models_pack" / "__init__.py"
    spec = importlib.util.spec_from_file_location("tiny_models_pack", path)
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    known = list(comfy.supported_models.models)

    async def load() -> None:
        await (await pack.comfy_entrypoint()).on_load()

    asyncio.run(load())
    yield pack
    comfy.supported_models.models[:] = known
