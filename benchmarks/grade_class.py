"""A class of thirty made-up submissions, right, wrong, broken and hostile, graded in one command.

    .venv/bin/python benchmarks/grade_class.py [--jobs 2]

Each submission's points are known before it is graded; the run fails if one gets others, or none. The class
is graded twice from nothing, which must give the same file of grades byte for byte, and a third time over
the second's results, which must grade nothing again that has a grade. Needs what `make assignments` built.
"""

import argparse
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import torch
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from record import machine, write

from course_lib.grading import grade_class
from pipeline.assignments import ProblemSet, masters, read_master
from pipeline.settings import Settings
from pipeline.submissions import filled_in, hostile_answers

SIZE = 30
CELL_SECONDS, TEST_SECONDS, SECONDS = "20", "20", 60  # less than the grader's own, for the loops' sake
CELLS = {  # what a cell of its own does before the right answers
    "crashes in a cell": "raise RuntimeError('no')",
    "loops in a cell": "while True:\n    pass",
    "loops and catches everything": "while True:\n    try:\n        while True:\n            pass\n"
    "    except BaseException:\n        pass",
    "prints a megabyte in a cell": "print('x' * 1_000_000)",
    "leaves the interpreter": "import os\nos._exit(0)",
    "deletes the tests": "import shutil\nshutil.rmtree('tests')",
    "has a syntax error": "def f(:\n    pass",
    "multiplies": "import os\nwhile True:\n    os.fork()",
}
HOARD = "hoard = []\n    while True:\n        hoard.append(bytearray(2**28))"
PATCH = "import course_lib.answer_checks as checks\nchecks.compare = lambda *_, **__: None\n"


def submissions(
    problem: ProblemSet, notebook: NotebookNode
) -> Iterator[tuple[str, NotebookNode | str, float | None]]:
    """Name, content and expected points of every submission; None where the points are lost with the file."""
    right = {question.name: question.answer for question in problem.questions}
    auto = [question for question in problem.questions if not question.manual]
    full = sum(question.points for question in auto)
    yield "right", filled_in(notebook, right), full
    yield "right in a zip", filled_in(notebook, right), full
    yield "untouched", notebook, 0
    half = auto[: len(auto) // 2]
    yield "half", filled_in(notebook, {q.name: right[q.name] for q in half}), sum(q.points for q in half)
    yield "not JSON", '{"cells": [', None
    yield "empty file", "", None
    for name, source in CELLS.items():
        answered = filled_in(notebook, right)
        answered.cells.insert(3, new_code_cell(source))
        yield name, answered, None if "catches" in name else full  # costs nothing unless it never ends
    yield "patches the comparison", filled_in(notebook, {auto[0].name: PATCH}), 0
    hoarding = auto[0].answer.replace("\n", f"\n    {HOARD}\n", 1)
    answered = filled_in(notebook, right | {auto[0].name: hoarding})
    yield "takes all memory in the answer", answered, full - auto[0].points
    for name, answer in hostile_answers(auto[0].answer):
        yield (
            f"{name} in the answer",
            filled_in(notebook, right | {auto[0].name: answer}),
            full - auto[0].points,
        )
    for question, place in [(question, place) for place in range(2) for question in auto]:
        wrong = question.wrong_answers[place]
        lost = question.points - wrong.earns
        yield (
            f"{question.name} {wrong.name}",
            filled_in(notebook, right | {question.name: wrong.source}),
            full - lost,
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2)
    jobs = parser.parse_args().jobs
    os.environ |= {"COURSE_CELL_SECONDS": CELL_SECONDS, "COURSE_TEST_SECONDS": TEST_SECONDS}
    problem = read_master(masters()[0])
    built = Settings().build / "assignments" / problem.variant
    archive = built / "autograder" / f"{problem.name}.zip"
    if not archive.is_file():
        sys.exit(f"there is no {archive}: run make assignments first")
    notebook = nbformat.read(built / "student" / f"{problem.name}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        expected = _write(problem, notebook, Path(folder, "class"))
        times, files = [], []
        for run in ("first", "second", "second"):
            out = Path(folder, run)
            start = time.perf_counter()
            rows = grade_class(Path(folder, "class"), archive, out, jobs, SECONDS)
            times.append(time.perf_counter() - start)
            files.append((out / "grades.csv").read_bytes())
    faults = [
        f"{row['student']}: {row['total']} points, expected {expected[row['student']]}; {row['error']}"
        for row in rows
        if row["total"] != (expected[row["student"]] or 0)
        or bool(row["error"]) != (expected[row["student"]] is None)
    ]
    if {row["student"] for row in rows} != set(expected):
        faults.append(f"lost: {set(expected) - {row['student'] for row in rows}}")
    for again in files[1:]:
        pairs = zip(files[0].splitlines(), again.splitlines(), strict=True)
        faults += [f"graded again: {one.decode()} became {two.decode()}" for one, two in pairs if one != two]
    if faults:
        sys.exit("\n".join(faults))
    content = {
        "kind": "speed",
        "protocol": f"grading {SIZE} submissions to {problem.name}: right, wrong, broken and hostile, "
        f"{jobs} at a time; cells stopped after {CELL_SECONDS} s, tests after {TEST_SECONDS} s, notebooks "
        f"after {SECONDS} s; every submission got the points that were known before, twice",
        "seconds": {
            "all, first run": times[0],
            "all, second run": times[1],
            "one, on average": (times[0] + times[1]) / (2 * SIZE),
            "the second run's folder again": times[2],
        },
        "grades": {row["student"]: row["total"] for row in rows},
        "errors": {row["student"]: row["error"] for row in rows if row["error"]},
        "machine": machine(torch.device("cpu")) | {"threads": jobs},
    }
    print(f"written to {write('speed_grading_cpu', content)}")


def _write(problem: ProblemSet, notebook: NotebookNode, folder: Path) -> dict[str, float | None]:
    """Write the class, notebooks and one zip, and return what each submission must earn."""
    folder.mkdir()
    expected: dict[str, float | None] = {}
    for (name, content, points), _ in zip(submissions(problem, notebook), range(SIZE), strict=False):
        student = name.replace(" ", "_").replace("/", "_")
        path = folder / f"{student}.ipynb"
        path.write_text(content if isinstance(content, str) else nbformat.writes(content), encoding="utf-8")
        if "zip" in name:
            with zipfile.ZipFile(folder / f"{student}.zip", "w") as archive:
                archive.write(path, path.name)
            path.unlink()
        expected[student] = points
    assert len(expected) == SIZE
    return expected


if __name__ == "__main__":
    main()
