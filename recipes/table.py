"""The table that proves it: what each part of UniPortrait contributes, on people that nothing was trained on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..adapters.identity import Identity, mix_identities
from ..adapters.uniportrait import UniPortrait
from ..evaluation.contact_sheets import write_contact_sheets
from ..evaluation.evaluate import Extras, evaluate
from ..evaluation.fingerprints import file_fingerprint
from ..evaluation.pictures import Picture, Reference
from ..evaluation.report import results_markdown
from ..evaluation.results import Results, results_json
from ..faces.detection import load_detector
from ..faces.types import Face
from ..synthetic.attributes import background_colour, head_turn, shirt_colour
from ..trainer.model import sampling
from ..trainer.model.base_model import BaseModel, load_base_model
from ..trainer.model.encoders import FaceEncoders, load_face_encoders
from ..trainer.model.host import DiffusersHost
from ..trainer.model.identity_tokens import TokenMaker
from ..trainer.model.weights import load_adapter
from ..trainer.run.building import RELEASED_NAMES
from ..trainer.run.folder import find_stage_one
from .judging import world_judge
from .people import sitters, stacked
from .steps import Workshop
from .told_apart import told_apart, told_apart_markdown

GUIDANCE = 3.0
STEPS = 25
STRUCTURE_SCALE = 1.0
WANTED = (  # shirt, background, turn of the head: the references all look ahead
    ("red", "blue", "ahead"),
    ("green", "white", "left"),
    ("yellow", "purple", "right"),
    ("blue", "orange", "left"),
)


@dataclass(frozen=True)
class Row:
    """A row of the table: which training runs, how many people, how they are put in."""

    title: str
    people: int
    stage1: str | None = None
    stage2: str | None = None
    joined: bool = False
    references: int = 1
    share: float | None = None  # of a second person mixed into the first


BASE = "base model, no identity"
GLOBAL = "global embedding"
NO_DROPPING = "without structure dropping"
FULL = "UniPortrait, one person"
REFERENCES = {f"{count} references": count for count in (2, 4)}
MIXED = {f"mixed {share:.0%}": share for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
NO_ROUTER = "two people, no router"
NO_ROUTING_LOSS = "two people, no routing loss"
TWO = "UniPortrait, two people"
ROWS = (
    Row(BASE, 1),
    Row(GLOBAL, 1, "single-global"),
    Row(NO_DROPPING, 1, "single-no-dropping"),
    Row(FULL, 1, "single"),
    *(Row(title, 1, "single", references=count) for title, count in REFERENCES.items()),
    *(Row(title, 1, "single", share=share) for title, share in MIXED.items()),
    Row("base model, two people", 2),
    Row(NO_ROUTER, 2, "single", "pairs-no-router", joined=True),
    Row(NO_ROUTING_LOSS, 2, "single", "pairs-no-routing-loss"),
    Row(TWO, 2, "single", "pairs"),
)


def make_table(studio: Studio, rows: Sequence[Row], folder: Path) -> Results:
    """Draw and judge the rows; writes results.json, results.md, told-apart.md and contact sheets into the folder."""
    workshop, detector = studio.workshop, studio.detector
    references = {sitter.name: Reference(sitter.name, sitter.photos[:1]) for sitter in studio.sitting}
    pictures = [picture for row in rows for picture in studio.pictures(row, references)]
    results = evaluate(
        pictures, world_judge(workshop, detector), detector,
        conditioned_by=[file_fingerprint(workshop.backbone)], extras=Extras(read_attributes=read_attributes),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results_json(results), "utf-8")
    (folder / "results.md").write_text(results_markdown(results), "utf-8")
    (folder / "told-apart.md").write_text(told_apart_markdown(told_apart(pictures, results, detector)), "utf-8")
    write_contact_sheets(pictures, results, folder)
    return results


class Studio:
    """Draws so many test people in the pictures of rows, with a recipe's networks."""

    def __init__(self, workshop: Workshop, people: int) -> None:
        self.workshop = workshop
        self.detector = load_detector("bundled", ())
        self.sitting = sitters(people, self.detector, workshop.recipe.level)
        self.base: BaseModel = load_base_model(workshop.base, workshop.device, torch.float32)
        self._encoders: FaceEncoders = load_face_encoders(
            workshop.backbone, workshop.vision, workshop.device, torch.float32
        )

    def pictures(self, row: Row, references: Mapping[str, Reference]) -> Iterator[Picture]:
        """Every sitter, or every sitter with the next one, at every prompt; the rows have their seeds in common."""
        adapter, sitting = self.adapter(row), self.sitting
        identities = self.identities(row, adapter)
        wanted, meant = [], []
        for number, sitter in enumerate(sitting):
            group = [sitter, sitting[(number + 1) % len(sitting)]][: row.people]
            for prompt in range(len(WANTED)):
                caption, expected = prompt_of(row.people, prompt)
                people = tuple(identities[member.name] for member in group) if identities else ()
                seed = 1000 * number + prompt
                wanted.append(sampling.Picture(caption, people, seed))
                meant.append((group, sitting[(number + 1) % len(sitting)], caption, expected, seed))
        drawn = self._draw(row, adapter, wanted)
        for (group, neighbour, caption, expected, seed), image, maps in zip(
            meant, drawn.images, drawn.routing, strict=True
        ):
            yield Picture(
                f"{group[0].name}-{seed}", row.title, image,
                tuple(references[member.name] for member in group), caption, seed,
                others=(references[neighbour.name],) if row.share is not None else (),
                routing={number: map_.numpy() for number, map_ in maps.items()}, expected=expected,
            )  # fmt: skip

    def _draw(self, row: Row, adapter: UniPortrait, wanted: Sequence[sampling.Picture]) -> sampling.Samples:
        side = self.workshop.recipe.side
        host = DiffusersHost(self.base.unet, adapter)
        settings = sampling.SamplingSettings(
            steps=STEPS, guidance=GUIDANCE, joined=row.joined, batch=32,
            routing_maps=row.people > 1 and not row.joined and row.stage2 is not None,
        )  # fmt: skip
        return sampling.sample(self.base, host, wanted, (side, side * row.people), settings)

    def adapter(self, row: Row) -> UniPortrait:
        """The trained weights of a row; the base model's row gets the full ones, which it does not use."""
        runs = self.workshop.folder / "runs"
        stage1 = find_stage_one(runs / (row.stage1 or "single"), RELEASED_NAMES[1])
        stage2 = None if row.stage2 is None else find_stage_one(runs / row.stage2, RELEASED_NAMES[2])
        return load_adapter(stage1, stage2).to(self.workshop.device)

    def identities(self, row: Row, adapter: UniPortrait) -> dict[str, Identity]:
        """Every sitter as this row's adapter sees them, by name; none without identity."""
        if row.stage1 is None:
            return {}
        maker = TokenMaker(
            adapter.resampler, "global" if "global" in row.stage1 else "local", self.workshop.device,
            self._encoders, None, None,
        )  # fmt: skip
        crops = [stacked(sitter.crops[: row.references]) for sitter in self.sitting]
        found = maker.identities(crops, STRUCTURE_SCALE, [sitter.name for sitter in self.sitting])
        if row.share is not None:
            following = [*found[1:], found[0]]
            found = [
                mix_identities(one, [(other, row.share)], one.label)
                for one, other in zip(found, following, strict=True)
            ]
        return {sitter.name: identity for sitter, identity in zip(self.sitting, found, strict=True)}


