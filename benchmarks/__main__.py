"""`python run.py bench [unet|pulid-sdxl|pulid-flux|uniid|encode|training] ...`: one table per benchmark."""

from __future__ import annotations

import argparse
import sys

from ..host.environment import named_comfyui

CHOICES = ("unet", "pulid-sdxl", "pulid-flux", "uniid", "encode", "training")


def main() -> None:
    """Make ComfyUI importable, then run what was asked for."""
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=CHOICES, default="unet")
    parser.add_argument("--size", type=int, default=64, help="latent side where steps are measured: 64 is 512 pixels")
    parser.add_argument("--pixels", type=int, default=512, help="picture side in training")
    parser.add_argument("--small", action="store_true", help="small widths in all but unet and encode: a quick look")
    parser.add_argument("--depth", type=int, nargs=2, default=[2, 4], help="double and single blocks in pulid-flux")
    parser.add_argument("--precision", choices=("no", "bf16"), help="in training; without it bf16 on a GPU")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once, except in encode")
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="where steps are measured: count this process's processor time, for a machine with other work, and "
        "set OMP_NUM_THREADS=1",
    )
    parser.add_argument("--identities", type=int, nargs="+", default=[1, 2, 3], help="numbers of people in a picture")
    options = parser.parse_args()
    if options.what == "training":
        from . import training

        training.print_table(options.pixels, options.batch, options.rounds, options.small, options.precision)
        return
    _import_comfyui()
    if options.what == "encode":
        from . import encode

        encode.print_table(options.rounds)
        return
    from .steps import Timing

    steps = (options.size, options.batch, Timing(options.rounds, options.processor_time), options.identities)
    if options.what == "pulid-sdxl":
        from . import pulid_step

        pulid_step.print_sdxl_table(*steps, options.small)
    elif options.what == "pulid-flux":
        from . import pulid_step

        pulid_step.print_flux_table(*steps, tuple(options.depth), options.small)
    elif options.what == "uniid":
        from . import uniid_step

        uniid_step.print_table(*steps, options.small)
    else:
        from . import unet_step

        unet_step.print_table(*steps)


def _import_comfyui() -> None:
    import torch

    comfyui = named_comfyui()
    assert comfyui is not None, "start the benchmarks with `python run.py bench`"
    sys.path.insert(0, str(comfyui.folder))
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()  # before comfy.model_management is imported
    args.use_pytorch_cross_attention = True


if __name__ == "__main__":
    main()
