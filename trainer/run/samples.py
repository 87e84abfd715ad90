"""Pictures drawn while training: the same people, prompts and noise every time, beside the originals."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from ...adapters.identity import Identity
from ..batch import Batch, FaceFeatures
from ..config import TrainingConfig
from ..data.batches import TrainingBatches
from ..model.sampling import Picture, SamplingSettings, sample
from .building import Parts
from .folder import SAMPLES
from .logs import RunLog

logger = logging.getLogger("likeness.trainer")

# Who a position belongs to, in the routing maps: person 1, 2, ...
COLOURS = np.array([[230, 60, 60], [60, 120, 230], [60, 180, 90], [235, 190, 50], [160, 80, 200], [70, 200, 200]])


class SampleGrid:
    """A picture per checked step: rows of original, sample and, with several people, the routing map."""

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, parts: Parts, log: RunLog | None) -> None:
        self.config, self.accelerator, self.parts, self.log = config, accelerator, parts, log
        self._batch: Batch | None = None

    def draw(self, step: int) -> None:
        """Make the pictures on the main process, write `samples/step-N.png` and show them in TensorBoard."""
        if self.log is None:
            return
        batch = self._fixed_batch()
        module, settings = self.parts.module, self.config.samples
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            people = _identities(self.parts, batch)
            pictures = [
                Picture(caption, persons, seed)
                for seed, (caption, persons) in enumerate(zip(batch.captions, people, strict=True))
            ]
            wanted = SamplingSettings(settings.steps, settings.guidance, routing_maps=True)
            samples = sample(module.base, module.host, pictures, tuple(batch.masks.shape[-2:]), wanted)
        originals = self._originals(batch)
        rows = [
            np.concatenate([original, image, *_maps(routing, image.shape[:2])], axis=1)
            for original, image, routing in zip(originals, samples.images, samples.routing, strict=True)
        ]
        grid = np.concatenate(rows, axis=0)
        folder = self.config.output / SAMPLES
        folder.mkdir(exist_ok=True)
        Image.fromarray(grid).save(folder / f"step-{step:08d}.png")
        self.log.image(step, "samples", grid)
        self.log.restart_clock()

    def _fixed_batch(self) -> Batch:
        """The first pictures of the run's first step, whatever the number of processes."""
        if self._batch is None:
            size = self.config.batch.global_size
            count = max(n for n in range(1, self.config.samples.count + 1) if size % n == 0)
            data = self.config.data.model_copy(update={"workers": 0})
            batches = TrainingBatches(
                self.parts.pictures, data, batch_size=count, seed=self.config.seed, accumulation=size // count
            )
            self._batch = next(iter(batches))
        return self._batch

    def _originals(self, batch: Batch) -> list[np.ndarray]:
        """(H, W, 3) uint8 of each training picture, decoded where only its latent is at hand."""
        base = self.parts.module.base
        if batch.pixels is not None:
            pixels = batch.pixels
        else:
            assert batch.latents is not None and base.vae is not None, "build_module keeps the VAE for samples"
            mean = batch.latents[:, 0].float().to(base.device)
            pixels = base.vae.decode(base.latents.scaled(mean)).cpu()
        array = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return list(array.movedim(1, -1).numpy())


def _identities(parts: Parts, batch: Batch) -> list[tuple[Identity, ...]]:
    """Each picture's people, made as in the nodes with the whole structure branch."""
    people: list[Tensor | FaceFeatures] = []
    for row, column in torch.nonzero(batch.valid).tolist():
        if batch.features is None:
            assert batch.crops is not None
            people.append(batch.crops[row, column][None])
        else:
            features = batch.features
            people.append(FaceFeatures(features.intrinsic[row, column][None], features.structure[row, column][None]))
    made = iter(parts.module.tokens.identities(people, structure_scale=1.0))
    return [tuple(next(made) for _ in range(count)) for count in batch.valid.sum(1).tolist()]


def _maps(routing: dict[int, Tensor], size: Sequence[int]) -> list[np.ndarray]:
    """One picture of who got which position, the mean over the finest layers; nothing where nobody was routed."""
    if not routing:
        return []
    finest = max(maps.shape[-1] * maps.shape[-2] for maps in routing.values())
    shares = torch.stack([maps for maps in routing.values() if maps.shape[-1] * maps.shape[-2] == finest]).mean(0)
    colours = COLOURS[np.arange(len(shares)) % len(COLOURS)]
    coloured = np.einsum("nhw,nc->hwc", shares.numpy(), colours)
    image = Image.fromarray(coloured.round().clip(0, 255).astype(np.uint8))
    return [np.asarray(image.resize((size[1], size[0]), Image.Resampling.NEAREST))]
