"""The numbers a chapter quotes, and the committed ones they are compared with.

`tests/expected/<chapter>.json` holds, for each data set and each glued name, one of

    {"value": 1.25, "tolerance": 0.02}    a number that must come out again; text and counts have tolerance 0
    {"below": 1e-5}                       a rounding error: only its order of magnitude means anything
    {"varies": "wall-clock time"}         a number that another run or machine changes, and why
"""

import ast
import json
import math
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

__all__ = ["default_entry", "differences", "glued_values", "read_expected", "updated"]

PREFIX = "application/papermill.record/"
Entry = dict[str, Any]
# A tolerance beyond this part of the value would let a reader's picture of it be wrong.
WIDEST_TOLERANCE = 0.25


def glued_values(notebook: NotebookNode) -> dict[str, Any]:
    """The values that an executed notebook has glued, by name.

    Raises:
        ValueError: a name is glued twice.
    """
    values: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            text = output.get("data", {}).get(f"{PREFIX}text/plain")
            if name is None or text is None:
                continue
            if name in values:
                raise ValueError(f"{name!r} is glued twice: give the second value a name of its own")
            values[name] = _parse(text)
    return values


def _parse(text: str) -> Any:
    """The value that a repr stands for; the text itself where it is no literal."""
    try:
        return float(text) if text.strip("-") in ("inf", "nan") else ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def read_expected(path: Path, dataset: str) -> dict[str, Entry]:
    """The committed entries of a chapter for a data set; empty where there are none."""
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8")).get(dataset, {})


def differences(values: dict[str, Any], expected: dict[str, Entry]) -> list[str]:
    """What keeps a run's glued values from agreeing with the committed entries, one line each."""
    lines = [
        f"{name} = {values[name]!r} is glued but not expected" for name in values if name not in expected
    ]
    for name, entry in expected.items():
        if name not in values:
            lines.append(f"{name} is expected but not glued")
        elif not _is_entry(entry):
            lines.append(
                f"{name}: {entry} is no entry, or wider than a quarter of its value (see pipeline/glued.py)"
            )
        elif not _agrees(values[name], entry):
            lines.append(f"{name}: the run gives {values[name]!r}, expected {entry}")
    return lines


def _is_entry(entry: Entry) -> bool:
    if "varies" in entry:
        return bool(entry["varies"])
    if "below" in entry:
        return 0 < entry["below"] <= 1e-3
    if not {"value", "tolerance"} <= set(entry):
        return False
    if isinstance(entry["value"], str) or entry["tolerance"] == 0:
        return True
    return 0 < entry["tolerance"] <= WIDEST_TOLERANCE * abs(entry["value"])


def _agrees(value: Any, entry: Entry) -> bool:
    if "varies" in entry:
        return True
    if "below" in entry:
        return bool(abs(value) < entry["below"])
    if isinstance(value, int | float) and isinstance(entry["value"], int | float):
        return abs(value - entry["value"]) <= entry["tolerance"]  # False for nan
    return bool(value == entry["value"])


def default_entry(value: Any) -> Entry:
    """The entry for a value seen for the first time: one per cent for a number, equality for the rest."""
    if not isinstance(value, float) or not math.isfinite(value):
        return {"value": value, "tolerance": 0}
    if abs(value) < 1e-4:
        exponent = math.ceil(math.log10(abs(value))) if value else -8
        return {"below": float(f"1e{exponent + 1}")}
    return {"value": float(f"{value:.6g}"), "tolerance": float(f"{0.01 * abs(value):.1g}")}


def updated(values: dict[str, Any], expected: dict[str, Entry]) -> dict[str, Entry]:
    """The entries to commit for a run: those that still agree stay, the others follow the run.

    A tolerance once chosen is kept; names no longer glued go.
    """
    entries: dict[str, Entry] = {}
    for name, value in values.items():
        entry = expected.get(name, {})
        if entry and not differences({name: value}, {name: entry}):
            entries[name] = entry
            continue
        fresh = default_entry(value)
        chosen = {**fresh, "tolerance": entry.get("tolerance", fresh.get("tolerance"))}
        entries[name] = chosen if "value" in fresh and _is_entry(chosen) else fresh
    return entries
