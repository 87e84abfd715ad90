"""The paper's numbers, which stand once: in data/published.json (spec, section 12)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).resolve().parent / "data" / "published.json"
TABLES = ("single", "several", "embedding", "references")


@dataclass(frozen=True)
class Published:
    """source, protocol: in words. tables: name of `TABLES` -> method -> metric -> value, where the paper has one."""

    source: str
    protocol: str
    tables: Mapping[str, Mapping[str, Mapping[str, float]]]


@cache
def published_numbers() -> Published:
    """The numbers of the paper and of its project page."""
    content = json.loads(_FILE.read_text("utf-8"))
    tables = {
        name: {
            entry["method"] + (f" ({entry['base']})" if "base" in entry else ""): {
                metric: value for metric, value in entry.items() if isinstance(value, float)
            }
            for entry in content[name]
        }
        for name in TABLES
    }
    return Published(content["source"], content["protocol"], tables)
