"""The two recipes. They run the same code and make the same files; only the numbers here differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """One loop: so many steps of so many pictures; the highest learning rate."""

    steps: int
    batch: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """Numbers of one run. Pictures are `side` pixels high and `side` wide for each person in them."""

    name: str
    side: int
    level: str  # how busy the world is: synthetic.LEVELS
    base_single: int  # pictures of one person, each of somebody else
    base_pairs: int  # pictures of two people
    encoder_people: int  # people that the face encoders learn to tell apart
    encoder_photos: int  # photos of each
    adapter_single: int
    adapter_pairs: int
    vae: Training
    encoders: Training
    base: Training
    stage1: Training
    stage1_details: Training  # goes on after stage1
    stage2: Training
    test_people: int = 50
    centre_people: int = 200  # train people who tell the judge what faces of this world have in common


CPU = Recipe(
    name="cpu",
    side=64,
    level="plain",
    base_single=24_000,
    base_pairs=8_000,
    encoder_people=1_500,
    encoder_photos=6,
    adapter_single=10_000,
    adapter_pairs=5_000,
    vae=Training(9_000, 32, 1e-3),
    encoders=Training(1_000, 64, 2e-3),
    base=Training(10_000, 64, 1e-3),
    stage1=Training(3_000, 64, 2e-3),
    stage1_details=Training(1_200, 64, 2e-3),
    stage2=Training(1_000, 32, 1e-3),
)

GPU = Recipe(
    name="gpu",
    side=128,
    level="plain",
    base_single=160_000,
    base_pairs=60_000,
    encoder_people=8_000,
    encoder_photos=6,
    adapter_single=24_000,
    adapter_pairs=12_000,
    vae=Training(6_000, 512, 1e-3),
    encoders=Training(3_000, 256, 2e-3),
    base=Training(8_000, 1_024, 1.5e-3),
    stage1=Training(2_500, 256, 1e-3),
    stage1_details=Training(1_000, 256, 1e-3),
    stage2=Training(1_500, 128, 1e-3),
)

RECIPES = {recipe.name: recipe for recipe in (CPU, GPU)}
