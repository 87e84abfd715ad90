"""A training loop that may be killed at any moment: its state is one file, its randomness goes by the step's number."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SAVE_EVERY_SECONDS = 180
SPEAK_EVERY_SECONDS = 30


@dataclass
class Loop:
    """Steps of one named training in `folder`; `parts` are everything with a state_dict that a step changes."""

    name: str
    folder: Path
    steps: int
    parts: Mapping[str, Any]
    say: Callable[[str], None]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def run(self, step: Callable[[int, torch.Generator], Mapping[str, Tensor]]) -> None:
        """Call step(number, generator) for the steps that are not yet done; it returns losses to show.

        The generator is seeded by the step's number, so an interrupted run goes on as an unbroken one.
        """
        first = self._resume()
        saved = spoken = time.monotonic()
        sums: dict[str, Tensor] = {}
        count = 0
        for number in range(first, self.steps):
            for key, value in step(number, torch.Generator().manual_seed(number)).items():
                sums[key] = sums.get(key, torch.zeros(())) + value.detach().float().cpu()
            count += 1
            now = time.monotonic()
            if now - spoken > SPEAK_EVERY_SECONDS or number + 1 == self.steps:
                rate = count / (now - spoken)
                shown = {key: float(value) / count for key, value in sums.items()}
                self.say(self._line(number + 1, rate, shown))
                self._log(number + 1, rate, shown)
                sums, count, spoken = {}, 0, now
            if now - saved > SAVE_EVERY_SECONDS:
                self._save(number + 1)
                saved = now
        self._save(self.steps)

    def _line(self, number: int, rate: float, shown: Mapping[str, float]) -> str:
        losses = ", ".join(f"{key} {value:.4f}" for key, value in shown.items())
        return f"{self.name}: step {number} of {self.steps}, {rate:.2f} steps/s, {losses}"

    def _log(self, number: int, rate: float, shown: Mapping[str, float]) -> None:
        with (self.folder / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps({"step": number, "steps_per_second": rate, **shown}) + "\n")

    def _resume(self) -> int:
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        return int(state["step"])

    def _save(self, number: int) -> None:
        part = self.path.with_suffix(".part")
        torch.save({"step": number, "parts": {name: part.state_dict() for name, part in self.parts.items()}}, part)
        os.replace(part, self.path)


class Average(nn.Module):
    """The exponential moving average of a network's weights: what is shipped in the end."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.names = [name for name, _ in network.named_parameters()]
        self.values = nn.ParameterList([p.detach().clone() for p in network.parameters()]).requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network; the first steps count for more, so that random weights are soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values), list(network.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Overwrite the network's weights with the average."""
        for target, value in zip(network.parameters(), self.values, strict=True):
            target.copy_(value)
