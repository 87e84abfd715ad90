"""The page, the sheets and the paper's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from likeness.evaluation.contact_sheets import CELL, COLUMNS, LINES, write_contact_sheets
from likeness.evaluation.drawing import BAD, GOOD, Mark, draw_marks
from likeness.evaluation.evaluate import evaluate
from likeness.evaluation.published import TABLES, published_numbers
from likeness.evaluation.report import results_markdown
from PIL import Image, ImageColor


@pytest.fixture
def measured(make_picture, make_judge, detector):
    pictures = [make_picture("one | good", [name], name, prompt="a person " * 20) for name in ("ann", "bob", "cat")]
    pictures += [make_picture("bad", ["eve"], "ann"), make_picture("bad", [], "bob")]
    pictures += [make_picture("two", ["ann", "cat"], "ann", "bob"), make_picture("two", ["cat", "bob"], "cat", "bob")]
    return pictures, evaluate(pictures, make_judge(), detector, conditioned_by=["c" * 64])


def table_of(page, title):
    lines = page.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in lines]


def test_the_page_shows_rows_next_to_the_papers(measured):
    page = results_markdown(measured[1])
    titles, _, *rows = table_of(page, "One person")
    assert titles[1] == "Face Sim colours ↑" and titles[-2:] == ["pictures", "people"]
    assert rows[0][:2] == ["**one ¦ good**", "100.0 [100.0, 100.0]"] and rows[0][-2:] == ["3", "3"]
    assert rows[1][:2] == ["**bad**", "0.0 [0.0, 0.0]"]
    paper = {row[0]: row[1] for row in rows[2:]}
    assert paper["*paper:* UniPortrait (SD15)"] == "71.1" and len(paper) == 9
    titles, _, *rows = table_of(page, "Several people")
    assert rows[0][titles.index("Face Sim colours ↑")].startswith("50.0 [")
    assert rows[0][titles.index("Blending colours ↓")] == "0.0 [0.0, 0.0]"
    assert {len(row) for row in rows} == {len(titles)}
    assert dict(zip(titles, rows[7], strict=True))["Blending colours ↓"] == "7.6"
    for fact in ("aaaaaaaaaaaaaaaa…", "cccccccccccccccc…", "detector: colours", "- **blending**: mean pairwise cosine"):
        assert fact in page


def test_the_papers_numbers_are_those_of_the_specification():
    numbers = published_numbers()
    assert [len(numbers.tables[name]) for name in TABLES] == [9, 11, 6, 3]
    uniportrait = numbers.tables["several"]["UniPortrait (SD15)"]
    assert uniportrait == {"face_sim": 67.3, "clip_t": 27.4, "fid": 139.5, "aesthetic": 5.89, "blending": 7.6}
    assert "fid" not in numbers.tables["single"]["SD v1-5 (SD15)"]


def test_sheets_show_every_picture_beside_its_references(measured, tmp_path):
    pictures, results = measured
    paths = write_contact_sheets(pictures, results, tmp_path)
    assert [path.name for path in paths] == [
        "sheet-01-one-good-1.png",
        "sheet-02-bad-1.png",
        "sheet-03-two-1.png",
    ]
    sheet = np.array(Image.open(paths[0]))
    assert sheet.shape[1] >= 2 * CELL and sheet.shape[0] >= 3 * CELL
    for line, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250)]):
        band = sheet[line * len(sheet) // 3 : (line + 1) * len(sheet) // 3]
        near = np.abs(band.astype(int) - colour).max(axis=-1) < 8
        assert near[:, :CELL].sum() > 3000 and near[:, CELL:].sum() > 2000
    for path, colour, other in ((paths[0], GOOD, BAD), (paths[1], BAD, GOOD)):
        sheet = np.array(Image.open(path))
        assert (sheet == ImageColor.getrgb(colour)).all(axis=-1).sum() > 100
        assert not (sheet == ImageColor.getrgb(other)).all(axis=-1).any()
    two = np.array(Image.open(paths[2]))
    for colour in (GOOD, BAD):
        assert (two == ImageColor.getrgb(colour)).all(axis=-1).sum() > 100


def test_large_sheets_are_split(make_picture, make_judge, detector, tmp_path):
    pictures = [make_picture("row", ["ann"], "ann") for _ in range(LINES * COLUMNS + 1)]
    results = evaluate(pictures, make_judge(), detector)
    first, second = write_contact_sheets(pictures, results, tmp_path)
    assert first.name == "sheet-01-row-1.png" and second.name == "sheet-01-row-2.png"
    with Image.open(first) as large, Image.open(second) as small:
        assert large.height == LINES * small.height and large.width > small.width


def test_marks_stay_inside_small_and_large_pictures():
    for size in (24, 1000):
        image = np.full((size, size, 3), 90, np.uint8)
        before = image.copy()
        drawn = draw_marks(
            image, [Mark((0, 0, size / 2, size / 2), "0.93", GOOD), Mark((size, size, size, size), "?", BAD)]
        )
        assert drawn.shape == image.shape and (drawn != image).any()
        np.testing.assert_array_equal(image, before)
