"""The adapters of the table: UniPortrait's two stages and what each part of it is compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..trainer.__main__ import main as trainer
from ..trainer.run.folder import find_start
from .recipe import Training
from .steps import Workshop

ADAPTER_SEED = 0
DECAY = 0.3  # last part of the steps, in which the learning rate falls: less noise in the weights


@dataclass(frozen=True)
class Part:
    """What a part of a training run is to learn."""

    min_snr: float
    other_photo: float


# First who it is, coarsely: that is decided under strong noise, which a small gamma makes count. Measured by how much
# the loss on a picture rises with somebody else's face, 500 steps with 0.1 are worth 1,700 with 5. Then the details,
# and that shirt, background and pose of the photo are not the person: half of the photos are others than the picture.
COARSE, DETAILS = Part(0.1, 0.1), Part(1.0, 0.5)


@dataclass(frozen=True)
class Variant:
    """One training run; `model` is what differs from the trainer's defaults, `start` a stage I it goes on from."""

    name: str
    stage: int
    model: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None


NO_DROPPING = {"dropping": {"structure_path": 0.0, "structure_tokens": 0.0}}
UNIPORTRAIT = (Variant("single", 1), Variant("pairs", 2, start="single"))
ABLATIONS = (
    Variant("single-global", 1, {"intrinsic": "global"}),
    Variant("single-no-dropping", 1, NO_DROPPING, start="single"),
    Variant("pairs-no-routing-loss", 2, {"routing": {"loss_weight": 0.0}}, start="single"),
    Variant("pairs-no-router", 2, {"routing": {"mode": "none"}}, start="single"),
)


def run_of(workshop: Workshop, variant: Variant) -> Path:
    """The folder of a variant's training run."""
    return workshop.folder / "runs" / variant.name


def train_variant(workshop: Workshop, variant: Variant) -> None:
    """Train it with `likeness.trainer`, or go on where it was stopped."""
    recipe = workshop.recipe
    parts = [(COARSE, recipe.stage1), (DETAILS, recipe.stage1_details)]
    if variant.start is not None:
        parts = [(DETAILS, recipe.stage2 if variant.stage == 2 else recipe.stage1_details)]
    path = workshop.folder / "configs" / f"{variant.name}.json"
    path.parent.mkdir(exist_ok=True)
    first = 0
    for part, training in parts:
        last, done = first + training.steps, steps_done(workshop, variant)
        if done < last:
            path.write_text(json.dumps(configuration(workshop, variant, part, training, last), indent=1), "utf-8")
            workshop.say(f"training {variant.name} to step {last}")
            other_settings = ["--accept-changes"] if first and done == first else []
            status = trainer(["train", str(path), *other_settings])
            if status:
                raise SystemExit(status)
        first = last


def steps_done(workshop: Workshop, variant: Variant) -> int:
    """How far a variant's training run is."""
    start = find_start(run_of(workshop, variant), "auto")
    return 0 if start is None else start.step


def configuration(
    workshop: Workshop, variant: Variant, part: Part, training: Training, last_step: int
) -> dict[str, Any]:
    """The trainer's settings of a variant; JSON is YAML as well."""
    recipe, sizes = workshop.recipe, workshop.sizes
    people = variant.stage
    base = {"model": workshop.base, "clip_vision": workshop.vision, "backbone": workshop.backbone}
    if variant.start is not None:
        base["stage_one"] = workshop.folder / "runs" / variant.start
    return {
        "output": str(workshop.folder / "runs" / variant.name),
        "seed": ADAPTER_SEED,
        "steps": last_step,
        "precision": "bf16" if workshop.device.type == "cuda" else "no",
        "base": {key: str(path) for key, path in base.items()},
        "data": {
            "path": str(workshop.cached_set(people)),
            "resolution": [[recipe.side * people, recipe.side]],
            "faces": [people, people],
            "workers": 0 if workshop.device.type == "cpu" else 8,
        },
        "model": {
            "stage": variant.stage,
            "sizes": {
                "rank": sizes.lora_rank,
                "width": sizes.resampler_width,
                "depth": sizes.resampler_layers,
                "heads": sizes.resampler_heads,
                "head_width": sizes.resampler_head_width,
                "tokens": sizes.id_tokens,
            },
            "loss": {"min_snr_gamma": part.min_snr},
            **variant.model,
            "dropping": {"other_photo": part.other_photo, **variant.model.get("dropping", {})},
        },
        "batch": {"global_size": training.batch, "per_device": training.batch},
        "optimiser": {
            "learning_rate": training.learning_rate,
            "warmup_steps": min(100, training.steps // 2),
            "decay_steps": int(DECAY * training.steps),
        },
        "checkpoints": {"every": max(1, training.steps // 20), "keep_last": 2},
        "logging": {"progress_bar": False},
        "samples": {"every": max(1, training.steps // 5), "steps": 20, "guidance": 3.0},
    }
