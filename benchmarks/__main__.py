"""`python run.py bench [unet|encode|training] ...`: one table per benchmark."""

from __future__ import annotations

import argparse
import sys

from ..host.environment import named_comfyui


def main() -> None:
    """Make ComfyUI importable, then run what was asked for."""
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("unet", "encode", "training"), default="unet")
    parser.add_argument("--size", type=int, default=64, help="latent side in unet: 64 is a picture of 512 pixels")
    parser.add_argument("--pixels", type=int, default=512, help="picture side in training")
    parser.add_argument("--small", action="store_true", help="small widths in training: a quick look")
    parser.add_argument("--precision", choices=("no", "bf16"), help="in training; without it bf16 on a GPU")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once in unet and training")
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each")
    parser.add_argument("--identities", type=int, nargs="+", default=[1, 2, 3], help="numbers of people in unet")
    options = parser.parse_args()
    if options.what == "training":
        from . import training

        training.print_table(options.pixels, options.batch, options.rounds, options.small, options.precision)
        return
    _import_comfyui()
    if options.what == "unet":
        from . import unet_step

        unet_step.print_table(options.size, options.batch, options.rounds, options.identities)
    else:
        from . import encode

        encode.print_table(options.rounds)


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
