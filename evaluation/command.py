"""The command `python -m likeness.evaluation`: measure a manifest, list a protocol's pictures, fit a centre."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..faces.detection import DETECTORS, load_detector
from .contact_sheets import write_contact_sheets
from .evaluate import Extras, evaluate
from .fitting import centre_from_pictures, pictures_in
from .judges.centre import load_centre, save_centre
from .judges.judge import Judge
from .judges.loading import JUDGES, load_judge, require_independent
from .manifest import read_manifest
from .metrics.aesthetic import AestheticHead
from .metrics.attributes import load_reader
from .metrics.clip import ClipModel
from .metrics.frechet import ClipFeatures, FeatureNetwork, FidReference, InceptionFeatures
from .protocols import PROTOCOLS, Plan, plan_manifest, read_prompts
from .report import results_markdown
from .results import results_json

_PROGRAM = "python -m likeness.evaluation"
_ROW = "row:"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status: 0, or 1 after a message on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    commands = {"prompts": _prompts, "centre": _centre}
    name = arguments[0] if arguments else ""
    try:
        if name in commands:
            commands[name](arguments[1:])
        else:
            _measure(arguments)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return 1
    return 0


def _measure(arguments: Sequence[str]) -> None:
    options = _measure_parser().parse_args(arguments)
    task = read_manifest(options.manifest)
    judges = _judges(options.judge or ["dlib"], options.centre)
    require_independent(judges, task.conditioned_by)  # before anything slow
    extras = _extras(options)
    options.out.mkdir(parents=True, exist_ok=True)
    results = evaluate(
        task.pictures,
        judges,
        load_detector(options.detector, options.detector_folder),
        second_opinions=_judges(options.second_opinion, []),
        conditioned_by=task.conditioned_by,
        upscale=options.upscale,
        extras=extras,
        seed=options.seed,
    )
    _write(options.out / "results.json", results_json(results))
    _write(options.out / "results.md", results_markdown(results))
    sheets = write_contact_sheets(task.pictures, results, options.out)
    sys.stdout.write(f"{options.out / 'results.md'}, results.json and {len(sheets)} contact sheets\n")


def _measure_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Measure generated pictures against the people they are to show; all files are local ones.",
        epilog=f"Also: {_PROGRAM} prompts --help (the pictures of the paper's protocol), {_PROGRAM} centre --help.",
    )
    parser.add_argument("manifest", type=Path, help="the list of pictures, .json or .jsonl (docs/evaluation.md)")
    names = "dlib, dlib=FOLDER, facenet=FILE, insightface=FILE, curricular=FILE"
    parser.add_argument(
        "--judge", action="append", default=[], help=f"recogniser, several times: {names}; default dlib"
    )
    parser.add_argument(
        "--second-opinion", action="append", default=[], help="a further recogniser that need not be independent"
    )
    parser.add_argument(
        "--centre", action="append", default=[], metavar="JUDGE=FILE", help="another centre, made by the command centre"
    )
    _add_detection(parser)
    parser.add_argument("--clip", type=Path, help="CLIP ViT-L/14 weights for CLIP-T")
    parser.add_argument(
        "--clip-plain-gelu", action="store_true", help="the CLIP file is LAION's and not OpenAI's (activation function)"
    )
    parser.add_argument("--aesthetic", type=Path, help="LAION's aesthetic head; needs --clip")
    parser.add_argument("--fid-features", help="Inception weights of torch-fidelity, or the word clip for --clip")
    parser.add_argument("--fid-reference", help=f"folder of reference pictures, or {_ROW}NAME of the manifest")
    parser.add_argument("--attributes", metavar="MODULE:FUNCTION", help="reader of the manifest's expected attributes")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap; default 0")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, results.md and sheets")
    return parser


def _add_detection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detector", choices=DETECTORS, default="bundled", help="default bundled (MTCNN), the paper's")
    parser.add_argument("--detector-folder", type=Path, action="append", default=[], help="where insightface packs lie")
    parser.add_argument(
        "--upscale", type=int, default=0, help="enlarge pictures before detection; 0: to 256 pixels where smaller"
    )


def _judges(texts: Sequence[str], centres: Sequence[str]) -> list[Judge]:
    files = dict(text.split("=", 1) for text in centres if "=" in text)
    names = [text.partition("=")[0] for text in texts]
    unused = [text for text in centres if text.partition("=")[0] not in names or "=" not in text]
    if unused:
        raise ValueError(f"--centre {unused[0]} belongs to none of the judges {', '.join(names)}; write JUDGE=FILE")
    return [load_judge(text, files.get(name)) for text, name in zip(texts, names, strict=True)]


def _extras(options: argparse.Namespace) -> Extras:
    clip = None if options.clip is None else ClipModel(options.clip, quick_gelu=not options.clip_plain_gelu)
    aesthetic = None
    if options.aesthetic is not None:
        if clip is None:
            raise ValueError("--aesthetic needs --clip")
        aesthetic = AestheticHead(options.aesthetic, clip.width)
    reader = None if options.attributes is None else load_reader(options.attributes)
    return Extras(clip, aesthetic, _fid(options, clip), reader)


def _fid(options: argparse.Namespace, clip: ClipModel | None) -> FidReference | None:
    if (options.fid_features is None) != (options.fid_reference is None):
        raise ValueError("FID needs both --fid-features and --fid-reference")
    if options.fid_features is None:
        return None
    network: FeatureNetwork
    if options.fid_features == "clip":
        if clip is None:
            raise ValueError("--fid-features clip needs --clip")
        network = ClipFeatures(clip)
    else:
        network = InceptionFeatures(options.fid_features)
    if options.fid_reference.startswith(_ROW):
        return FidReference(network, row=options.fid_reference.removeprefix(_ROW))
    return FidReference(network, tuple(pictures_in(options.fid_reference)))


def _prompts(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog=f"{_PROGRAM} prompts",
        description="List the pictures that a protocol asks for, as a manifest whose pictures are still to be made.",
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True)
    parser.add_argument("--row", default="method", help="name of the method; default method")
    parser.add_argument(
        "--prompts", type=Path, help="one prompt a line with {person} or {people}; without it the protocol's own"
    )
    parser.add_argument("--references", type=Path, help="folder with one photo for each person, named by the person")
    parser.add_argument("--classes", type=Path, help='JSON: person -> "man" or "woman"')
    parser.add_argument("--out", type=Path, help="file to write; without it to standard output")
    options = parser.parse_args(arguments)
    prompts = None if options.prompts is None else read_prompts(options.prompts)
    folder = (options.out.parent if options.out is not None else Path()).resolve()
    people = None
    if options.references is not None:
        people = {path.stem: _relative(path, folder) for path in pictures_in(options.references)}
    classes = {} if options.classes is None else _read_classes(options.classes)
    text = plan_manifest(Plan(options.protocol, options.row, prompts, people, classes))
    if options.out is None:
        sys.stdout.write(text)
    else:
        _write(options.out, text)


def _centre(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog=f"{_PROGRAM} centre",
        description="Fit a judge's centre to folders of many people's pictures; each folder counts the same. Nobody "
        "who is measured later may be in them.",
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--judge", default="dlib", help=f"{', '.join(JUDGES)}; default dlib")
    parser.add_argument("--made-from", required=True, help="whose faces these are, in words")
    parser.add_argument("--out", type=Path, required=True)
    _add_detection(parser)
    options = parser.parse_args(arguments)
    judge = replace(load_judge(options.judge), centre=None)
    detector = load_detector(options.detector, options.detector_folder)
    sets = [pictures_in(folder) for folder in options.folders]
    centre = centre_from_pictures(judge, sets, detector, options.made_from, options.upscale)
    save_centre(centre, options.out)
    load_centre(options.out, judge.fingerprint)


def _read_classes(path: Path) -> dict[str, str]:
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the classes {path} could not be read: {error}") from error
    if not isinstance(content, dict) or not all(value in ("man", "woman") for value in content.values()):
        raise ValueError(f'{path} must map each person to "man" or "woman"')
    return content


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder)).as_posix()


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))  # no other line ends on other systems
