"""`python -m likeness.trainer`: prepare pictures, cache what does not change, train."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

FAULT = 2  # exit code: something was wrong, with a message

EXAMPLES = """\
from a folder of portraits to a trained model:
  python -m likeness.trainer prepare --help
  python -m likeness.trainer cache --help
  python -m likeness.trainer train uniportrait-24gb-stage1 --set data.path=data/portraits --dry-run
  python -m likeness.trainer train uniportrait-24gb-stage1 --set data.path=data/portraits

several GPUs or machines:
  accelerate launch --multi_gpu --num_processes 8 -m likeness.trainer train uniportrait-paper-stage1

docs/training.md goes through it step by step.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; what is wrong with the user's input is one message, no traceback."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in ("httpx", "PIL", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError) as error:
        if options.debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        return FAULT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m likeness.trainer",
        description="Train UniPortrait: pictures of people in, files for the ComfyUI nodes out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    from .data import cache, prepare
    from .run import command

    for part in (prepare, cache, command):
        part.add_parser(commands)
    for name, sub in commands.choices.items():
        if not any("--debug" in action.option_strings for action in sub._actions):
            sub.add_argument("--debug", action="store_true", help="show where in the code an error came from")
        assert sub.get_default("run") is not None, name
    return parser


if __name__ == "__main__":
    sys.exit(main())
