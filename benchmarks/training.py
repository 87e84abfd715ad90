"""Training steps of UniPortrait's stage I with networks of the published sizes and random weights.

Two ways in one run, in turn: the trainer (cached latents and face features, fused attention and optimiser, random
draws made ahead) and a plain loop (every network runs in every step, attention written out, draws in line).
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..adapters.inversion import scaled_linear_alphas
from ..faces.backbone import IRBackbone
from ..trainer.batch import Batch, FaceFeatures
from ..trainer.config import TrainingConfig
from ..trainer.model import single_file
from ..trainer.model.base_model import BaseModel
from ..trainer.model.encoders import VIT_H, FaceEncoders
from ..trainer.model.latents import LatentEncoder, LatentFormat
from ..trainer.model.text import TextEncoder, clip_tokenizer
from ..trainer.model.uniportrait import UniPortraitTraining
from ..trainer.model.weights import new_adapter
from ..trainer.run.building import DTYPES, build_optimiser, draw_ahead
from ..trainer.run.devices import make_accelerator
from ..trainer.run.loop import TrainingLoop
from ..trainer.run.stopping import StopWish

SMALL_UNET = {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 64, "attention_head_dim": 8}
SMALL_TEXT = {
    **single_file.TEXT,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SMALL_VISION = {**VIT_H, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}
SMALL_ADAPTER = {"rank": 8, "width": 64, "depth": 2, "heads": 1, "tokens": 16}


@dataclass
class Variant:
    """One row of the table: a training step, its seconds, and its memory where the device tells."""

    name: str
    step: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    peak: int = 0


def print_table(pixels: int, batch: int, rounds: int, small: bool = False, precision: str | None = None) -> None:
    """Measure both ways `rounds` times in turn, after a first step of each, at `pixels` x `pixels` pictures.

    precision: "no" or "bf16"; None is bf16 on CUDA and float32 elsewhere.
    """
    on_cuda = torch.cuda.is_available()
    config = _config(precision or ("bf16" if on_cuda else "no"), batch, small)
    accelerator, plan = make_accelerator(config)
    device = accelerator.device
    module, encoders = _module(config, device, small)
    raw, cached = _batches(module, encoders, batch, pixels)
    optimiser = build_optimiser(config, module, device)
    model, prepared = accelerator.prepare(module, optimiser)
    loop = TrainingLoop(config, accelerator, plan, model, prepared, draw_ahead(itertools.repeat(cached), module))
    steps = itertools.count()
    ours = Variant("likeness", lambda: loop.step(next(steps), StopWish()))
    plain = Variant("plain", _plain_step(module, raw, config))
    print(
        f"UniPortrait stage I, {'small' if small else 'SD 1.5'} widths, random weights, {device}, "
        f"{DTYPES[config.precision]}, {torch.get_num_threads()} threads, {pixels} px, batch {batch}, {rounds} rounds"
    )
    with _encoders_away(encoders, device):  # a run with a cache does not keep them either
        _first_step(ours, device)
    _first_step(plain, device)
    for _ in range(rounds):
        for variant in (ours, plain):
            variant.seconds.append(_timed(variant.step, device))
    _print_rows(ours, plain, batch, on_cuda)
    _print_rate(ours, device, DTYPES[config.precision])


def _config(precision: str, batch: int, small: bool) -> TrainingConfig:
    nowhere = "random weights"
    return TrainingConfig.model_validate(
        {
            "output": nowhere,
            "steps": 1_000_000,
            "precision": precision,
            "base": {"model": nowhere, "clip_vision": nowhere, "backbone": nowhere},
            "data": {"path": nowhere},
            "model": {"sizes": SMALL_ADAPTER if small else {}},
            "batch": {"global_size": batch, "per_device": batch},
        }
    )


def _module(config: TrainingConfig, device: torch.device, small: bool) -> tuple[UniPortraitTraining, FaceEncoders]:
    """Everything at random weights, frozen parts in the precision of the run."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    dtype = DTYPES[config.precision]
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(**(SMALL_UNET if small else single_file.UNET))
    unet.to(device, dtype).eval().requires_grad_(False)
    text = CLIPTextModel(CLIPTextConfig(**(SMALL_TEXT if small else single_file.TEXT))).to(device, dtype)
    vae_sizes = {**single_file.VAE, **({"block_out_channels": (32, 32, 32, 32)} if small else {})}
    vae = LatentEncoder(AutoencoderKL(**vae_sizes)).to(device, dtype)
    vision = {**(SMALL_VISION if small else VIT_H), "num_hidden_layers": 2 if small else VIT_H["num_hidden_layers"] - 1}
    tower = CLIPVisionModel(CLIPVisionConfig(**vision)).eval().requires_grad_(False).to(device, dtype)
    backbone = IRBackbone(widths=(8, 16, 24, 32), embedding=64) if small else IRBackbone()
    encoders = FaceEncoders(backbone.requires_grad_(False).to(device, dtype), tower, "")
    base = BaseModel(
        name="random weights",
        unet=unet,
        text=TextEncoder(text, clip_tokenizer(77)),
        latents=LatentFormat.from_config(vae_sizes),
        vae=vae,
        alphas_cumprod=scaled_linear_alphas(),
        prediction_type="epsilon",
    )
    adapter = new_adapter(unet, encoders.sizes, 0, config.model)
    return UniPortraitTraining(base, adapter, config.model, 0, encoders), encoders


