"""Problem sets: read a master text, and let otter-grader make a student notebook and an autograder of it.

A master, `book/assignments/ps*.py`, is a Jupytext percent file in otter-grader's format, with more:

- the first cell, tagged `variant`, draws constants: its names in capitals replace `{{NAME}}` everywhere else;
- BEGIN/END WRONG ANSWERS inside a question: code cells that begin with `# wrong: name`, `# earns: points` and
  `# says: part of the message`;
- BEGIN/END RUBRIC inside a manually graded question.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jupytext
import nbformat
import numpy as np
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_notebook, new_raw_cell

from pipeline.settings import ROOT

__all__ = ["MASTERS", "ProblemSet", "Question", "WrongAnswer", "build", "masters", "read_master"]

MASTERS = ROOT / "book" / "assignments"

BLOCK = re.compile(r"^#\s*(BEGIN|END) (QUESTION|WRONG ANSWERS|RUBRIC|SOLUTION|TESTS)\s*$", re.MULTILINE)
CONFIG = {
    "init_cell": False,  # the first cell of the student's edition prepares more than otter's
    "check_all_cell": False,
    "export_cell": False,
    "tests": {"files": True, "ok_format": False},
    "generate": {"plugins": ["course_lib.grading_guard.GradingGuard"], "show_hidden": False},
}
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
UNPACKED = "/autograder/source"  # where Gradescope and otter's containers unpack an archive
HEADER = re.compile(r"^# (wrong|earns|says): (.*)$", re.MULTILINE)


@dataclass
class WrongAnswer:
    """A typical mistake: what it earns on its question, and what the message about it says."""

    name: str
    earns: float
    says: str
    source: str


@dataclass
class Question:
    """One question of a problem set, in the order of the master."""

    name: str
    points: float
    manual: bool
    pool: str | None
    cells: list[NotebookNode]
    solution: list[NotebookNode]
    wrong_answers: list[WrongAnswer]
    rubric: str

    @property
    def answer(self) -> str:
        """The code of the solution."""
        return "\n\n".join(cell.source for cell in self.solution if cell.cell_type == "code")


@dataclass
class ProblemSet:
    """A master with its variant's constants filled in."""

    name: str
    variant: str
    constants: dict[str, Any]
    head: list[NotebookNode]
    questions: list[Question]

    @property
    def points(self) -> float:
        """Of all questions."""
        return sum(question.points for question in self.questions)

    @property
    def tested(self) -> dict[str, float]:
        """The questions that tests grade, and their points."""
        return {question.name: question.points for question in self.questions if not question.manual}


def masters(folder: Path = MASTERS) -> list[Path]:
    """The master texts of a folder, in order.

    Raises:
        ValueError: there are none.
    """
    found = sorted(folder.glob("ps*.py"))
    if not found:
        raise ValueError(f"{folder} holds no master: their files are called ps*.py")
    return found


def read_master(path: Path, variant: str = "published") -> ProblemSet:
    """Read a master, draw the variant's constants and questions, and take the extra blocks out.

    Raises:
        ValueError: a block is not closed, a question has no name or points, a constant is unknown, or
            otter's configuration is among the cells.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    first, *cells = notebook.cells
    rng = np.random.default_rng(
        int.from_bytes(hashlib.sha256(f"{path.stem}/{variant}".encode()).digest()[:8])
    )
    constants: dict[str, Any] = {"rng": rng}
    if "variant" not in first.metadata.get("tags", []):
        raise ValueError(f"{path.name}: the first cell must be tagged 'variant' and draw the constants")
    exec(compile(first.source, f"{path.name}, variant", "exec"), constants)
    constants = {name: value for name, value in constants.items() if name.isupper() and _is_plain(value)}
    head: list[NotebookNode] = []
    questions: list[Question] = []
    block: list[NotebookNode] | None = None
    before: list[NotebookNode] = head  # what stands between two questions belongs to the second
    for cell in cells:
        cell.source = _fill(cell.source, constants, path.name)
        mark = BLOCK.match(cell.source.split("\n")[0]) if cell.cell_type == "raw" else None
        if mark and mark[2] == "QUESTION":
            if mark[1] == "BEGIN":
                block = [cell]
            elif block is None:
                raise ValueError(f"{path.name}: END QUESTION without a beginning")
            else:
                question = _question([*block, cell], path.name)
                if before is not head:
                    question.cells[:0] = before
                questions.append(question)
                block, before = None, []
        elif "ASSIGNMENT CONFIG" in cell.source and cell.cell_type == "raw":
            raise ValueError(
                f"{path.name}: take out ASSIGNMENT CONFIG, which is the same for all sets (CONFIG)"
            )
        elif block is None:
            before.append(cell)
        else:
            block.append(cell)
    if block is not None:
        raise ValueError(f"{path.name}: a question is not closed by END QUESTION")
    if before is not head:
        questions[-1].cells += before
    return ProblemSet(path.stem, variant, constants, head, _drawn(questions, rng, variant))


def _is_plain(value: object) -> bool:
    """Whether it is a value and no module, class or function that happens to have a name in capitals."""
    return not isinstance(value, ModuleType) and not callable(value)


def _fill(source: str, constants: Mapping[str, Any], name: str) -> str:
    """The text with every {{NAME}} replaced by its value."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in constants:
            raise ValueError(f"{name}: {{{{{match[1]}}}}} is no constant of the variant cell")
        return str(constants[match[1]])

    return re.sub(r"\{\{([A-Z][A-Z0-9_]*)\}\}", value, source)


