"""UniPortrait in training: what a step computes, what is trained in each stage, and what is saved.

Letters: B samples, N faces, m tokens of one, D their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...adapters.uniportrait import UniPortrait, save_faceid, save_router
from ..batch import Batch, FaceFeatures
from .base_model import BaseModel
from .draws import Draws, DrawShapes, cross_layer_sizes, draw, split_layers
from .encoders import FaceEncoders
from .host import DiffusersHost, GumbelRouting, IdentityCall
from .identity_tokens import TokenMaker
from .losses import diffusion_loss, noisy_latents, prediction_target, routing_loss
from .settings import ModelSettings


class StepLosses(NamedTuple):
    """The losses of one batch, float32. total is the mean over all samples of diffusion plus routing."""

    total: Tensor  # ()
    diffusion: Tensor  # (B,)
    routing: Tensor  # (B,): times λ; 0 in stage I and for samples without face condition
    timesteps: Tensor  # (B,) int64


class UniPortraitTraining(nn.Module):
    """A training step of stage I or II; its parameters and its state are the adapter's alone.

    The frozen networks hang beside the module tree: nothing synchronises, shards, saves or trains them.

    Args:
        base: loaded on the device of training; its dtype is that of the U-Net's arithmetic.
        adapter: float32; with routers for stage II. Moved to base's device.
        encoders: for batches with crops. May be None when features are cached.
        unconditional: features of nobody, where there are no encoders.
        head: `FaceEncoders.head()`, where there are no encoders and settings.intrinsic is "global".
        seed: of all draws.
    """

    def __init__(
        self,
        base: BaseModel,
        adapter: UniPortrait,
        settings: ModelSettings,
        seed: int,
        encoders: FaceEncoders | None = None,
        unconditional: FaceFeatures | None = None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if settings.stage == 2 and adapter.routers is None:
            raise ValueError("stage II needs an adapter with routers: begin from stage I's file (`with_router`).")
        self.settings = settings
        self.seed = seed
        self.adapter = adapter.to(base.device, torch.float32)
        host = DiffusersHost(base.unet, self.adapter)
        tokens = TokenMaker(self.adapter.resampler, settings.intrinsic, base.device, encoders, unconditional, head)
        alphas = base.alphas_cumprod.to(base.device, torch.float32)
        # In a tuple, which nn.Module does not search for modules.
        self._frozen: tuple[BaseModel, DiffusersHost, TokenMaker, Tensor] = (base, host, tokens, alphas)
        self._choose_trained()
        if settings.gradient_checkpointing:
            base.unet.enable_gradient_checkpointing()
            base.unet.train()  # older diffusers recompute in training mode only; there is no dropout in SD 1.5
        if settings.compile:
            base.unet.compile()

    @property
    def base(self) -> BaseModel:
        """The frozen base model."""
        return self._frozen[0]

    @property
    def host(self) -> DiffusersHost:
        """The U-Net with this adapter."""
        return self._frozen[1]

    @property
    def tokens(self) -> TokenMaker:
        """From face features to identity tokens."""
        return self._frozen[2]

    def draw(self, batch: Batch) -> Draws:
        """The random part of a step. Fast on a batch that is still on the CPU; may run ahead of the step.

        Raises ValueError for samples without the number of faces that the stage takes.
        """
        shapes = DrawShapes(self._latent_shape(batch), len(self.base.alphas_cumprod), self.tokens.structure_tokens)
        return draw(batch, shapes, self.settings, self.seed)

    def forward(self, batch: Batch, draws: Draws | None = None) -> StepLosses:
        """Losses of a batch; draws are made here where they were not made ahead."""
        device = self.base.device
        draws = (self.draw(batch) if draws is None else draws).to(device)
        batch = batch.to(device)
        latents = self._latents(batch, draws)
        alphas = self._frozen[3][draws.timesteps]
        captions = ["" if drop else text for text, drop in zip(batch.captions, draws.drop_text, strict=True)]
        call = self._call(batch, draws, tuple(latents.shape[-2:]))
        noisy = noisy_latents(latents, draws.noise, alphas)
        predicted = self.host(noisy, draws.timesteps, self.base.text(captions), call)
        kind, loss = self.base.prediction_type, self.settings.loss
        target = prediction_target(latents, draws.noise, alphas, kind)
        diffusion = diffusion_loss(predicted, target, alphas, kind, loss.min_snr_gamma)
        routing = self._routing_loss(call, batch, draws, tuple(latents.shape[-2:]))
        return StepLosses((diffusion + routing).mean(), diffusion, routing, draws.timesteps)

    def parameter_groups(self, learning_rate: float = 1e-5, lora_factor: float = 0.1) -> list[dict[str, Any]]:
        """What the optimiser gets: stage I everything at one rate, stage II the routers and, slower, the LoRA."""
        groups = [("identity", learning_rate, ["resampler", "projections", "lora_single"])]
        if self.settings.stage == 2:
            groups = [("router", learning_rate, ["routers"]), ("lora", learning_rate * lora_factor, ["lora_multi"])]
        result: list[dict[str, Any]] = []
        for name, rate, parts in groups:
            parameters = [p for part in parts for p in getattr(self.adapter, part).parameters() if p.requires_grad]
            if parameters:
                result.append({"name": name, "params": parameters, "lr": rate})
        num_trained = len([parameter for parameter in self.parameters() if parameter.requires_grad])
        assert sum(len(group["params"]) for group in result) == num_trained
        return result

    def save(
        self, path: str | Path, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write the stage's file in the released layout: faceid in stage I, router in stage II."""
        (save_faceid if self.settings.stage == 1 else save_router)(path, self.adapter, dtype, metadata)

    def _choose_trained(self) -> None:
        self.adapter.requires_grad_(False)
        if self.settings.stage == 1:
            for part in (self.adapter.resampler, self.adapter.projections, self.adapter.lora_single):
                part.requires_grad_(True)
            if self.settings.intrinsic == "global":  # without a structure branch
                self.adapter.resampler.proj_clip.requires_grad_(False)
                for layer in self.adapter.resampler.layers:
                    layer[1].requires_grad_(False)
        else:
            self.adapter.lora_multi.requires_grad_(True)
            self.adapter.routers.requires_grad_(self.settings.routes)
        frozen = [*self.base.unet.parameters(), *self.base.text.model.parameters()]
        assert not any(parameter.requires_grad for parameter in frozen)

    def _latent_shape(self, batch: Batch) -> tuple[int, int, int]:
        if batch.latents is not None:
            _, _, channels, height, width = batch.latents.shape
            return channels, height, width
        assert batch.pixels is not None, "a batch has pixels or latents"
        return (self.base.latents.channels, *self.base.latents.size(*batch.pixels.shape[-2:]))

    def _latents(self, batch: Batch, draws: Draws) -> Tensor:
        if batch.latents is not None:
            mean, logvar = batch.latents.unbind(1)
        else:
            assert batch.pixels is not None, "a batch has pixels or latents"
            if self.base.vae is None:
                raise ValueError("the batch holds pictures and no VAE was loaded; cache latents, or load the VAE.")
            mean, logvar = self.base.vae(batch.pixels)
        return self.base.latents.sampled(mean, logvar, draws.latent_noise)

    def _call(self, batch: Batch, draws: Draws, latent: tuple[int, int]) -> IdentityCall:
        with torch.set_grad_enabled(self.settings.stage == 1 and torch.is_grad_enabled()):
            tokens = self.tokens.of_batch(batch, draws)
        if self.settings.stage == 1:
            return self.host.prepare(tokens, "lora_single")
        routing = self.settings.routing
        gumbel = None
        if draws.routing is not None:
            gumbel = GumbelRouting(split_layers(draws.routing, *latent), routing.temperature, routing.hard)
        return self.host.prepare(tokens, "lora_multi", batch.valid, gumbel, joined=routing.mode == "none")

    def _routing_loss(self, call: IdentityCall, batch: Batch, draws: Draws, latent: tuple[int, int]) -> Tensor:
        settings = self.settings.routing
        if not call.logits or settings.loss_weight == 0:
            return torch.zeros(len(batch), device=self.base.device)
        loss = routing_loss(call.logits, batch.masks, batch.valid, cross_layer_sizes(*latent), settings)
        # Samples without face condition count as 0 and not as missing: so the mean does not depend on how a global
        # batch is cut into processes.
        return loss * ~draws.drop_face
