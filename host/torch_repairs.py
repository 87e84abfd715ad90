"""The one place for tricks: torchvision and torchaudio made importable beside a PyTorch without CUDA.

On Linux the only ready-built torchvision and torchaudio may be CUDA builds, whose compiled parts need libraries that a
CPU-only PyTorch does not have; `import torchvision` then ends in "operator torchvision::nms does not exist". ComfyUI
imports both, but on our paths it calls none of their compiled operations.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from .environment import SetupError

FINDER_MODULE = "likeness_torchvision_operators"
# torchvision registers meta kernels for operators that its compiled part should have defined. Defining them just
# before it is imported is enough. As a finder, so that interpreters that never import it do not pay for PyTorch.
FINDER = '''"""Define the operators that torchvision expects, since its compiled part does not load here."""
import sys


class Finder:
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and Finder.library is None:
            import torch

            Finder.library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                Finder.library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Finder())
'''


def repair_torch_companions(python: Path) -> None:
    """Repair torchvision and torchaudio in `python`'s environment where they do not import; else change nothing.

    Raises:
        SetupError: one of them does not import even so.
    """
    packages = Path(_output(python, "import sysconfig; print(sysconfig.get_paths()['purelib'])"))
    if not _imports(python, "torchvision"):
        (packages / f"{FINDER_MODULE}.py").write_text(FINDER, "utf-8")
        (packages / f"{FINDER_MODULE}.pth").write_text(f"import {FINDER_MODULE}\n", "utf-8")
    if not _imports(python, "torchaudio"):
        for compiled in (packages / "torchaudio" / "lib").glob("*.so"):
            compiled.unlink()  # without them torchaudio takes its pure Python path by itself
    for name in ("torchvision", "torchaudio"):
        if not _imports(python, name):
            raise SetupError(
                f"{name} does not import beside this PyTorch; run `{python} -c 'import {name}'` to see why"
            )


def _imports(python: Path, name: str) -> bool:
    return subprocess.run([str(python), "-c", f"import {name}"], capture_output=True).returncode == 0


def _output(python: Path, script: str) -> str:
    return subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True).stdout.strip()
