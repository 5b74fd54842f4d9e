"""Wrong twins: every check of a chapter is shown to fail when the mistake it guards against is made.

A check is a code cell that asserts something. It is tagged `check`, its first line is `# check: <label>`, and
`tests/twins/<chapter>.toml` holds at least one mistake for it:

    [[twin]]
    cell = "kl-closed-form"
    replace = "0.5 * (mean"
    with = "(mean"
    mistake = "the one half is missing"
    trips = "agree(kl, oracle"   # optional: part of the assert statement that must notice it
"""

import ast
import linecache
import random
import re
import sys
import tomllib
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.core.inputtransformer2 import TransformerManager
from IPython.display import display
from nbformat import NotebookNode

__all__ = ["Twin", "read_twins", "run_twins", "structural_problems"]

LABEL = re.compile(r"# check: (\S+)\s*$")


@dataclass(frozen=True)
class Twin:
    """One mistake: in the check `cell`, `replace` becomes `wrong`; the assert with `trips` must notice."""

    cell: str
    replace: str
    wrong: str
    mistake: str
    trips: str = ""

    def mutate(self, source: str) -> str:
        """The cell with the mistake made."""
        return source.replace(self.replace, self.wrong)


def read_twins(path: Path) -> list[Twin]:
    """The twins of a chapter; none where there is no file.

    Raises:
        ValueError: an entry lacks a key or has one too many.
    """
    if not path.is_file():
        return []
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("twin", [])
    for entry in entries:
        if set(entry) - {"trips"} != {"cell", "replace", "with", "mistake"}:
            raise ValueError(
                f"{path.name}: a twin has cell, replace, with, mistake, perhaps trips; this one has {entry}"
            )
    return [
        Twin(entry["cell"], entry["replace"], entry["with"], entry["mistake"], entry.get("trips", ""))
        for entry in entries
    ]


def check_label(source: str) -> str | None:
    """The label that a cell's first line gives it as a check."""
    match = LABEL.match(source.split("\n", 1)[0])
    return match.group(1) if match else None


def asserts(source: str) -> bool:
    """Whether code asserts something, by statement or by a function such as `assert_close`."""
    for node in ast.walk(ast.parse(TransformerManager().transform_cell(source))):
        called = node.func if isinstance(node, ast.Call) else None
        name = getattr(called, "attr", getattr(called, "id", ""))
        if isinstance(node, ast.Assert) or name.startswith("assert"):
            return True
    return False


def structural_problems(notebook: NotebookNode, twins: list[Twin]) -> list[str]:
    """What is wrong with a chapter's checks and twins before anything is run, one line each."""
    problems: list[str] = []
    sources: dict[str, str] = {}
    for number, cell in enumerate(_code_cells(notebook)):
        label, tagged = check_label(cell.source), "check" in cell.metadata.get("tags", [])
        if asserts(cell.source) and not (label and tagged):
            problems.append(
                f"code cell {number} asserts but lacks its tag `check` or first line `# check: …`"
            )
        elif (label or tagged) and not asserts(cell.source):
            problems.append(f"code cell {number} calls itself a check but asserts nothing")
        if label in sources:
            problems.append(f"two cells are labelled {label!r}")
        if label:
            sources[label] = cell.source
    problems += [f"check {label!r} has no twin" for label in sources if label not in {t.cell for t in twins}]
    for twin in twins:
        found = sources.get(twin.cell, "").count(twin.replace)
        if twin.cell not in sources:
            problems.append(f"a twin names {twin.cell!r}, which no check is called")
        elif found != 1:
            problems.append(f"{twin.cell}: {twin.replace!r} occurs {found} times in the cell, not once")
        elif twin.replace == twin.wrong or not twin.mistake.strip():
            problems.append(f"{twin.cell}: a twin must change something and say what the mistake is")
    return problems


