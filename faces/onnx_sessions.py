"""Networks as ONNX files: opening them with whatever onnxruntime offers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession as Session

logger = logging.getLogger("likeness.faces")

AUTO = "auto"
# What a user calls the places where onnxruntime can compute, and its own names for them.
PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "ROCM": "ROCMExecutionProvider",
    "MIGraphX": "MIGraphXExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "OpenVINO": "OpenVINOExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
}
# These compile the network for minutes before the first picture.
_SLOW_TO_BUILD = ("TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


def open_session(model: bytes, name: str, instead: str = "", provider: str = AUTO) -> Session:
    """A network from the content of an .onnx file.

    name: what messages call it. instead: a clause on what the user can do who has no onnxruntime. provider: "auto" for
    what the runtime prefers, or a key of `PROVIDERS`; for one that it does not offer comes the CPU, with a warning.
    Raises ValueError when onnxruntime is missing, and for a file that is damaged.
    """
    try:
        from onnxruntime import InferenceSession, get_available_providers
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf
    except ImportError as error:
        raise ValueError(
            f"{name} needs onnxruntime, which is not installed or broken ({error}). Install it with "
            f"`pip install onnxruntime`{instead}"
        ) from error
    providers = chosen_providers(get_available_providers(), provider)
    if provider != AUTO and PROVIDERS[provider] not in providers:
        logger.warning("%s runs on the CPU: the installed onnxruntime does not offer %s", name, provider)
    try:
        session = InferenceSession(model, providers=providers)
    except (Fail, InvalidGraph, InvalidProtobuf) as error:
        raise ValueError(f"{name} is damaged or not an ONNX model ({len(model):,} bytes): {error}") from error
    if session.get_providers()[0] != providers[0]:
        logger.warning("%s runs on %s: onnxruntime could not start %s", name, session.get_providers()[0], providers[0])
    return session


def runtime_available() -> bool:
    """Whether onnxruntime can be used; false too for what removing one of its two editions leaves behind."""
    try:
        from onnxruntime import InferenceSession, get_available_providers  # noqa: F401
    except ImportError:
        return False
    return True


def chosen_providers(available: Sequence[str], provider: str = AUTO) -> list[str]:
    """What to ask the runtime for: all usable ones, or the named one if it is there, with the CPU behind it."""
    if provider == AUTO:
        return usable_providers(available)
    wanted = PROVIDERS[provider]
    return list(dict.fromkeys([wanted, PROVIDERS["CPU"]])) if wanted in available else [PROVIDERS["CPU"]]


def usable_providers(available: Sequence[str]) -> list[str]:
    """What the runtime offers, in its order, without those that first compile for minutes; at least the CPU."""
    usable = [provider for provider in available if provider not in _SLOW_TO_BUILD]
    return usable or [PROVIDERS["CPU"]]
