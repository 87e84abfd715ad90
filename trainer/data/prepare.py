"""The command `prepare`: folders of pictures become a set to train on."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .examination import PrepareSettings
from .preparation import Summary, prepare_pictures
from .unfinished import REFUSED_FILE

_DEFAULT = PrepareSettings((), Path())


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to a command line; `args.run` then is this module's `run`."""
    parser = subparsers.add_parser(
        "prepare",
        help="make a training set from folders of pictures",
        description="Find faces in pictures, leave out what is of no use for training, and write the rest as shards. "
        "Killed or stopped, the same command goes on where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="FOLDER", help="pictures, searched with all folders below")
    add("--out", type=Path, required=True, help="the set's folder: new, or one that this command began")
    add("--workers", type=int, default=_workers(), help="processes that look at pictures")
    add("--samples-per-shard", type=int, default=_DEFAULT.samples_per_shard, help="pictures in one tar file")
    _add_faces(parser.add_argument_group("faces"))
    _add_limits(parser.add_argument_group("what is refused"))
    _add_captions(parser.add_argument_group("captions and people"))


def _add_faces(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--faces", type=_range, default=_DEFAULT.faces, metavar="N or N-M", help="1 for stage I, 2-6 for stage II")
    add("--detector", choices=("auto", "bundled", "insightface"), default=_DEFAULT.detector, help="who finds faces")
    add("--detector-folder", type=Path, action="append", default=[], help="where insightface model packs lie")
    add("--trust-faces", action="store_true", help="take faces from the .json beside each picture, detect none")


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--min-score", type=float, default=_DEFAULT.min_score, help="detections below this score are ignored")
    add("--min-face", type=float, default=_DEFAULT.min_face, help="short side of the smallest face's box in pixels")
    add("--min-face-share", type=float, default=_DEFAULT.min_face_share, help="that side over the picture's short one")
    add("--min-side", type=int, default=_DEFAULT.min_side, help="short side of a picture in pixels")
    add("--max-side", type=int, default=_DEFAULT.max_side, help="pictures with a longer side are stored smaller")
    add(
        "--duplicate-distance",
        type=int,
        default=_DEFAULT.duplicate_distance,
        help="bits of 256 in which near-duplicates may differ; -1 keeps all",
    )
    add("--aesthetic-scores", type=Path, help="CSV table with the columns file and score, to filter by")
    add("--min-aesthetic", type=float, default=_DEFAULT.min_aesthetic, help="least score of that table")


def _add_captions(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--captioner", metavar="COMMAND", help="run for pictures without .txt, such as 'caption-tool {file}'")
    add("--captioner-seconds", type=float, default=_DEFAULT.captioner_seconds, help="its time for one picture")
    add("--allow-empty-captions", action="store_true", help="take pictures that have no caption")
    add("--labels", type=Path, help="CSV table with the columns file and person: who is on one-face pictures")
    add("--others", type=int, default=_DEFAULT.others, help="crops of other photographs kept for a labelled person")


def run(args: argparse.Namespace) -> int:
    """Run the command and write a summary to standard output. Raises ValueError for what the user can mend."""
    settings = PrepareSettings(
        inputs=tuple(args.inputs),
        out=args.out,
        detector=args.detector,
        detector_folders=tuple(args.detector_folder),
        trust_faces=args.trust_faces,
        faces=args.faces,
        min_score=args.min_score,
        min_face=args.min_face,
        min_face_share=args.min_face_share,
        min_side=args.min_side,
        max_side=args.max_side,
        duplicate_distance=args.duplicate_distance,
        captioner=args.captioner,
        captioner_seconds=args.captioner_seconds,
        allow_empty_captions=args.allow_empty_captions,
        labels=args.labels,
        aesthetic_scores=args.aesthetic_scores,
        min_aesthetic=args.min_aesthetic,
        others=args.others,
        samples_per_shard=args.samples_per_shard,
        workers=args.workers,
    )
    sys.stdout.write(describe(prepare_pictures(settings), settings))
    return 0


def describe(summary: Summary, settings: PrepareSettings) -> str:
    """The summary for a user."""
    faces = ", ".join(f"{count} with {number}" for number, count in summary.taken.items())
    lines = [
        f"{settings.out}: {sum(summary.taken.values())} of {summary.num_sources} pictures taken "
        f"(by number of faces: {faces})"
    ]
    if summary.refused:
        lines.append(f"{sum(summary.refused.values())} refused, each listed in {settings.out / REFUSED_FILE}:")
        lines += [f"  {count:7}  {reason}" for reason, count in summary.refused.items()]
    return "\n".join(lines) + "\n"


def _workers() -> int:
    return max(1, min(8, (os.cpu_count() or 2) - 1))


def _range(text: str) -> tuple[int, int]:
    fewest, _, most = text.partition("-")
    try:
        faces = (int(fewest), int(most or fewest))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of faces; write 1 or 2-6") from None
    if not 1 <= faces[0] <= faces[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of faces; the first must be at least 1")
    return faces
