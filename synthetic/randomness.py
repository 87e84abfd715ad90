"""Random numbers that stay the same for ever."""

from __future__ import annotations

from random import Random


def stream(purpose: str, seed: int) -> Random:
    """A generator of its own for every purpose, so that one more draw here moves nothing there.

    Seeding by a string hashes it with SHA-512, and `Random.random` is promised not to change between versions.
    """
    return Random(f"{purpose} {seed}")


def between(random: Random, low: float, high: float) -> float:
    """A number drawn evenly from low to high."""
    return low + (high - low) * random.random()


def one_of(random: Random, choices: tuple[str, ...]) -> str:
    """One of the choices, each as likely as the others."""
    return choices[int(random.random() * len(choices))]


def chance(random: Random, probability: float) -> bool:
    """True with this probability."""
    return random.random() < probability