def _question(cells: list[NotebookNode], name: str) -> Question:
    """Sort the cells of one question into otter's and ours."""
    config = yaml.safe_load(cells[0].source.partition("\n")[2])
    if not config or "name" not in config or "points" not in config:
        raise ValueError(f"{name}: a question needs a name and points, got {config}")
    pool = config.pop("pool", None)
    kept = [new_raw_cell(f"# BEGIN QUESTION\n{yaml.safe_dump(config, sort_keys=False)}")]
    parts: dict[str, list[NotebookNode]] = {"SOLUTION": [], "WRONG ANSWERS": [], "RUBRIC": []}
    inside = ""
    for cell in cells[1:]:
        mark = BLOCK.match(cell.source.split("\n")[0]) if cell.cell_type == "raw" else None
        if mark:
            inside = mark[2] if mark[1] == "BEGIN" else ""
            if mark[2] not in ("WRONG ANSWERS", "RUBRIC"):
                kept.append(cell)
            continue
        if inside in parts:
            parts[inside].append(cell)
        if inside not in ("WRONG ANSWERS", "RUBRIC"):
            kept.append(cell)
    return Question(
        config["name"],
        float(config["points"]),
        bool(config.get("manual", False)),
        pool,
        kept,
        parts["SOLUTION"],
        [_wrong(cell.source, f"{name}, {config['name']}") for cell in parts["WRONG ANSWERS"]],
        "\n\n".join(cell.source for cell in parts["RUBRIC"]),
    )


def _wrong(source: str, where: str) -> WrongAnswer:
    header = dict(HEADER.findall(source))
    if set(header) != {"wrong", "earns", "says"}:
        raise ValueError(
            f"{where}: a wrong answer begins with '# wrong:', '# earns:' and '# says:', got {header}"
        )
    return WrongAnswer(
        header["wrong"], float(header["earns"]), header["says"], HEADER.sub("", source).strip("\n")
    )


def _drawn(questions: list[Question], rng: np.random.Generator, variant: str) -> list[Question]:
    """All questions outside pools, and one of each pool: its first in the published variant."""
    pools: dict[str, list[str]] = {}
    for question in questions:
        if question.pool:
            pools.setdefault(question.pool, []).append(question.name)
    chosen = {
        names[0] if variant == "published" else names[int(rng.integers(len(names)))]
        for names in pools.values()
    }
    return [question for question in questions if not question.pool or question.name in chosen]


def build(problem: ProblemSet, out: Path, wheel: Path | None = None, site_url: str = "") -> Path:
    """Let otter assign make student notebook, autograder archive and their tests.

    Args:
        problem: the set.
        out: a folder, made anew.
        wheel: the library, for an autograder that will run elsewhere; None where it is used from here.
        site_url: the site that publishes that wheel. Without one the autograder installs its own copy, which
            Gradescope unpacks in time, but `otter grade` only after its container has been built.

    Returns:
        otter's folder, with `student/` and `autograder/` in it.
    """
    from otter.assign import main as otter_assign

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    config: dict[str, Any] = {**CONFIG, "name": problem.name}
    if wheel:
        shutil.copy2(wheel, out)
        config["autograder_files"] = [wheel.name]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        there = f"{site_url}/wheels/{wheel.name}#sha256={digest}"
        config["requirements"] = [there if site_url else f"{UNPACKED}/files/{wheel.name}"]
    first = new_raw_cell(f"# ASSIGNMENT CONFIG\n{yaml.safe_dump(config, sort_keys=False)}")
    cells = [first, *problem.head, *(cell for question in problem.questions for cell in question.cells)]
    source = out / f"{problem.name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), source)
    otter_assign(str(source), str(out / "dist"), no_run_tests=True, no_pdfs=True)
    return out / "dist"
