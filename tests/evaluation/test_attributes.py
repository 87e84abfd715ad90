"""Attributes read back from pictures."""

from __future__ import annotations

import pytest
from likeness.evaluation.metrics.attributes import agreement, load_reader


def test_what_is_missing_or_different_is_wrong():
    expected = {"shirt": "red", "people": 2, "hat": None, "gaze": "left"}
    read = {"shirt": "red", "people": 3, "hat": None, "background": "blue"}
    assert agreement(expected, read) == {"shirt": 1, "people": 0, "hat": 1, "gaze": 0}


def test_readers_are_named_by_module_and_function():
    assert load_reader("math:sqrt")(9) == 3
    for text in ("math", "math:nothing", "no_such_module_anywhere:read", ":read"):
        with pytest.raises(ValueError, match=f"the attribute reader '{text}' is no module:function"):
            load_reader(text)
    with pytest.raises(ValueError, match="'math:pi' is no function"):
        load_reader("math:pi")
