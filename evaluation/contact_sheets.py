"""Contact sheets: the references of a group of people, and next to them every picture of them with its scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .drawing import BAD, GOOD, UNKNOWN, Mark, draw_marks, fitting_text
from .pictures import Picture, Source, load_pixels
from .results import PictureScores, Results

CELL = 192  # pixels
COLUMNS = 8  # pictures beside the references
LINES = 12  # on one sheet

_CAPTION = 16  # pixels below each picture
_LETTERS = 12
_GAP = 4
_MOST_REFERENCES = 4

Line = tuple[list[np.ndarray], list[np.ndarray]]  # reference cells, picture cells


def write_contact_sheets(pictures: Sequence[Picture], results: Results, folder: str | Path) -> list[Path]:
    """PNG sheets, one or more for each row, named sheet-<row>-<number>.png, marked by the first judge.

    Green boxes are the person they were matched to by the judge's threshold, red ones are not, yellow ones nobody.
    """
    judge = results.tools["judges"][0]
    scores = {(scored.row, scored.name): scored for scored in results.pictures}
    written = []
    for index, row in enumerate(results.rows, 1):
        own = [picture for picture in pictures if picture.row == row]
        lines = list(_lines(own, scores, judge["name"], judge["threshold"]))
        for number, start in enumerate(range(0, len(lines), LINES), 1):
            path = Path(folder) / f"sheet-{index:02}-{_slug(row)}-{number}.png"
            Image.fromarray(_sheet(lines[start : start + LINES])).save(path, optimize=False)
            written.append(path)
    return written


def _lines(
    pictures: Sequence[Picture], scores: dict[tuple[str, str], PictureScores], judge: str, threshold: float
) -> Iterator[Line]:
    groups: dict[tuple[str, ...], list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.people, []).append(picture)
    for own in groups.values():
        references = [
            _captioned(_fitted(load_pixels(reference.photos[0]))[0], reference.person)
            for reference in own[0].references[:_MOST_REFERENCES]
        ]
        for start in range(0, len(own), COLUMNS):
            part = own[start : start + COLUMNS]
            yield references, [_marked(one.image, scores[one.row, one.name], judge, threshold) for one in part]


def _marked(source: Source, scored: PictureScores, judge: str, threshold: float) -> np.ndarray:
    picture, scale = _fitted(load_pixels(source))
    marks = []
    for face in scored.faces:
        x1, y1, x2, y2 = (side * scale for side in face.box)
        marks.append(Mark((x1, y1, x2, y2), *_label(face.matches.get(judge), len(scored.people), threshold)))
    value = scored.scores.get(f"face_sim/{judge}")
    return _captioned(draw_marks(picture, marks), scored.prompt if value is None else f"{value:.2f} {scored.prompt}")


def _label(match: tuple[str, float] | None, num_people: int, threshold: float) -> tuple[str, str]:
    if match is None:
        return "?", UNKNOWN
    person, cosine = match
    return f"{person} {cosine:.2f}" if num_people > 1 else f"{cosine:.2f}", GOOD if cosine >= threshold else BAD


def _fitted(image: np.ndarray) -> tuple[np.ndarray, float]:
    """The picture as large as a cell allows, and its scale."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)), scale


def _captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """A fitted picture in a cell (CELL + caption, CELL, 3) uint8 with a line of text below."""
    canvas = Image.new("RGB", (CELL, CELL + _CAPTION), "white")
    canvas.paste(Image.fromarray(picture), ((CELL - picture.shape[1]) // 2, 0))
    font = ImageFont.load_default(_LETTERS)
    text = fitting_text(caption, CELL - 4, font)
    ImageDraw.Draw(canvas).text((2, CELL + 1), text, fill="black", font=font)
    return np.array(canvas)


def _sheet(lines: Sequence[Line]) -> np.ndarray:
    num_references = max(len(references) for references, _ in lines)
    num_pictures = max(len(cells) for _, cells in lines)
    step_x, step_y = CELL + _GAP, CELL + _CAPTION + _GAP
    divide = 3 * _GAP if num_references else 0
    sheet = np.full((len(lines) * step_y, (num_references + num_pictures) * step_x + divide, 3), 255, np.uint8)
    for line, (references, cells) in enumerate(lines):
        for column, cell in enumerate(references):
            _put(sheet, cell, column * step_x, line * step_y)
        for column, cell in enumerate(cells):
            _put(sheet, cell, (num_references + column) * step_x + divide, line * step_y)
    if num_references:
        sheet[:, num_references * step_x + _GAP] = 128
    return sheet


def _put(sheet: np.ndarray, cell: np.ndarray, x: int, y: int) -> None:
    sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell


def _slug(text: str) -> str:
    """A part of a file name that every system takes; the row's number in front keeps names apart."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "row"
