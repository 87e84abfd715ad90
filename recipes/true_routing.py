"""Where the router sends the faces of true pictures, whose places are known: no judge decides who was drawn where.

Pictures of two test people are put under noise, as in training, and each layer's hard routing is compared with the
boxes of their faces. What people look like comes from other photos.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..evaluation.intervals import Estimate, estimate_mean
from ..evaluation.metrics.routing_accuracy import box_masks, routing_accuracy
from ..synthetic.captions import caption
from ..synthetic.scene import draw_scene
from ..trainer.model.base_model import BaseModel
from ..trainer.model.draws import Purpose, cross_layer_sizes, normal_noise
from ..trainer.model.host import DiffusersHost
from ..trainer.model.losses import noisy_latents
from .drawing import Drawn, draw
from .steps import Workshop
from .table import Row, Studio

TIMESTEPS = (800, 600, 400, 200)
CLAIMED_TIMESTEP = 200  # at which pictures still show who is who
BATCH = 25


@torch.no_grad()
def true_routing(studio: Studio, row: Row) -> dict[int, Estimate]:
    """For each timestep: accuracy inside the faces, mean over the layers, of one picture for each sitter.

    row names the adapter, which has a router. A layer whose grid is too coarse for faces, so that less than half of any
    place is face, does not count; intervals are over people.
    """
    adapter = studio.adapter(row)
    identities = studio.identities(row, adapter)
    host = DiffusersHost(studio.base.unet, adapter)
    pictures = _pictures(studio.workshop, [int(sitter.name) for sitter in studio.sitting])
    scores: dict[int, list[float]] = {timestep: [] for timestep in TIMESTEPS}
    for start in range(0, len(pictures), BATCH):
        some = pictures[start : start + BATCH]
        seen = [[identities[str(person.seed)] for person in picture.scene.people] for picture in some]
        tokens = torch.stack([torch.stack([person.tokens["cond"] for person in pair]) for pair in seen])
        call = host.prepare(tokens.to(studio.base.device), "lora_multi")
        text = studio.base.text([caption(picture.scene) for picture in some])
        for timestep in TIMESTEPS:
            latents = _noisy(studio.base, some, timestep)
            host(latents, torch.full((len(some),), timestep, device=latents.device), text, call)
            sizes = cross_layer_sizes(latents.shape[-2], latents.shape[-1])
            maps = [logits.argmax(-1).unflatten(-1, sizes[n]).cpu().numpy() for n, logits in call.logits.items()]
            scores[timestep] += [_score(picture, [each[k] for each in maps]) for k, picture in enumerate(some)]
    groups = [[str(person.seed) for person in picture.scene.people] for picture in pictures]
    return {timestep: estimate_mean(values, groups) for timestep, values in scores.items()}


def _pictures(workshop: Workshop, seeds: Sequence[int]) -> list[Drawn]:
    """A picture of each person with the next one; the references are cut from others."""
    recipe = workshop.recipe
    pairs = [(seed, seeds[(number + 1) % len(seeds)]) for number, seed in enumerate(seeds)]
    size = (recipe.side, 2 * recipe.side)
    scenes = [draw_scene(pair, pair[0], size, recipe.level) for pair in pairs]
    return list(draw(scenes, str(workshop.device)))


def _noisy(base: BaseModel, pictures: Sequence[Drawn], timestep: int) -> torch.Tensor:
    """Latents (P, c, h, w) under noise."""
    assert base.vae is not None, "the studio draws"
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).to(base.device)
    mean, logvar = base.vae(pixels.movedim(-1, 1).float() / 127.5 - 1)
    latents = base.latents.sampled(mean, logvar, torch.zeros_like(mean))
    shape = (latents.shape[1], latents.shape[2], latents.shape[3])
    noise = [normal_noise(picture.scene.seed, timestep, Purpose.SAMPLING, shape) for picture in pictures]
    alphas = base.alphas_cumprod[timestep].float().expand(len(pictures)).to(base.device)
    return noisy_latents(latents, torch.stack(noise).to(base.device), alphas)


def _score(picture: Drawn, maps: Sequence[np.ndarray]) -> float:
    height, width = picture.pixels.shape[:2]
    masks = box_masks([tuple(map(float, box)) for box in picture.boxes], height, width)  # type: ignore[misc]
    scores = [routing_accuracy(routed, masks) for routed in maps]
    return float(np.mean([score for score in scores if score is not None]))
