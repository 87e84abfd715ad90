"""What PuLID's patches for SDXL and FLUX share: how an Apply node was set, and its strength."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..adapters.pulid_attention import Injection
from .identity_patch import IdentityPatch, PeopleSettings
from .sampling_run import Run

TITLE = "Apply PuLID"


@dataclass(frozen=True, eq=False)
class PulidSettings(PeopleSettings):
    """How an Apply node was set.

    Attributes:
        injection: form, zero tokens and strength; FLUX knows only the strength. A strength of 0 switches all off, a
            negative one draws away from the people.
    """

    title = TITLE

    injection: Injection = field(default_factory=Injection)

    @property
    def has_effect(self) -> bool:
        """False if the strength is 0."""
        return self.injection.scale != 0


class PulidPatch(IdentityPatch):
    """One Apply node's state, on either base."""

    family = "likeness.pulid"
    settings: PulidSettings

    def scale_at(self, run: Run, sigma: float) -> float:
        return self.settings.injection.scale
