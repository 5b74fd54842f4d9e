"""Everything to hand out, and to grade with, of all problem sets in one variant: `make assignments`.

    python -m pipeline.hand_out [--variant NAME] [--masters FOLDER] [--url ADDRESS] [--jobs N]

Writes `student/`, `autograder/` and `instructor/` into `_build/assignments/<variant>/`, but only once each
set has graded itself: full marks for the reference, nothing for the untouched notebook, and for every wrong
answer what the master says, with a message that names the mistake.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from course_lib.progress import progress_bar
from pipeline.answer_matrix import Row, grade_answers, matrix
from pipeline.assignments import MASTERS, ProblemSet, build, masters, read_master
from pipeline.book import build_wheel
from pipeline.instructor_edition import write_instructor_edition
from pipeline.settings import ROOT, Settings
from pipeline.student_edition import write_student_edition

__all__ = ["NotAsExpected", "graded", "hand_out"]


class NotAsExpected(Exception):
    """An autograder did not give the points that its master promises."""


def graded(problem: ProblemSet, tests: Path) -> list[Row]:
    """Grade the reference, the untouched notebook and every wrong answer.

    Args:
        problem: the set.
        tests: the folder of its tests, hidden ones included.

    Raises:
        NotAsExpected: says which points are not as they should be.
    """
    full = problem.tested
    right = grade_answers(problem, tests, {question.name: question.answer for question in problem.questions})
    faults = [
        f"{name}: the reference earns {right[name].points:g} of {points:g}: {'; '.join(right[name].messages)}"
        for name, points in full.items()
        if right[name].points != points
    ]
    empty = grade_answers(problem, tests, {})
    faults += [f"{name}: no answer earns {empty[name].points:g}" for name in full if empty[name].points]
    rows = [] if faults else matrix(problem, tests)
    faults += [str(row) for row in rows if not row.as_expected]
    if faults:
        raise NotAsExpected("\n".join([f"{problem.name}, variant {problem.variant}:", *faults]))
    return rows


def hand_out(master: Path, variant: str, out: Path, wheels: Path, site: str = "", url: str = "") -> str:
    """Make, grade and write one problem set.

    Args:
        master: its text.
        variant: the name that its constants are drawn from.
        out: the folder for the editions.
        wheels: the folder of the library's wheel.
        site: the address of the site that publishes this library, or "".
        url: the address of the folder that the kits will be published in, or "".

    Returns:
        a line about it.

    Raises:
        NotAsExpected: it does not grade as its master says; nothing was written.
    """
    started = time.perf_counter()
    problem = read_master(master, variant)
    (wheel,) = wheels.glob("*.whl")
    work = out / ".work" / problem.name
    dist = build(problem, work, wheel, site)
    rows = graded(problem, dist / "autograder" / "tests")
    write_student_edition(dist, out / "student", wheels, f"{url}/{problem.name}.zip" if url else "")
    write_instructor_edition(problem, rows, out / "instructor")
    (archive,) = (dist / "autograder").glob("*.zip")
    (out / "autograder").mkdir(exist_ok=True)
    shutil.copyfile(archive, out / "autograder" / f"{problem.name}.zip")
    seconds = time.perf_counter() - started
    return (
        f"{problem.name}: {problem.points:g} points, {len(rows)} wrong answers as expected, {seconds:.0f} s"
    )


def _all(paths: Iterable[Path], jobs: int, *arguments: Any) -> list[str]:
    """Every set in a process of its own, since a set may change torch's default type; returns the faults."""
    faults, reports = [], []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, max_tasks_per_child=1) as pool:
        waiting = [pool.submit(hand_out, path, *arguments) for path in paths]
        with progress_bar(len(waiting), "problem set", True, 0) as bar:
            for one in as_completed(waiting):
                bar.update(1)
                try:
                    reports.append(one.result())
                except (NotAsExpected, ValueError) as error:
                    faults.append(str(error))
    print("\n".join(reports))
    return faults


def main() -> int:
    """The command line; the exit status says whether everything was as expected."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.hand_out", description=__doc__)
    parser.add_argument("--variant", default="published")
    parser.add_argument("--masters", type=Path, default=MASTERS)
    parser.add_argument("--url", default="", help="address of the folder where the kits will be published")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if not re.fullmatch(r"[\w.-]+", options.variant):
        return _refuse(f"a variant's name has letters, digits, '.', '_' and '-', got {options.variant!r}")
    if options.url and not re.match(r"https?://\S+$", options.url):
        return _refuse(f"the address of the kits must be an http(s):// address, got {options.url!r}")
    os.environ["OMP_NUM_THREADS"] = "1"
    build_folder = Settings().build / "assignments"
    out, partial = build_folder / options.variant, build_folder / f".{options.variant}.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    wheels = partial / ".work" / "wheels"
    build_wheel(ROOT, wheels)
    try:
        paths = masters(options.masters)
    except ValueError as error:
        return _refuse(str(error))
    site = os.environ.get("COURSE_SITE_URL", "").rstrip("/")
    published = f"{site}/assignments" if site and options.variant == "published" else ""
    url = options.url.rstrip("/") or published
    faults = _all(paths, options.jobs, options.variant, partial, wheels, site, url)
    if faults:
        return _refuse("\n".join([*faults, f"nothing was written to {out}"]))
    shutil.rmtree(partial / ".work")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    print(f"Students' notebooks, autograders and the instructor's edition are in {out}")
    return 0


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
