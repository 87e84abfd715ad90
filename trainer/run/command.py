"""`python -m likeness.trainer train`."""

from __future__ import annotations

import argparse
import logging

from ..config import TrainingConfig
from ..config_file import read_config

logger = logging.getLogger("likeness.trainer")

STOPPED = 3  # exit code after a signal: the state is saved, the run is not finished

DESCRIPTION = """\
Train a stage of UniPortrait. CONFIG is a settings file (YAML) or the name of a ready one; every setting can be given on
the command line too. The same command goes on where a run stopped, from its newest whole checkpoint.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` to the command line."""
    parser = commands.add_parser(
        "train",
        help="train a stage, or go on with a run",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 finished, 2 something was wrong (the message says what), 3 stopped by a signal and saved",
    )
    parser.add_argument("config", metavar="CONFIG", help="a settings file, or a ready one by name (tiny-stage1, ...)")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="a setting in place of the file's, such as --set batch.per_device=4; may be given several times",
    )
    parser.add_argument(
        "--resume",
        metavar="auto|none|PATH",
        default="auto",
        help="auto: from the newest whole checkpoint in the output folder, if there is one (default); none: from the "
        "start, refused where there are checkpoints; or the path of a checkpoint",
    )
    parser.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on although settings that change the result are not those of the checkpoint",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, show the settings, what is trained, and estimates of memory and time; train nothing",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Train, or show what would be. Returns the exit code; raises ValueError for what is wrong with the input."""
    config = read_config(TrainingConfig, options.config, options.overrides)
    if options.dry_run:
        from .estimate import show_estimate

        show_estimate(config)
        return 0
    from .session import train

    return STOPPED if train(config, options.resume, options.accept_changes).stopped else 0
