"""What the patches of PuLID and UniID share: how people are placed, and the state that the slots of one node read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import comfy.model_management
import torch

from ..adapters.identity import Identity
from ..adapters.routing import hard_routing
from .people import labels
from .region_masks import RegionMasks
from .routing_maps import RoutingRecord
from .sampling_run import ModelCall, Run, follow_runs
from .window import Window

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

BY_ATTENTION = "attention"
ONE_EACH = "one each"
SHARING = (BY_ATTENTION, ONE_EACH)


@dataclass(frozen=True, eq=False, kw_only=True)
class PeopleSettings(ABC):
    """Where and when an Apply node draws people.

    Attributes:
        start_percent, end_percent: part of the schedule, 0 to 1, in which the people are drawn.
        masks: one (H, W) or (1, H, W) mask or None for each identity; shorter tuples are filled with None.
        keep_soft_edges: keep the grey of a mask where it stands alone; otherwise only shares between masks are soft.
        sharing: how people without masks share places (docs/pulid.md, 3.5): by "attention", or "one each".
    """

    title: ClassVar[str]  # the node's name, for messages

    start_percent: float = 0.0
    end_percent: float = 1.0
    masks: tuple[torch.Tensor | None, ...] = ()
    keep_soft_edges: bool = True
    sharing: str = BY_ATTENTION

    @property
    @abstractmethod
    def has_effect(self) -> bool:
        """False if every strength is 0."""

    def __post_init__(self) -> None:
        if self.sharing not in SHARING:
            raise ValueError(f'{self.title}: people share places by {" or ".join(SHARING)}, not by "{self.sharing}".')


class Models(Protocol):
    """LIKENESS_ADAPTER on the wire, as far as a patch asks for it."""

    weights: Any

    @property
    def patchers(self) -> dict[str, ModelPatcher]:
        """What sampling needs, part by part."""


class Halves:
    """What a run needs of each guidance half, computed when the first of its rows comes: `halves[unconditional]`."""

    def __init__(self, compute: Callable[[bool], Any]) -> None:
        self._compute = compute
        self._computed: dict[bool, Any] = {}

    def __getitem__(self, unconditional: bool) -> Any:
        if unconditional not in self._computed:
            self._computed[unconditional] = self._compute(unconditional)
        return self._computed[unconditional]


class IdentityPatch(ABC):
    """One Apply node's state: not changed after construction, shared by its slots in all layers.

    A model that has such a patch already gets more of it: each adds its people to what it finds.

    Raises:
        ValueError: bad masks or a bad window.
    """

    family: ClassVar[str]  # models are told by it how many patches of a system they have

    def __init__(
        self, model: ModelPatcher, models: Models, identities: Sequence[Identity], settings: PeopleSettings
    ) -> None:
        self.models = models
        self.identities = identities
        self.settings = settings
        self.window = Window.from_percent(model, settings.start_percent, settings.end_percent)
        self.regions = RegionMasks(settings.masks, len(identities), settings.keep_soft_edges)
        self.record = RoutingRecord(labels(identities))
        self._earlier: int = model.get_attachment(self.family) or 0
        self.key = f"{self.family}.{self._earlier}"

    @property
    def title(self) -> str:
        """The node's name, for messages."""
        return self.settings.title

    @property
    @abstractmethod
    def weights(self) -> ModelPatcher:
        """The weights that `prepare_half` reads."""

    @property
    @abstractmethod
    def merges(self) -> bool:
        """True if people with equal tokens are the same as one of them, wherever they are."""

    @abstractmethod
    def prepare_half(self, tokens: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> Any:
        """What each layer needs of these people, (m, D) float32 for each; computed in float32, kept in dtype."""

    @abstractmethod
    def scale_at(self, run: Run, sigma: float) -> float:
        """The factor of the people's term in a model call at this noise level; 0 leaves it out."""

    @abstractmethod
    def fill_slots(self, model: ModelPatcher) -> int:
        """Install the slots of all layers; returns how many."""

    def apply_to(self, model: ModelPatcher) -> ModelPatcher:
        """A clone of `model`, the one of the construction, that draws the people where the settings say so."""
        patched = model.clone()
        if self.settings.has_effect and not self.window.empty:
            patched.set_attachments(self.family, self._earlier + 1)
            follow_runs(patched, self, self.fill_slots(patched))
        return patched

    def begin(self, run: Run) -> None:
        """Check the masks against the picture, forget the last run's maps, and prepare the tokens.

        Sampling needs no weights of the adapter once this is done. So they are loaded here and not as additional models
        of the run: where memory is short, they make room for the base model, which is loaded next.
        """
        assert run.latent_size is not None
        self.regions.check_aspect(run.latent_size)
        self.record.clear()
        if not any(self.window.contains(sigma) for sigma in run.schedule.sigmas):
            return
        comfy.model_management.load_models_gpu([self.weights])
        prepared = run.prepared(self, *run.place)
        for unconditional in (False, True) if run.guided else (False,):
            _ = prepared[unconditional]

    def prepare(self, device: torch.device, dtype: torch.dtype) -> Halves:
        """The tokens as the layers need them, by guidance half."""
        return Halves(lambda unconditional: self.prepare_half(self._tokens(unconditional), device, dtype))

    def finish_call(self, call: ModelCall) -> None:
        """Keep this call's routing maps."""
        self.record.store(call.routing)

    def routed(self, shares: torch.Tensor) -> torch.Tensor:
        """The weights that people without masks get from their shares (B, n, N)."""
        return hard_routing(shares) if self.settings.sharing == ONE_EACH else shares

    def _tokens(self, unconditional: bool) -> list[torch.Tensor]:
        """Everyone's tokens of this half, or one block if it stands for all: the negative half's, normally."""
        tokens = [identity.tokens["uncond" if unconditional else "cond"] for identity in self.identities]
        if self.merges and all(torch.equal(other, tokens[0]) for other in tokens[1:]):
            return tokens[:1]
        return tokens
