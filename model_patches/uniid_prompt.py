"""UniID's text branch: people as words of the prompt, weak until the merge point and strong from it on.

A prompt's entry becomes two with ComfyUI's own start and end percent, so that every sampler and other node understands
them. They carry a mark by which a run sets the merge point to where it is in its own schedule (docs/uniid.md, 7).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..adapters.prompt_tokens import CHUNK, insert_tokens
from .merge_step import ALWAYS, MergePoint, percent_of
from .sampling_run import Run, Schedule

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor

    from .uniid_patch import Scales

Conditioning = list[list[Any]]  # ComfyUI's: for each entry [embeds (B, L, D), options]
Range = tuple[float, float]  # start and end percent
KEY = "likeness.uniid.merge"

_logger = logging.getLogger("likeness.model_patches")


@dataclass(frozen=True)
class Group:
    """Words that stand in one prompt: (t, D), or None for the prompt as it is; and the (H, W) mask that it is for."""

    words: Tensor | None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Mark:
    """What an entry carries that counts on one side of a merge point, or of several where nodes stand in a row.

    Attributes:
        own: the range of the entry that it was made from.
        written: the range that it was given. If it has another by now, a later node has set it, and that is its own.
        sides: each merge point, and whether the entry counts after it.
    """

    own: Range
    written: Range
    sides: tuple[tuple[MergePoint, bool], ...]

    @classmethod
    def on(cls, options: dict[str, Any]) -> Mark:
        """The mark of an entry, with its own range as it is now; one without sides if it has none."""
        current = options.get("start_percent", 0.0), options.get("end_percent", 1.0)
        mark: Mark | None = options.get(KEY)
        if mark is None:
            return cls(current, current, ())
        return mark if current == mark.written else cls(current, current, mark.sides)

    def range_at(self, percents: Callable[[MergePoint], float]) -> Range:
        """The range where all sides overlap; ComfyUI never uses an entry whose range ends before it starts."""
        start, end = self.own
        for merge, after in self.sides:
            percent = percents(merge)
            start, end = (max(start, percent), end) if after else (start, min(end, percent))
        return start, end


def with_words(
    positive: Conditioning, groups: Sequence[Group], merge: MergePoint, scales: Scales, sampling: Any
) -> Conditioning:
    """The prompt with the groups' words in it, each entry for every group, before and after the merge point.

    `sampling` is the model's noise schedule: without a run that knows better, a merge step counts by the published one.
    """
    _warn_of_long_prompts(positive, groups)
    percents = _percents(Schedule(sampling))
    return [
        [embeds if words is None else insert_tokens(embeds, words), changed]
        for embeds, options in positive
        for group in groups
        for words, changed in _phases(group.words, _masked(options, group.mask), merge, scales, percents)
    ]


def follow_merges(model: ModelPatcher) -> None:
    """Let runs of this model set the merge points of the entries that `with_words` made."""
    if not model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _outer_sample)


def _outer_sample(
    executor: WrapperExecutor,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    run = Run.starting(executor.class_obj, noise, latent_image, sigmas)
    percents = _percents(run.schedule)
    for entries in run.conditionings.values():
        for entry in entries or ():
            if KEY in entry:
                entry["start_percent"], entry["end_percent"] = Mark.on(entry).range_at(percents)
    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def _percents(schedule: Schedule) -> Callable[[MergePoint], float]:
    return lru_cache(lambda merge: percent_of(schedule.sampling, merge.threshold(schedule)))


def _phases(
    words: Tensor | None,
    options: dict[str, Any],
    merge: MergePoint,
    scales: Scales,
    percents: Callable[[MergePoint], float],
) -> list[tuple[Tensor | None, dict[str, Any]]]:
    """Words and options of the entries that stand for one."""
    if words is None:
        return [(None, options)]
    if scales.before == scales.after or merge.fixed is not None:
        return [(words * (scales.after if merge.fixed == ALWAYS else scales.before), options)]
    earlier, phases = Mark.on(options), []
    for after, scale in ((False, scales.before), (True, scales.after)):
        mark = replace(earlier, sides=(*earlier.sides, (merge, after)))
        start, end = written = mark.range_at(percents)
        changed = {"start_percent": start, "end_percent": end, KEY: replace(mark, written=written)}
        phases.append((words * scale, {**options, **changed}))
    return phases


def _masked(options: dict[str, Any], mask: Tensor | None) -> dict[str, Any]:
    """The options with this mask (H, W), inside the one that the entry already has."""
    if mask is None:
        return options
    mask = mask[None]
    earlier = options.get("mask")
    if earlier is not None:
        earlier = earlier.reshape(-1, *earlier.shape[-2:])
        size = earlier.shape[-2:]
        mask = earlier * torch.nn.functional.interpolate(mask[None].to(earlier), size=size, mode="bilinear")[0]
    return {**options, "mask": mask}


def _warn_of_long_prompts(positive: Conditioning, groups: Sequence[Group]) -> None:
    longest = max((len(group.words) for group in groups if group.words is not None), default=0)
    if longest and any(embeds.shape[1] > CHUNK for embeds, _ in positive):
        _logger.warning(
            "Apply UniID puts %d words for faces at the beginning of the prompt, so that the last %d positions of its "
            "first %d fall off. This prompt is longer than that: words of yours may be lost there. Shorten it, or "
            "move what matters to its front.",
            longest,
            longest,
            CHUNK,
        )
