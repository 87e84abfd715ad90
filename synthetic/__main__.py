"""`python -m likeness.synthetic OUT --people 100`: a folder of labelled pictures of people who do not exist."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .disk import Wanted, write
from .people import SPLITS
from .scene import LEVELS, MOST_PEOPLE


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder; returns the exit status, 2 after a wrong request."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        wanted = Wanted(
            people=given.people,
            pictures_per_person=given.pictures_per_person,
            size=_size(given.size),
            seed=given.seed,
            people_per_picture=given.people_per_picture,
            split=given.split,
            first=given.first,
            level=given.level,
        )
        count = write(given.out, wanted, given.device, _show)
    except ValueError as error:
        parser.error(str(error))
    sys.stderr.write(f"{count} pictures written to {given.out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m likeness.synthetic", description=__doc__)
    parser.add_argument("out", type=Path, help="a new or empty folder, or one to go on with")
    parser.add_argument("--people", type=int, required=True, help="how many different people")
    parser.add_argument("--pictures-per-person", type=int, default=8, help="in how many pictures everybody is (8)")
    parser.add_argument("--people-per-picture", type=int, default=1, choices=range(1, MOST_PEOPLE + 1))
    parser.add_argument("--size", default="128", help="side in pixels, or height x width such as 64x128 (128)")
    parser.add_argument("--seed", type=int, default=0, help="another seed: the same people in other pictures")
    parser.add_argument("--split", default="train", choices=SPLITS, help="train and test people are never the same")
    parser.add_argument("--first", type=int, default=0, help="number of the first person within the split (0)")
    parser.add_argument("--level", default="plain", choices=LEVELS, help="backgrounds (plain)")
    parser.add_argument("--device", default="cpu", help="where to draw: cpu or cuda (cpu)")
    return parser


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--size must be a number of pixels such as 128, or height x width such as 64x128, not {text}")
    return int(sides[0]), int(sides[-1])


def _show(done: int, total: int) -> None:
    sys.stderr.write(f"\r{done} of {total} pictures" + ("\n" if done == total else ""))
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
