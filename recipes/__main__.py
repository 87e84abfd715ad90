"""`python -m likeness.recipes cpu|gpu`: make the tiny trained models from nothing."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..demo.tiny_sizes import TinySizes
from .adapters import ABLATIONS, UNIPORTRAIT, train_variant
from .claims import claims, claims_markdown
from .export import export
from .recipe import RECIPES
from .steps import Workshop
from .table import ROWS, Studio, make_table
from .true_routing import CLAIMED_TIMESTEP, true_routing
from .unpack import unpack

STEPS = ("pictures", "vae", "base", "encoders", "sets", "adapters", "ablations", "table", "export")
LEFT = ("sets", "ablations", "table")  # what finished weights do not hold


def main(arguments: Sequence[str]) -> int:
    """Run the steps that are asked for, in their order."""
    parser = argparse.ArgumentParser(prog="likeness.recipes", description=__doc__)
    parser.add_argument("recipe", choices=RECIPES, help="gpu: one data-centre card, 25 minutes. cpu: two cores, hours.")
    parser.add_argument("--folder", type=Path, help="where everything is kept: output/recipe-NAME")
    parser.add_argument("--only", nargs="+", choices=STEPS, help="these steps only")
    parser.add_argument("--weights", type=Path, help="where the finished weights go: weights in the folder")
    parser.add_argument("--device", help="cuda, cpu, mps: the best there is")
    parser.add_argument(
        "--start", type=Path, metavar="WEIGHTS", help=f"begin with these finished weights; then only {', '.join(LEFT)}"
    )
    options = parser.parse_args(arguments)
    folder = options.folder or Path("output", f"recipe-{options.recipe}")
    folder.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_float32_matmul_precision("high")  # TensorFloat-32 on GPUs that have it
    start = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - start:6.0f} s] {line}\n")
        sys.stdout.flush()

    workshop = Workshop(RECIPES[options.recipe], folder, device, say, TinySizes())
    if options.start is not None:
        unpack(workshop, options.start)
    wanted = options.only or (STEPS if options.start is None else LEFT)
    for name in STEPS:
        if name in wanted:
            _make(workshop, name, options.weights)
    return 0


def _make(workshop: Workshop, step: str, weights: Path | None) -> None:
    table = workshop.folder / "table"
    if step in ("adapters", "ablations"):
        for variant in UNIPORTRAIT if step == "adapters" else ABLATIONS:
            train_variant(workshop, variant)
    elif step == "table":
        studio = Studio(workshop, workshop.recipe.test_people)
        results, routed = make_table(studio, ROWS, table), true_routing(studio, ROWS[-1])
        for timestep, estimate in routed.items():
            workshop.say(f"routing inside faces of true pictures, timestep {timestep}: {estimate.shown(3)}")
        (table / "claims.md").write_text(claims_markdown(claims(results, routed[CLAIMED_TIMESTEP])), "utf-8")
    elif step == "export":
        export(workshop, weights or workshop.folder / "weights", table / "results.json")
    else:
        getattr(workshop, f"make_{step}")()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
