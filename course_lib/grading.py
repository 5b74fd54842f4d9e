"""Grade a class: `python -m course_lib.grading submissions/ --autograder ps1-autograder.zip --jobs 4`.

Every notebook (or zip, or folder with one notebook) in the folder is graded by `otter run` in a process of
its own. The result of each is written at once, so an interrupted run goes on where it stopped, and a
submission that breaks everything loses only its own points. At the end there is one CSV with a row a student
and one feedback file each.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from course_lib.progress import progress_bar

__all__ = ["grade_class", "grade_one", "submissions"]


def submissions(folder: Path) -> dict[str, Path]:
    """The submissions in a folder by student: `name.ipynb`, `name.zip`, or `name/` with one notebook inside.

    Raises:
        ValueError: there is no such folder, or nothing to grade in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the one that holds the submissions")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".ipynb", ".zip"):
            found[path.stem] = path
        elif path.is_dir():
            notebooks = sorted(path.glob("*.ipynb"))
            if len(notebooks) == 1:
                found[path.name] = notebooks[0]
    if not found:
        raise ValueError(f"{folder} holds no .ipynb, no .zip and no folder with a notebook")
    return found


def grade_one(submission: Path, autograder: Path, seconds: float) -> dict[str, Any]:
    """Grade one submission with `otter run`; whatever happens, a result: points and messages, or an error."""
    with tempfile.TemporaryDirectory(prefix="grading-") as out:
        command = [sys.executable, "-m", "otter", "run", "-a", str(autograder), "-o", out, str(submission)]
        # One thread each, no accelerator: a score must not depend on the machine.
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COURSE_PROGRESS": "0",
        }
        try:
            finished = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, env=environment, cwd=out
            )
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {seconds:g} s"}
        results = Path(out) / "results.json"
        if not results.is_file():
            return {"error": (finished.stderr.strip().splitlines() or ["otter run wrote no result"])[-1]}
        tests = json.loads(results.read_text())["tests"]
    scored = [test for test in tests if test.get("max_score") is not None]
    if not scored:
        said = " ".join(str(test.get("output", "")) for test in tests).split("\n")[0]
        return {"error": said or "no test ran"}
    return {
        "questions": {test["name"]: [test.get("score", 0), test["max_score"]] for test in scored},
        "messages": {test["name"]: test.get("output", "") for test in scored},
    }


def grade_class(
    folder: Path, autograder: Path, out: Path, jobs: int = 2, seconds: float = 900
) -> list[dict[str, Any]]:
    """Grade all submissions of a folder, those only whose result is not there yet.

    Args:
        folder: of the submissions.
        autograder: the archive that `make assignments` wrote.
        out: folder for `grades.csv`, `feedback/` and what a resumed run reads.
        jobs: submissions graded at a time.
        seconds: after which a submission is given up.

    Returns:
        the rows of the CSV.
    """
    if not autograder.is_file():
        raise ValueError(f"{autograder} is no file; `make assignments` writes the autograder archives")
    found = submissions(folder)
    (out / "results").mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(autograder.read_bytes())

    def grade(student: str) -> dict[str, Any]:
        digest = key.copy()
        digest.update(found[student].read_bytes())
        cached = out / "results" / f"{student}.json"
        if cached.is_file() and (old := json.loads(cached.read_text())).get("key") == digest.hexdigest():
            return old
        result = grade_one(found[student].resolve(), autograder.resolve(), seconds)
        result["key"] = digest.hexdigest()
        partial = cached.with_suffix(".partial")
        partial.write_text(json.dumps(result))
        os.replace(partial, cached)
        return result

    graded = {}
    with ThreadPoolExecutor(jobs) as pool, progress_bar(len(found), "submission", True, 0) as bar:
        for student, result in zip(found, pool.map(grade, found), strict=True):
            graded[student] = result
            bar.update(1)
    return _write(graded, out)


def _write(graded: dict[str, dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    """The CSV and the feedback files."""
    names = list(dict.fromkeys(name for result in graded.values() for name in result.get("questions", {})))
    rows = []
    (out / "feedback").mkdir(exist_ok=True)
    for student, result in graded.items():
        questions = result.get("questions", {})
        total = sum(points for points, _ in questions.values())
        row = {"student": student, "total": round(total, 4)}
        row |= {name: questions.get(name, [0])[0] for name in names} | {"error": result.get("error", "")}
        rows.append(row)
        lines = [f"# {student}: {row['total']:g} points", ""]
        lines += [f"**Not graded:** {result['error']}", ""] if "error" in result else []
        for name, (points, possible) in questions.items():
            lines += [f"## {name}: {points:g} of {possible:g}", "", result["messages"][name].strip(), ""]
        (out / "feedback" / f"{student}.md").write_text("\n".join(lines))
    with (out / "grades.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["student", "total", *names, "error"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.grading", description=__doc__)
    parser.add_argument("submissions", type=Path)
    parser.add_argument("--autograder", type=Path, required=True, help="archive of `make assignments`")
    parser.add_argument("--out", type=Path, default=Path("graded"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=900, help="after which a submission is given up")
    options = parser.parse_args()
    try:
        rows = grade_class(
            options.submissions, options.autograder, options.out, options.jobs, options.seconds
        )
    except ValueError as error:
        sys.exit(str(error))
    failed = [row["student"] for row in rows if row["error"]]
    print(f"{len(rows)} graded, {len(failed)} with an error; {options.out / 'grades.csv'}")


if __name__ == "__main__":
    main()
