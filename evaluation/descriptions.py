"""What results say about themselves: the tools that measured, and what each metric means."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..faces.detection import Detector
from .judges.judge import Judge
from .metrics import aesthetic, attributes, blending, clip, duplicates, face_similarity, frechet, routing_accuracy
from .results import PictureScores
from .scoring import Extras

_DETECTED = "share of the pictures with at least as many faces as people are meant (at least one)"
_MATCHED_AREAS = (
    "routing accuracy with the boxes of the generated faces as masks, each face belonging to the person that the first "
    "judge matches it to; where no true masks are given"
)


def describe_tools(
    judges: Sequence[Judge],
    second_opinions: Sequence[Judge],
    conditioned_by: Collection[str],
    detector: Detector,
    upscale: int,
    extras: Extras,
) -> dict[str, object]:
    """Every network with its fingerprint, the detector, and what is not independent; JSON values."""
    fid = extras.fid
    return {
        "detector": detector.name,
        "upscale": upscale or "automatic",
        "judges": [judge.describe() for judge in judges],
        "second_opinions": [judge.describe() for judge in second_opinions],
        "conditioned_by": sorted(conditioned_by),
        "clip": None if extras.clip is None else extras.clip.describe(),
        "aesthetic": None if extras.aesthetic is None else extras.aesthetic.describe(),
        "fid": None
        if fid is None
        else {**fid.features.describe(), "reference": f"row {fid.row}" if fid.row else f"{len(fid.pictures)} pictures"},
    }


def describe_metrics(scored: Sequence[PictureScores], extras: Extras) -> dict[str, str]:
    """Metric -> sentence, for the metrics that were measured."""
    every = {
        "face_sim": face_similarity.DEFINITION,
        "blending": blending.DEFINITION,
        "duplicates": duplicates.DUPLICATES,
        "unmatched": duplicates.UNMATCHED,
        "detected": _DETECTED,
        "faces": "mean number of faces found",
        "routing_accuracy": routing_accuracy.DEFINITION,
        "routing_agreement": _MATCHED_AREAS,
        "clip_t": clip.DEFINITION,
        "aesthetic": aesthetic.DEFINITION,
        "attributes": attributes.DEFINITION,
    }
    measured = {metric.split("/")[0] for picture in scored for metric in picture.scores}
    definitions = {metric: text for metric, text in every.items() if metric in measured}
    return definitions if extras.fid is None else {**definitions, "fid": frechet.DEFINITION}