def run_twins(notebook: NotebookNode, twins: list[Twin], name: str) -> list[str]:
    """Run a notebook's code up to its last check, and each check's twins right after it.

    A twin starts from the variables and the random state that the check itself started from, so that nothing
    but the mistake is different.

    Returns:
        a line for each twin that did not raise AssertionError, or not in the statement it names: for each
        mistake that a check lets pass.
    """
    cells = _code_cells(notebook)
    last = max((i for i, cell in enumerate(cells) if check_label(cell.source)), default=-1)
    survivors = []
    no_pictures = mock.patch("course_lib.frames._png", return_value="")  # no check looks at a slider's frames
    with _chapter_namespace(name) as namespace, _world_kept(namespace), no_pictures:
        for number, cell in enumerate(cells[: last + 1]):
            before, state = dict(namespace), _global_state(namespace)
            _run(cell.source, namespace, f"{name}, code cell {number}", cell.metadata.get("tags", []))
            for twin in (twin for twin in twins if twin.cell == check_label(cell.source)):
                with _world_kept(namespace):
                    _restore(state)
                    outcome, statement = _outcome(
                        twin.mutate(cell.source), dict(before), f"{name}, twin of {twin.cell}"
                    )
                if outcome != "AssertionError":
                    survivors.append(f"{twin.cell}: no AssertionError but {outcome}: {twin.mistake}")
                elif twin.trips not in statement:
                    survivors.append(f"{twin.cell}: {statement!r} failed, not {twin.trips!r}: {twin.mistake}")
    return survivors


@contextmanager
def _chapter_namespace(name: str) -> Iterator[dict[str, Any]]:
    """The variables of a chapter, in a module of its own: dataclasses and pickle look for it by name."""
    module = types.ModuleType(f"chapter_{name}")
    sys.modules[module.__name__] = module
    module.__dict__["display"] = display
    try:
        yield module.__dict__
    finally:
        plt.close("all")
        del sys.modules[module.__name__]


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _run(source: str, namespace: dict[str, Any], filename: str, tags: list[str]) -> None:
    """Execute one cell as a kernel would, without the cells' formatting commands."""
    if "skip-execution" in tags:
        return
    try:
        _execute(source, namespace, filename)
    except Exception:
        if "raises-exception" not in tags:
            raise
    plt.close("all")


def _outcome(source: str, namespace: dict[str, Any], filename: str) -> tuple[str, str]:
    """What executing a twin ends in, an exception's name or "nothing raised", and the failed assert."""
    try:
        _execute(source, namespace, filename)
    except AssertionError as error:
        return "AssertionError", _failed_statement(error, source, filename)
    except Exception as error:
        return f"{type(error).__name__}: {error}", ""
    finally:
        plt.close("all")
    return "nothing raised", ""


def _failed_statement(error: AssertionError, source: str, filename: str) -> str:
    """The innermost statement of the cell in which the error arose."""
    line = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == filename
    ][-1]
    around = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and node.lineno <= (line or 0) <= (node.end_lineno or 0)
    ]
    return ast.get_source_segment(source, max(around, key=lambda node: node.lineno)) or ""


def _execute(source: str, namespace: dict[str, Any], filename: str) -> None:
    # Tracebacks show the cell's lines when the interpreter can look them up.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    exec(compile(TransformerManager().transform_cell(source), filename, "exec"), namespace)


def _global_state(namespace: dict[str, Any]) -> list[tuple[Any, Any]]:
    """What a cell can change outside its variables, randomness above all: pairs of a setter and its argument.

    A twin stops in the middle, so it may leave, say, another default precision behind.
    """
    states: list[tuple[Any, Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),  # noqa: NPY002 (scikit-learn still draws from it)
        (torch.set_rng_state, torch.get_rng_state()),
        (torch.set_default_dtype, torch.get_default_dtype()),
        (torch.set_grad_enabled, torch.is_grad_enabled()),
    ]
    if torch.cuda.is_available():
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    for value in namespace.values():
        if isinstance(value, torch.Generator):
            states.append((value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            states.append(
                (lambda state, g=value.bit_generator: setattr(g, "state", state), value.bit_generator.state)
            )
    return states


def _restore(states: list[tuple[Any, Any]]) -> None:
    for setter, state in states:
        setter(state)


@contextmanager
def _world_kept(namespace: dict[str, Any]) -> Iterator[None]:
    """Leave the random state and the other global settings as they were found."""
    states = _global_state(namespace)
    try:
        yield
    finally:
        _restore(states)
