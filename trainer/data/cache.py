"""The command `cache`: a prepared set becomes one whose pictures and faces are encoded already."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .caching import CacheSettings, make_cache
from .cropping import Size
from .settings import check_sizes, sizes_of


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to a command line; `args.run` then is this module's `run`."""
    parser = subparsers.add_parser(
        "cache",
        help="store latents and face features beside the pictures of a set",
        description="Run the frozen encoders once over a prepared set, so that training need not. Killed or stopped, "
        "the same command goes on where it was. The cache serves runs of the same resolution, VAE and face encoders.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("source", type=Path, metavar="SET", help="a set that prepare made")
    add("--out", type=Path, required=True, help="the new set's folder: new, or one that this command began")
    add("--resolution", type=_resolution, default="512", metavar="N or WxH,WxH", help="as in the training settings")
    add("--only", choices=("latents", "features"), help="make one kind; the other is kept as the set has it")
    add("--base-model", type=Path, help="for latents: the base model, a diffusers folder or an SD 1.5 file")
    add("--backbone", type=Path, help="for features: the face recognition backbone")
    add("--clip-vision", type=Path, help="for features: the CLIP vision model, a transformers folder or the ViT-H file")
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="in which the encoders run")
    add("--batch-size", type=int, default=CacheSettings.batch_size, help="pictures or crops encoded at once")
    add("--samples-per-shard", type=int, default=CacheSettings.samples_per_shard, help="pictures in one tar file")
    add("--threads", type=int, default=CacheSettings.threads, help="threads that read pictures")


def run(args: argparse.Namespace) -> int:
    """Run the command and write a line to standard output. Raises ValueError for what the user can mend."""
    wants_latents, wants_features = args.only != "features", args.only != "latents"
    _require(args, ["base_model"] if wants_latents else [], "latents")
    _require(args, ["backbone", "clip_vision"] if wants_features else [], "features")

    import torch

    from ..model.encoders import load_face_encoders
    from ..model.latents import load_latent_encoder

    device = torch.device(_best_device() if args.device == "auto" else args.device)
    dtype = getattr(torch, args.dtype)
    settings = CacheSettings(
        args.source, args.out, args.resolution, args.batch_size, args.samples_per_shard, args.threads
    )
    latents = load_latent_encoder(args.base_model, device, dtype) if wants_latents else None
    features = load_face_encoders(args.backbone, args.clip_vision, device, dtype) if wants_features else None
    count = make_cache(settings, latents, features)
    sys.stdout.write(f"{args.out}: {count} pictures with cached {args.only or 'latents and features'}\n")
    return 0


def _require(args: argparse.Namespace, names: list[str], kind: str) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is None]
    if missing:
        other = "features" if kind == "latents" else "latents"
        raise ValueError(f"{kind} need {' and '.join(missing)}; or make only {other} with --only {other}")


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _resolution(text: str) -> tuple[Size, ...]:
    try:
        parts = [part.lower().split("x") for part in text.split(",")]
        sides = [[int(side) for side in part] for part in parts]
        sizes = sizes_of(tuple((part[0], part[-1]) for part in sides if len(part) <= 2))
        check_sizes(sizes)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no resolution such as 512 or 512x768,768x512: {error}") from None
    return sizes