def _batches(module: UniPortraitTraining, encoders: FaceEncoders, batch: int, pixels: int) -> tuple[Batch, Batch]:
    """The same made-up pictures as they come without a cache, and with one."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(batch, 3, pixels, pixels, generator=generator) * 2 - 1
    crops = torch.randint(0, 256, (batch, 1, 224, 224, 3), dtype=torch.uint8, generator=generator)
    common = {
        "keys": tuple(f"picture{number}" for number in range(batch)),
        "positions": torch.arange(batch),
        "captions": tuple(f"a photograph of person number {number}" for number in range(batch)),
        "valid": torch.ones(batch, 1, dtype=torch.bool),
        "masks": torch.ones(batch, 1, pixels, pixels, dtype=torch.bool),
    }
    assert module.base.vae is not None
    latents = torch.stack(module.base.vae(pictures), dim=1).half().cpu()
    found = encoders.features(crops[:, 0])
    features = FaceFeatures(*(tensor[:, None].half().cpu() for tensor in (found.intrinsic, found.structure)))
    return Batch(**common, pixels=pictures, crops=crops), Batch(**common, latents=latents, features=features)


def _plain_step(module: UniPortraitTraining, batch: Batch, config: TrainingConfig) -> Callable[[], float]:
    """The loop of a tutorial: one thing after the other, attention as softmax(QK)V, torch's default AdamW."""
    parameters: list[nn.Parameter] = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.optimiser.learning_rate)

    def step() -> float:
        with sdpa_kernel(SDPBackend.MATH):
            loss = module(batch).total
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def _first_step(variant: Variant, device: torch.device) -> None:
    """Warm up, then note the most memory that a step takes."""
    variant.step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        variant.step()
        torch.cuda.synchronize()
        variant.peak = torch.cuda.max_memory_allocated()


@contextmanager
def _encoders_away(encoders: FaceEncoders, device: torch.device) -> Iterator[None]:
    for network in (encoders.backbone, encoders.tower):
        network.to("cpu")
    yield
    for network in (encoders.backbone, encoders.tower):
        network.to(device)


def _timed(step: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _print_rows(ours: Variant, plain: Variant, batch: int, on_cuda: bool) -> None:
    print(f"{'':10}{'s/step':>9}{'lowest':>9}{'highest':>9}{'images/s':>10}{'peak':>12}")
    for row in (ours, plain):
        middle = statistics.median(row.seconds)
        peak = f"{row.peak / 2**20:,.0f} MiB" if on_cuda else "-"
        seconds = "".join(f"{value:>9.3f}" for value in (middle, min(row.seconds), max(row.seconds)))
        print(f"{row.name:10}{seconds}{batch / middle:>10.2f}{peak:>12}")
    ratios = sorted(slow / fast for fast, slow in zip(ours.seconds, plain.seconds, strict=True))
    quarter = len(ratios) // 4
    print(
        f"plain over likeness, neighbouring steps: {statistics.median(ratios):.2f} "
        f"({ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f})"
    )


def _print_rate(ours: Variant, device: torch.device, dtype: torch.dtype) -> None:
    """How much of the device's measured matrix rate our step uses: its matrix products over its time."""
    with FlopCounterMode(display=False) as counter:
        ours.step()
    used = counter.get_total_flops() / statistics.median(ours.seconds)
    rate = matrix_rate(device, dtype)
    print(
        f"{counter.get_total_flops() / 1e9:,.0f} GFLOP a step, {used / 1e9:,.0f} GFLOP/s: {used / rate:.0%} of the "
        f"{rate / 1e9:,.0f} GFLOP/s that a product of large matrices reaches here"
    )


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product, the best of several."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)
    seconds = min(_timed(lambda: torch.mm(left, right), device) for _ in range(10))
    return 2 * side**3 / seconds
