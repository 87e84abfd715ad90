"""Training in a process in which other tests have been."""

from __future__ import annotations

import torch


def pytest_runtest_setup() -> None:
    torch.set_grad_enabled(True)  # importing ComfyUI, as other tests do, turns gradients off in the whole process
