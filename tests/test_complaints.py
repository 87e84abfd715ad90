"""docs/complaints.md: each complaint has its row, and the tests that it names exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "complaints.md").read_text("utf-8")
STATUSES = {"held", "in part", "not ours"}
NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


def rows() -> dict[str, tuple[str, ...]]:
    """Number of the complaint -> complaint, what is done, status, tests."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:3] == "| C"]
    assert all(len(cells) == 5 for cells in found), [cells[0] for cells in found if len(cells) != 5]
    assert len({cells[0] for cells in found}) == len(found)
    return {cells[0]: tuple(cells[1:]) for cells in found}


@cache
def functions_of(file: str) -> frozenset[str]:
    """Names of the test functions of a file, those of classes as `Class::function`."""
    if not (ROOT / file).is_file():
        return frozenset()
    names = set()
    for node in ast.parse((ROOT / file).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(name for name in names if name.rpartition("::")[2].startswith("test_"))


def test_each_complaint_has_one_row_with_a_status_and_tests():
    found = rows()
    assert sorted(found) == [f"C{number:02}" for number in range(1, 43)]
    for number, (complaint, here, status, tests) in found.items():
        assert complaint and here and status in STATUSES, number
        assert tests and NAMED.sub("", tests).strip() == "", (number, tests)


def test_every_test_that_is_named_exists():
    named = NAMED.findall(PAGE)
    assert len(named) > 100 and len(named) == PAGE.count("`tests/") - PAGE.count("`tests/test_complaints.py`")
    assert sorted({f"{file}::{name}" for file, name in named if name not in functions_of(file)}) == []


def test_the_page_is_found():
    for page, link in (("README.md", "docs/complaints.md"), ("docs/pulid.md", "complaints.md")):
        assert f"]({link})" in (ROOT / page).read_text("utf-8"), page
