"""CLIP networks of transformers filled from tensors, without making random weights first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def without_weights(model_class: type, config: Any) -> Any:
    """The network on the meta device; random weights for a ViT-H would take half a minute."""
    with torch.device("meta"):
        return model_class(config)


def named_as_in(model: Any, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A tower's tensors under the model's own names: some files and versions of transformers leave out the prefix."""
    own = prefix if next(iter(model.state_dict())).startswith(prefix) else ""
    return {own + key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def fill(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Give a network from `without_weights` its tensors, strictly, and its position numbers, which are in no file."""
    model.load_state_dict(tensors, assign=True)
    for module in model.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            positions = torch.arange(module.position_embedding.num_embeddings)[None]
            module.register_buffer("position_ids", positions, persistent=False)
