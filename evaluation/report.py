"""Results as a Markdown page, next to the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .intervals import LEVEL, Estimate
from .published import published_numbers
from .results import Results, Row

_NONE = "–"


@dataclass(frozen=True)
class Column:
    """One column: the metric of a row that it shows, as `digits` decimals of value x factor, and the paper's metric."""

    title: str
    metric: str
    factor: float = 100.0
    digits: int = 1
    published: str = ""


def results_markdown(results: Results) -> str:
    """A page with a table for one person, one for several, what they mean and what they were measured with."""
    parts = ["# Likeness evaluation"]
    for title, table, several in (("One person", "single", False), ("Several people", "several", True)):
        rows = [row for row in results.rows.values() if (row.num_people > 1) == several]
        if rows:
            parts += [f"## {title}", _table(results, rows, table, several)]
    parts += [_reading(results), "## Levels", _levels(results), "## Measured with", _tools(results)]
    definitions = "\n".join(f"- **{metric}**: {text}." for metric, text in results.definitions.items())
    return "\n\n".join([*parts, "## Definitions", definitions]) + "\n"


def _columns(results: Results, rows: Sequence[Row], several: bool) -> list[Column]:
    judges = [judge["name"] for judge in (*results.tools["judges"], *results.tools["second_opinions"])]
    columns = []
    for judge in judges:
        lead = judge == judges[0]
        columns.append(Column(f"Face Sim {judge} ↑", f"face_sim/{judge}", published="face_sim" if lead else ""))
        if several:
            columns.append(Column(f"Blending {judge} ↓", f"blending/{judge}", published="blending" if lead else ""))
            columns.append(Column(f"Duplicates {judge} ↓", f"duplicates/{judge}"))
        columns.append(Column(f"Unmatched {judge} ↓", f"unmatched/{judge}"))
    columns += [
        Column("Detected ↑", "detected"),
        Column("Routing accuracy ↑", "routing_accuracy"),
        Column("Routing agreement ↑", "routing_agreement"),
        Column("Prompt agreement ↑", "attributes"),
        Column("CLIP-T ↑", "clip_t", 1.0, published="clip_t"),
        Column("LAION-Aes ↑", "aesthetic", 1.0, 2, "aesthetic"),
    ]
    measured = {metric for row in rows for metric in row.scores}
    return [column for column in columns if column.metric in measured]


def _table(results: Results, rows: Sequence[Row], table: str, several: bool) -> str:
    columns = _columns(results, rows, several)
    with_fid = any(row.fid is not None for row in results.rows.values())
    titles = ["", *(column.title for column in columns), *(["FID ↓"] if with_fid else []), "pictures", "people"]
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        cells = [_estimate(row.scores.get(column.metric), column) for column in columns]
        first = row.scores["detected"]
        fid = [_NONE if row.fid is None else f"{row.fid:.1f}"] if with_fid else []
        lines.append([f"**{_escaped(row.name)}**", *cells, *fid, str(first.n), str(first.clusters)])
    for method, values in published_numbers().tables[table].items():
        cells = [_published(values.get(column.published), column) for column in columns]
        fid = [_published(values.get("fid"), None)] if with_fid else []
        lines.append([f"*paper:* {method}", *cells, *fid, "", ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _estimate(estimate: Estimate | None, column: Column) -> str:
    if estimate is None:
        return _NONE
    return estimate.shown(column.digits, column.factor)


def _published(value: float | None, column: Column | None) -> str:
    return _NONE if value is None else f"{value:.{1 if column is None else column.digits}f}"


def _reading(results: Results) -> str:
    numbers = published_numbers()
    return (
        f"Means with {LEVEL:.0%} intervals over people; in % but for LAION-Aes and FID. "
        f"The paper's numbers ({numbers.source}) hold for its own protocol ({numbers.protocol}): compare them only "
        "with rows measured in the same way."
    )


def _levels(results: Results) -> str:
    lines = [
        ["judge", "strangers", "strangers as Face Sim", "same person", "AUC"],
        ["---"] * 5,
    ]
    for judge, level in results.levels.items():
        values = (level.strangers, level.strangers_score, level.same, level.auc)
        digits = (100, 100, 100, 1)
        cells = [
            _NONE if value is None else f"{value * factor:.{1 if factor > 1 else 3}f}"
            for value, factor in zip(values, digits, strict=True)
        ]
        lines.append([judge, *cells])
    return "Reference photos among themselves, in %:\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _tools(results: Results) -> str:
    tools = results.tools
    lines = [f"- detector: {tools['detector']}; pictures enlarged: {tools['upscale']}"]
    for kind, name in (("judges", "judge"), ("second_opinions", "second opinion, NOT independent by itself")):
        for judge in tools[kind]:
            centre = f"; centre from {judge['centre']['made_from']}" if judge["centre"] else ""
            lines.append(
                f"- {name}: {judge['name']} (sha256 {judge['sha256'][:16]}…), same person from {judge['threshold']}; "
                f"{judge['preprocessing']}{centre}"
            )
    lines += [f"- {name}: {_facts(tools[name])}" for name in ("clip", "aesthetic", "fid") if tools[name]]
    conditioned = ", ".join(f"{entry[:16]}…" if len(entry) == 64 else entry for entry in tools["conditioned_by"])
    lines.append(f"- conditioned by: {conditioned or 'nothing'}")
    return "\n".join(lines)


def _facts(tool: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value[:16] + '…' if key == 'sha256' else value}" for key, value in tool.items())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
