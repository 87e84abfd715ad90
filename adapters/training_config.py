"""The config.json that UniID's published trainer leaves beside its file: all arguments of the training run."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .checkpoint import Checkpoint, CheckpointError

CONFIG = "config.json"


def check_config(file: Checkpoint, sizes: Mapping[str, int]) -> None:
    """Hold a config.json in the file's folder against the sizes that its tensors show, by the config's names.

    A missing config and missing entries are no fault. Raises CheckpointError if it says otherwise or cannot be read.
    """
    path = file.path.with_name(CONFIG)
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{CONFIG} beside {file.name} cannot be read ({error}). Download it again or delete it: all sizes are read "
            "off the tensors."
        ) from error
    if not isinstance(config, dict):
        return  # of something else
    for name, size in sizes.items():
        if config.get(name, size) != size:
            raise CheckpointError(
                f"{file.name} ({file.family.label}): {CONFIG} beside it says {name} = {config[name]}, but its tensors "
                f"have {size}. One of the two belongs to another training run; keep each file with its own {CONFIG}."
            )
