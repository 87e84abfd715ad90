"""The cached tensors of one sample: what the VAE and the face encoders say of it, float16, as a safetensors file.

"latent_mean", "latent_logvar" (c, h, w) of the cut picture; for face k of the record "face{k}.intrinsic" (49, C4) and
"face{k}.structure" (256, Cs); "other{j}.intrinsic" (49, C4). Half precision holds latents and features to about 1e-3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LATENT_MEAN, LATENT_LOGVAR = "latent_mean", "latent_logvar"


def intrinsic_name(face: int) -> str:
    return f"face{face}.intrinsic"


def structure_name(face: int) -> str:
    return f"face{face}.structure"


def other_name(number: int) -> str:
    return f"other{number}.intrinsic"


def encode_cache(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Tensors as the bytes of a safetensors file, in float16."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(tensors[name], np.float16) for name in sorted(tensors)})


def decode_cache(content: bytes, where: str) -> dict[str, np.ndarray]:
    """The tensors of a cache file's bytes. Raises ValueError naming the place for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{where}: the cached tensors are damaged ({error}); make the cache again") from error
