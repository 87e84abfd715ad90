"""State of one sampling run and of one model call: made and dropped by wrappers, never kept on modules or models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import torch
from comfy.patcher_extension import WrappersMP

from .routing_maps import LayerWeights
from .window import Window

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

SIGMA_KEY = "likeness_sigma"
SLOTS_KEY = "likeness_slots"  # all replace patches of this call, which ComfyUI does not hand to the patches themselves
REACHED_SHARE = (
    0.25  # step caches skip half to two thirds of the blocks and carry the identity on; below this it is lost
)
Area = tuple[int, int, int, int]  # height, width, y, x of a conditioning area, in latent pixels

_logger = logging.getLogger("likeness.model_patches")
# The call that is running in this thread, for blocks that are called without transformer_options (`call_of`).
_CURRENT: ContextVar[Mapping[str, ModelCall | None]] = ContextVar("likeness_current_calls")


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of the batch that are treated alike."""

    start: int
    stop: int
    unconditional: bool
    area: Area | None


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run.

    Attributes:
        sampling: the model's own noise schedule, ComfyUI's model_sampling.
        sigmas: of each step, and what is left behind the last; none outside a run.
        empty_latent: whether the run begins without any picture.
    """

    sampling: Any
    sigmas: tuple[float, ...] = ()
    empty_latent: bool = False


class Run:
    """One sampling run: what is computed once, and who the rows of a batch belong to."""

    def __init__(self, schedule: Schedule, guider: Any = None, latent_size: tuple[int, int] | None = None) -> None:
        self.schedule = schedule
        self.latent_size = latent_size
        self.cache: dict[Any, Any] = {}
        self.planned_layers = 0
        self.reached_layers = 0
        self._guider = guider

    @classmethod
    def starting(cls, guider: Any, noise: torch.Tensor, latent_image: torch.Tensor, sigmas: torch.Tensor) -> Run:
        """The run that `guider` is about to begin: what an OUTER_SAMPLE wrapper is given."""
        sampling = guider.model_patcher.get_model_object("model_sampling")
        schedule = Schedule(sampling, tuple(sigmas.tolist()), not torch.count_nonzero(latent_image))
        return cls(schedule, guider, (noise.shape[-2], noise.shape[-1]))

    @property
    def conditionings(self) -> Mapping[str, Sequence[dict[str, Any]]]:
        """The entries of each conditioning by its name, copies of this run's own; none outside a run."""
        return getattr(self._guider, "conds", None) or {}

    @property
    def place(self) -> tuple[torch.device, torch.dtype]:
        """Where this run's model computes, and in what."""
        patcher = self._guider.model_patcher
        return patcher.load_device, patcher.model.get_dtype_inference()

    @property
    def guided(self) -> bool:
        """True if the negative prompt will be computed: it is left out where its factor is 0."""
        return "negative" in self.conditionings and getattr(self._guider, "cfg", None) != 1.0

    def cached(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The value under `key`, computed at the first use of this run."""
        if key not in self.cache:
            self.cache[key] = compute()
        return self.cache[key]

    def prepared(self, patch: RunPatch, device: torch.device, dtype: torch.dtype) -> Any:
        """What `patch` prepares for this run on this device."""
        return self.cached(("prepared", device, dtype), lambda: patch.prepare(device, dtype))

    def clear(self) -> None:
        """Free everything: an exception's traceback may hold on to this object."""
        self.cache.clear()
        self._guider = None

    def chunk_origins(self, options: dict[str, Any]) -> list[tuple[bool, Area | None]]:
        """For each chunk of the batch: is it the negative prompt's, and which area of the picture it covers.

        The guider's conditionings are asked by uuid; the index in cond_or_uncond alone is ambiguous, since guiders
        with three conditionings number them from the negative one.
        """
        by_uuid = {
            entry["uuid"]: (name == "negative", tuple(entry["area"]) if "area" in entry else None)
            for name, entries in self.conditionings.items()
            for entry in entries or ()
            if "uuid" in entry
        }
        kinds = options.get("cond_or_uncond", [0])
        uuids = options.get("uuids") or [None] * len(kinds)
        return [by_uuid.get(uuid, (kind == 1, None)) for kind, uuid in zip(kinds, uuids, strict=True)]


@dataclass(frozen=True)
class ModelCall:
    """What one call of the model means for one patch; decided once, read by every layer."""

    run: Run
    scale: float  # of the people's term
    prepared: Any
    rows: tuple[Rows, ...]
    rows_per_chunk: int
    latent_size: tuple[int, int]  # of the whole picture
    size: tuple[int, int]  # of what this call computes, an area of the picture or all of it
    routing: dict[int, LayerWeights] = field(default_factory=dict)
    reached: set[int] = field(default_factory=set)  # numbers of the layers that were called
    notes: dict[str, int] = field(default_factory=dict)  # what a layer leaves for later ones of this call


class RunPatch(Protocol):
    """What `follow_runs` needs of a patch."""

    key: str
    window: Window

    @property
    def title(self) -> str:
        """For messages: the node's name."""

    def begin(self, run: Run) -> None:
        """Called before the models are loaded; raises ValueError if the run cannot work."""

    def prepare(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Compute what does not change while sampling; called once per run, device and dtype."""

    def scale_at(self, run: Run, sigma: float) -> float:
        """The factor of the people's term in a model call at this noise level."""

    def finish_call(self, call: ModelCall) -> None:
        """Called after each model call inside the window."""


def follow_runs(model: ModelPatcher, patch: RunPatch, num_layers: int) -> None:
    """Register the wrappers that give `patch` its run and call state under `patch.key` in transformer_options.

    num_layers is how many layers or blocks each model call should reach; a run that reaches far fewer is reported.
    """

    def outer_sample(
        executor: WrapperExecutor,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        guider = executor.class_obj
        run = Run.starting(guider, noise, latent_image, sigmas)
        try:
            patch.begin(run)
            guider.model_options["transformer_options"][_run_key(patch)] = run  # a copy that ComfyUI drops afterwards
            result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            run.clear()
        _report_skipped_layers(patch, run)
        return result

    def apply_model(
        executor: WrapperExecutor,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        options = dict(transformer_options or {})
        sigma = options.get(SIGMA_KEY)
        if sigma is None:  # the one device-to-host copy of this call, however many patches there are
            sigma = options[SIGMA_KEY] = float(t.flatten()[0])
        call = _begin_call(patch, options, sigma, x, executor.class_obj) if patch.window.contains(sigma) else None
        options[patch.key] = call
        options[SLOTS_KEY] = options.get("patches_replace", {})
        token = _CURRENT.set({**_CURRENT.get({}), patch.key: call})
        try:
            result = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        finally:
            _CURRENT.reset(token)
        if call is not None:
            call.run.planned_layers += num_layers
            call.run.reached_layers += len(call.reached)
            patch.finish_call(call)
        return result

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, patch.key, outer_sample)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, patch.key, apply_model)


def call_of(patch: RunPatch, extra_options: Mapping[str, Any] | None) -> ModelCall | None:
    """The current call's state inside a layer, or None outside the window.

    Accelerators that go through a network's blocks themselves may call a patch without transformer_options; then what
    runs in this thread counts.

    Raises:
        RuntimeError: the model was called around ComfyUI's wrappers, so nothing was decided for this call.
    """
    if extra_options is not None and patch.key in extra_options:
        return extra_options[patch.key]  # before the context is asked, through which torch.compile cannot trace
    running = _CURRENT.get({})
    if patch.key in running:
        return running[patch.key]
    raise RuntimeError(
        "Likeness: this sampler calls the diffusion model directly, past ComfyUI's model wrappers, so the identity "
        "cannot be applied. Use a sampler node that works through ComfyUI's own sampling functions."
    )


def _run_key(patch: RunPatch) -> str:
    return patch.key + ".run"


def _begin_call(patch: RunPatch, options: dict[str, Any], sigma: float, x: torch.Tensor, base_model: Any) -> ModelCall:
    # A call outside a sampling run (a script, a test) gets a run of its own.
    run: Run = options.get(_run_key(patch)) or Run(Schedule(base_model.model_sampling))
    origins = run.chunk_origins(options)
    size = (x.shape[-2], x.shape[-1])
    return ModelCall(
        run=run,
        scale=patch.scale_at(run, sigma),
        prepared=run.prepared(patch, x.device, base_model.get_dtype_inference()),
        rows=_merge_rows(origins, x.shape[0] // len(origins)),
        rows_per_chunk=x.shape[0] // len(origins),
        latent_size=run.latent_size or size,
        size=size,
    )


def _merge_rows(origins: list[tuple[bool, Area | None]], rows_per_chunk: int) -> tuple[Rows, ...]:
    merged, start = [], 0
    for (unconditional, area), group in groupby(origins):
        stop = start + rows_per_chunk * len(list(group))
        merged.append(Rows(start, stop, unconditional, area))
        start = stop
    return tuple(merged)


def _report_skipped_layers(patch: RunPatch, run: Run) -> None:
    if run.reached_layers < REACHED_SHARE * run.planned_layers:
        _logger.warning(
            "%s: the identity reached only %d of the %d layers of this run, because something else in the workflow "
            "replaces or skips them. The people will hardly be recognisable.",
            patch.title,
            run.reached_layers,
            run.planned_layers,
        )
