"""`python run.py demo`: people that no network has seen, drawn alone and together, and how much they look like it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..host.client import ComfyError
from ..host.console import say
from ..host.environment import SetupError, named_comfyui
from ..host.server import ServerError
from ..synthetic.captions import VOCABULARY
from .likeness import DISCLAIMER, ONE, TWO, Request, show_likeness

INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Draw as the arguments say and return the exit status."""
    request = _request(arguments)
    try:
        comfyui = named_comfyui()
        if comfyui is None:
            raise SetupError("Start the demo with `python run.py demo`: it finds or sets up the ComfyUI to run in.")
        show_likeness(comfyui, request)
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
        description=f"Draw one person, and two in one picture, in a real ComfyUI that is started for it and stopped "
        f"again; measure how much they look like their photos.\n\n{DISCLAIMER}",
        epilog=f"Words that the tiny model knows: {' '.join(VOCABULARY)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output", "demo"), help="where the pictures go: %(default)s"
    )
    parser.add_argument("--prompt", default=ONE.prompt, help="what the picture of one person shows")
    parser.add_argument("--pair-prompt", default=TWO.prompt, help="what the picture of two people shows")
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--people", type=int, nargs=2, metavar=("A", "B"), default=(1, 2), help="numbers of two other unseen people"
    )
    who.add_argument(
        "--photos",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="your own photos of person 1 and person 2; expect little, the tiny model knows drawn people only",
    )
    parser.add_argument("--seed", type=int, default=1, help="another number makes other pictures")
    options = parser.parse_args(arguments)
    acts = (replace(ONE, prompt=options.prompt), replace(TWO, prompt=options.pair_prompt))
    photos = None if options.photos is None else (options.photos[0], options.photos[1])
    return Request(options.output, (options.people[0], options.people[1]), photos, acts, options.seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
