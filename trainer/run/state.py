"""Everything a run needs to go on exactly, as safetensors and JSON: trained weights, optimiser, generators, step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import TrainingError

WEIGHTS, OPTIMISER, RANDOM, STATE = "trained.safetensors", "optimiser.safetensors", "random.safetensors", "state.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands. The data position is step * global batch, the learning rate a function of the step."""

    step: int  # so many are done
    global_batch: int
    processes: int
    config: dict[str, Any]  # resolved, for the comparison on resuming
    fingerprints: dict[str, str]  # of the files the config names
    scaler: dict[str, float] = field(default_factory=dict)  # fp16's loss scale
    versions: dict[str, str] = field(default_factory=dict)


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by their names in the module."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def write_progress(folder: Path, progress: Progress) -> None:
    """Write `state.json`."""
    (folder / STATE).write_text(json.dumps(asdict(progress), indent=1), "utf-8")


def read_progress(folder: Path) -> Progress:
    """Read `state.json`. Raises TrainingError if it is not one of ours."""
    try:
        return Progress(**json.loads((folder / STATE).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"{folder / STATE} cannot be read: {error}.") from error


def write_weights(folder: Path, module: nn.Module) -> None:
    """Write the trained weights in the precision of training, and nothing frozen."""
    save_file(_on_cpu(trained_parameters(module)), folder / WEIGHTS)


def read_weights(folder: Path, module: nn.Module) -> None:
    """Put trained weights back in place. Raises TrainingError if they are not those of this module."""
    parameters = trained_parameters(module)
    tensors = load_file(folder / WEIGHTS)
    _check(folder / WEIGHTS, {name: parameters[name].shape for name in parameters}, tensors)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def write_optimiser(folder: Path, module: nn.Module, optimiser: Optimizer) -> None:
    """Write the optimiser's tensors as `<parameter>/<name>`."""
    tensors = {
        f"{name}/{key}": value
        for name, parameter in trained_parameters(module).items()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
    save_file(_on_cpu(tensors), folder / OPTIMISER)


def read_optimiser(folder: Path, module: nn.Module, optimiser: Optimizer) -> None:
    """Put the optimiser's tensors back. Raises TrainingError if they are not those of this module's parameters."""
    names = {parameter: name for name, parameter in trained_parameters(module).items()}
    kept: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / OPTIMISER).items():
        name, _, part = key.rpartition("/")
        kept.setdefault(name, {})[part] = value
    shapes = {name: parameter.shape for parameter, name in names.items()}
    if kept:  # an optimiser that made no step has no state
        moments = {name: state.get("exp_avg", torch.empty(0)) for name, state in kept.items()}
        _check(folder / OPTIMISER, shapes, moments)
    content = optimiser.state_dict()
    order = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    content["state"] = {
        number: kept[names[parameter]] for number, parameter in enumerate(order) if names[parameter] in kept
    }
    optimiser.load_state_dict(content)


def write_random(folder: Path, states: list[dict[str, Tensor]]) -> None:
    """Write the generators' states of every process, as `<process>/<name>`."""
    save_file(
        {f"{number}/{name}": value.cpu() for number, state in enumerate(states) for name, value in state.items()},
        folder / RANDOM,
    )


def read_random(folder: Path, process: int) -> dict[str, Tensor]:
    """The generators' states of one process; empty if the run had fewer processes."""
    prefix = f"{process}/"
    tensors = load_file(folder / RANDOM)
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _on_cpu(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _check(path: Path, shapes: dict[str, torch.Size], tensors: dict[str, Tensor]) -> None:
    missing = [name for name in shapes if name not in tensors]
    extra = [name for name in tensors if name not in shapes]
    other = [name for name in shapes if name in tensors and tensors[name].shape != shapes[name]]
    kinds = ((missing, "missing"), (extra, "not trained here"), (other, "of another shape"))
    faults = [f"{len(names)} {what} ({names[0]})" for names, what in kinds if names]
    if faults:
        raise TrainingError(
            f"{path} belongs to a run that trains other weights: {', '.join(faults)}. "
            "Resume with the settings of that run, or start a new one in another output folder."
        )
