"""From the settings to what a run works with: pictures, frozen networks, the module that is trained, its optimiser."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import AdamW

from ...adapters.layers import SD15_LAYERS
from ...adapters.uniportrait import UniPortrait, UniPortraitSizes, save_faceid, save_router
from ..batch import Batch
from ..config import TrainingConfig
from ..data.batches import TrainingBatches
from ..data.picture_set import PictureSet, open_dataset
from ..model.base_model import BaseModel, load_base_model
from ..model.draws import Draws
from ..model.encoders import FaceEncoders, load_face_encoders
from ..model.uniportrait import UniPortraitTraining
from ..model.weights import load_adapter, new_adapter, with_router
from .devices import BatchPlan
from .errors import TrainingError
from .fingerprints import fingerprint
from .folder import find_stage_one

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RELEASED_NAMES = {1: "uniportrait-faceid_sd15.safetensors", 2: "uniportrait-router_sd15.safetensors"}


@dataclass(frozen=True)
class Parts:
    """What a run works with, on this process."""

    batches: TrainingBatches
    module: UniPortraitTraining

    @property
    def pictures(self) -> PictureSet:
        """The whole set."""
        return self.batches.loader.pictures

    def summary(self) -> str:
        """What is trained on how much."""
        counts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in trained_counts(self.module).items())
        return f"training {counts} parameters on {self.batches.num_pictures} pictures"

    def steps(self) -> Iterator[tuple[Batch, Draws]]:
        """The batches of the run with their random draws."""
        return draw_ahead(iter(self.batches), self.module)


def draw_ahead(batches: Iterator[Batch], module: UniPortraitTraining) -> Iterator[tuple[Batch, Draws]]:
    """Batches with their random draws, which another thread makes while the device computes."""

    def take() -> tuple[Batch, Draws]:
        batch = next(batches)
        return batch, module.draw(batch)

    with ThreadPoolExecutor(1, "likeness-draws") as thread:
        following = thread.submit(take)
        while True:
            current = following.result()
            following = thread.submit(take)
            yield current


def check_files(config: TrainingConfig) -> None:
    """Raise TrainingError naming every file and folder of the settings that is not there."""
    named = {f"base.{name}": getattr(config.base, name) for name in ("model", "clip_vision", "backbone", "stage_one")}
    named["data.path"] = config.data.path
    missing = [f"{key}: {path}" for key, path in named.items() if path is not None and not path.exists()]
    if missing:
        raise TrainingError("these files or folders of the settings do not exist:\n- " + "\n- ".join(missing))


def fingerprints_of(config: TrainingConfig, pictures: PictureSet) -> dict[str, str]:
    """Digests by which a resumed run knows its files again; stage I's file counts when stage II starts, not later."""
    digest = hashlib.sha256(pictures.sizes.tobytes() + pictures.num_faces.tobytes())
    for key in pictures.keys:
        digest.update(f"{key}\n".encode())
    files = {f"base.{name}": getattr(config.base, name) for name in ("model", "clip_vision", "backbone")}
    return {"data.path": digest.hexdigest(), **{key: fingerprint(path) for key, path in files.items()}}


def open_batches(config: TrainingConfig, accelerator: Accelerator, plan: BatchPlan, start_step: int) -> TrainingBatches:
    """This process's batches from a step on. Raises ValueError for pictures that cannot be trained on."""
    return TrainingBatches(
        open_dataset(config.data.path),
        config.data,
        batch_size=plan.per_device,
        seed=config.seed,
        rank=accelerator.process_index,
        world=plan.processes,
        accumulation=plan.accumulation,
        start_step=start_step,
        pin_memory=accelerator.device.type == "cuda",
    )


def build_module(config: TrainingConfig, batches: TrainingBatches, device: torch.device) -> UniPortraitTraining:
    """Load the frozen networks and make the adapter that is trained; what only a cache replaces is let go again."""
    loader, dtype = batches.loader, DTYPES[config.precision]
    base = load_base_model(config.base.model, device, dtype)
    encoders = load_face_encoders(config.base.backbone, config.base.clip_vision, device, dtype)
    _check_cache(config, batches, base, encoders)
    adapter = _adapter(config, base, encoders)
    if loader.gives_latents and not config.samples.every:
        base = replace(base, vae=None)
    if not loader.gives_features:
        return UniPortraitTraining(base, adapter, config.model, config.seed, encoders)
    nobody, head = encoders.unconditional(), encoders.head()
    del encoders
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return UniPortraitTraining(base, adapter, config.model, config.seed, unconditional=nobody, head=head)


def build_optimiser(config: TrainingConfig, module: UniPortraitTraining, device: torch.device) -> AdamW:
    """AdamW over the module's groups; each remembers its full learning rate for the warm-up."""
    settings = config.optimiser
    groups = module.parameter_groups(settings.learning_rate, settings.lora_factor)
    return AdamW(
        [{**group, "full_rate": group["lr"]} for group in groups],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cuda", "cpu"),
    )


def save_released(
    folder: Path, sizes: UniPortraitSizes, state: Mapping[str, Tensor], config: TrainingConfig, step: int
) -> None:
    """Write the stage's file for the nodes into a folder; `state` is the module's, gathered where it was sharded."""
    adapter = UniPortrait(sizes, device="meta")
    adapter.load_state_dict({key.removeprefix("adapter."): value for key, value in state.items()}, assign=True)
    stage = config.model.stage
    dtype = {"float32": torch.float32, "float16": torch.float16}[config.checkpoints.file_dtype]
    metadata = {"likeness.stage": str(stage), "likeness.step": str(step)}
    (save_faceid if stage == 1 else save_router)(folder / RELEASED_NAMES[stage], adapter, dtype, metadata)


def trained_counts(module: UniPortraitTraining) -> dict[str, int]:
    """Part of the adapter -> parameters in it that are trained."""
    counts = {
        name: sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad)
        for name, part in module.adapter.named_children()
    }
    return {name: count for name, count in counts.items() if count}


def _adapter(config: TrainingConfig, base: BaseModel, encoders: FaceEncoders) -> UniPortrait:
    if config.base.stage_one is None:
        assert config.model.stage == 1, "the settings were checked"
        return new_adapter(base.unet, encoders.sizes, config.seed, config.model)
    file = find_stage_one(config.base.stage_one, RELEASED_NAMES[1])
    adapter = load_adapter(file)
    if config.model.stage == 2:
        adapter = with_router(adapter, config.seed)
    widths = tuple(base.unet.get_submodule(layer.diffusers).to_q.out_features for layer in SD15_LAYERS)
    if adapter.sizes.hidden != widths:
        raise TrainingError(f"{file} was trained on another base model: its layers are not as wide as {base.name}'s.")
    return adapter


def _check_cache(config: TrainingConfig, batches: TrainingBatches, base: BaseModel, encoders: FaceEncoders) -> None:
    """Raise TrainingError if the cached tensors were made with other networks than these."""
    cache, loader = batches.loader.pictures.cache, batches.loader
    if cache is None:
        return
    pairs = []
    if loader.gives_latents and base.vae is not None:
        pairs.append(("latents", cache.latents, base.vae.fingerprint, "VAE"))
    if loader.gives_features:
        pairs.append(("features", cache.features, encoders.fingerprint, "face backbone or CLIP vision tower"))
    for what, made_with, now, network in pairs:
        if made_with != now:
            raise TrainingError(
                f"the cached {what} of {config.data.path} were made with another {network} than the settings name: "
                f"make the cache again, or set data.use_cached_{what}: false."
            )
