"""Every setting of a training run; what the values alone can tell is checked here, before anything loads.

The defaults follow docs/uniportrait.md, section 11. docs/training.md explains each setting that the paper leaves open.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from .data.settings import DataSettings
from .model.settings import ModelSettings, Settings


class BaseFiles(Settings):
    """The frozen networks, on this computer; nothing is downloaded."""

    model: Path = Field(description="Stable Diffusion 1.5: a diffusers folder, or one .safetensors or .ckpt file.")
    clip_vision: Path = Field(description="CLIP vision tower: a transformers folder, or the ViT-H file.")
    backbone: Path = Field(description="Face recognition backbone, .bin or .safetensors.")
    stage_one: Path | None = Field(
        default=None,
        description="Stage I's faceid file, or a checkpoint or run folder that holds one. Stage II is built on it; "
        "stage I goes on from it instead of new weights, the released file for example.",
    )


class BatchSettings(Settings):
    """global_size = per_device x processes x accumulation."""

    global_size: int = Field(default=128, ge=1, description="Pictures of one optimiser step over all devices.")
    per_device: int = Field(
        default=16, ge=1, description="Pictures that one device computes at once; memory follows it."
    )
    accumulation: int | None = Field(
        default=None, ge=1, description="Passes of one step; null: what the other two leave."
    )


class OptimiserSettings(Settings):
    """AdamW; the learning rate rises linearly, stays, and if wanted falls linearly at the end."""

    learning_rate: float = Field(
        default=1e-5, gt=0.0, description="Of the resampler and projections, and of the router."
    )
    lora_factor: float = Field(
        default=0.1, gt=0.0, description="Stage II: learning rate of the LoRA over the router's."
    )
    warmup_steps: int = Field(default=500, ge=0, description="Steps in which the learning rate rises from 0.")
    decay_steps: int = Field(
        default=0, ge=0, description="Last steps, in which the learning rate falls to 0; 0: it stays to the end."
    )
    weight_decay: float = Field(default=0.01, ge=0.0, description="AdamW's.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="AdamW's.")
    epsilon: float = Field(default=1e-8, gt=0.0, description="AdamW's.")
    clip: float | None = Field(
        default=1.0, gt=0.0, description="Longest gradient; longer ones are scaled down. null: never."
    )


class CheckpointSettings(Settings):
    """When the state is saved and what of it is kept."""

    every: int = Field(default=1000, ge=1, description="Steps between checkpoints.")
    keep_last: int = Field(default=3, ge=1, description="So many of the newest checkpoints stay.")
    keep_every: int = Field(default=0, ge=0, description="Checkpoints at multiples of it stay for good; 0: none do.")
    file_dtype: Literal["float32", "float16"] = Field(
        default="float32",
        description="Of the file for the nodes; float16 as the published ones halves it. The state is float32.",
    )
    when_disk_full: Literal["stop", "continue"] = Field(
        default="stop", description="What happens when one cannot be written; the last whole one is kept either way."
    )


class LogSettings(Settings):
    """What is shown; log.jsonl has every step in any case."""

    every: int = Field(default=10, ge=1, description="Steps between points of the TensorBoard curves.")
    tensorboard: bool = True
    progress_bar: bool = True


class SampleSettings(Settings):
    """Pictures drawn while training, of people from the data."""

    every: int = Field(default=1000, ge=0, description="Steps between sample pictures; 0: none.")
    count: int = Field(default=4, ge=1, description="At most so many pictures: the first ones of the first step.")
    steps: int = Field(default=25, ge=1, description="Denoising steps of a sample.")
    guidance: float = Field(default=7.5, ge=1.0, description="Classifier-free guidance.")


class TrainingConfig(Settings):
    """One run."""

    system: Literal["uniportrait"] = "uniportrait"
    output: Path = Field(description="Folder of the run; on a disk that all machines share, if there are several.")
    seed: int = Field(
        default=0, ge=0, description="All randomness follows from it and from a sample's place in the run."
    )
    steps: int = Field(ge=1, description="Optimiser steps. The paper: 300,000 in stage I, 150,000 in stage II.")
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["no", "fp16", "bf16"] = Field(
        default="no", description="What the networks compute in; trained weights and the optimiser stay in float32."
    )
    tf32: bool = Field(default=True, description="CUDA: float32 products by tensor cores, where precision is no.")
    max_skipped_steps: int = Field(
        default=20,
        ge=1,
        description="fp16: so many overflowing steps in a row end the run; single ones are the scaler's affair.",
    )
    base: BaseFiles
    data: DataSettings
    model: ModelSettings = ModelSettings()
    batch: BatchSettings = BatchSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    logging: LogSettings = LogSettings()
    samples: SampleSettings = SampleSettings()

    @model_validator(mode="after")
    def _stages(self) -> TrainingConfig:
        if self.model.stage == 2 and self.base.stage_one is None:
            raise ValueError(
                "stage II starts from stage I's result: set base.stage_one to its run folder, or to its "
                "uniportrait-faceid_sd15.safetensors"
            )
        ramps = self.optimiser.warmup_steps + self.optimiser.decay_steps
        if ramps > self.steps:
            raise ValueError(
                f"optimiser.warmup_steps + optimiser.decay_steps ({ramps}) is more than steps ({self.steps}): "
                "the learning rate would never be reached"
            )
        return self


def resolved(config: TrainingConfig) -> dict[str, Any]:
    """Every setting as plain values, defaults filled in and paths made absolute: what is saved with a run."""
    return _absolute(config.model_dump())


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that were saved with a run, with its default for each that did not exist yet.

    Those of another version, which are no settings today, come back as they are.
    """
    try:
        return resolved(TrainingConfig.model_validate(values))
    except ValidationError:
        return values


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_absolute(inner) for inner in value]
    return str(value.absolute()) if isinstance(value, Path) else value