def prompt_of(people: int, number: int) -> tuple[str, dict[str, str]]:
    """Prompt of a number for so many people, and what it asks for by attribute."""
    shirt, background, turn = WANTED[number]
    if people == 1:
        looks = f"with a neutral face, facing {turn}"
        text = f"a photo of one person, in a {shirt} shirt, {looks}, on a {background} background"
        return text, {"shirt": shirt, "background": background, "turn": turn}
    other, _, _ = WANTED[(number + 2) % len(WANTED)]
    text = (
        f"a photo of two people, left person in a {shirt} shirt, right person in a {other} shirt, "
        f"on a {background} background"
    )
    return text, {"left shirt": shirt, "right shirt": other, "background": background}


def read_attributes(image: np.ndarray, faces: Sequence[Face]) -> dict[str, str | None]:
    """What a picture shows of what was asked for, by measuring it; shirts and turn only of faces that are found."""
    read: dict[str, str | None] = {"background": background_colour(image).name}
    ordered = sorted(faces, key=lambda face: face.box[0])
    alone = image.shape[1] == image.shape[0]
    if alone:
        read["turn"] = head_turn(ordered[0].landmarks) if ordered else None
    names = ("shirt",) if alone else ("left shirt", "right shirt")
    for name, face in itertools.zip_longest(names, ordered[: len(names)]):
        reading = None if face is None else shirt_colour(image, face.box)
        read[name] = None if reading is None else reading.name
    return read
