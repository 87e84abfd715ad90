"""`python run.py demo`: two people from real photographs in one picture, on tiny models with random weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..host.client import ComfyError
from ..host.console import say
from ..host.environment import SetupError, named_comfyui
from ..host.server import ServerError
from .two_people import DISCLAIMER, Request, draw_two_people

INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Draw as the arguments say and return the exit status."""
    request = _request(arguments)
    try:
        comfyui = named_comfyui()
        if comfyui is None:
            raise SetupError("Start the demo with `python run.py demo`: it finds or sets up the ComfyUI to run in.")
        draw_two_people(comfyui, request)
    except (SetupError, ServerError, ComfyError, ValueError, OSError) as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return INTERRUPTED
    return 0


def _request(arguments: Sequence[str]) -> Request:
    parser = argparse.ArgumentParser(
        prog="run.py demo",
        description=f"Draw two people in one picture, in a real ComfyUI that is started for it and stopped again.\n\n"
        f"{DISCLAIMER}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output", "demo"), help="where the pictures go: %(default)s"
    )
    parser.add_argument("--prompt", help="what the picture shows; without it the workflow's own prompt")
    parser.add_argument(
        "--photos",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="your own photos of person 1 and person 2, whose largest face is taken; without it two photographs that "
        "installed packages bring along",
    )
    parser.add_argument("--seed", type=int, help="another number makes another picture")
    options = parser.parse_args(arguments)
    photos = None if options.photos is None else (options.photos[0], options.photos[1])
    return Request(options.output, photos, options.prompt, options.seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
