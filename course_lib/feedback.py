"""What a class gets back: one CSV with a row a student, and a file each with what every test said."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["file_name", "messages", "write_class"]

# otter-grader's lines above and about a test's result
LINE = re.compile(r"^ {4}(\S.*?) (?:result:$|message: (.*))")
PASSED, FAILED = "✅ Test case passed", "❌ Test case failed"


def messages(output: str) -> list[list[str]]:
    """Name and message of each test in otter-grader's summary of a question; no message if it passed."""
    found: list[list[str]] = []
    own = ""  # what the test itself has to say, passed or failed
    for line in output.split("\n"):
        if match := LINE.match(line):
            if match[2] is None:
                found.append([re.sub(r"^\w+ - (\d+)$", r"test \1", match[1]), own])
            own = match[2] or ""
        elif found and line.startswith(" " * 8):
            found[-1][1] += f" {line.strip()}"
    for test in found:
        failed = FAILED in test[1]
        said = " ".join(test[1].replace(FAILED, "").replace(PASSED, "").split())
        test[1] = said or ("failed" if failed else "")
    return found


def file_name(student: str) -> str:
    """The student's name, or its beginning and a digest where it is too long for a file system."""
    if len(student.encode(errors="backslashreplace")) <= 200:
        return student
    return f"{student[:40]}-{hashlib.sha256(student.encode(errors='backslashreplace')).hexdigest()[:12]}"


def write_class(graded: Mapping[str, Mapping[str, Any]], out: Path) -> list[dict[str, Any]]:
    """Write `grades.csv` and `feedback/`.

    Args:
        graded: by student what `course_lib.grading.grade_one` returned.
        out: the folder.

    Returns:
        the rows of the CSV, by name.
    """
    orders = Counter(tuple(result.get("questions", {})) for result in graded.values())
    names = list(dict.fromkeys(name for order, _ in orders.most_common() for name in order))
    rows = []
    (out / "feedback").mkdir(parents=True, exist_ok=True)
    for student, result in sorted(graded.items()):
        questions = result.get("questions", {})
        total = round(sum(points for points, _ in questions.values()), 4)
        row = {"student": student, "total": total}
        row |= {name: questions.get(name, [0])[0] for name in names} | {"error": result.get("error", "")}
        rows.append(row)
        text = _text(student, total, questions, result)
        path = out / "feedback" / f"{file_name(student)}.md"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    with (out / "grades.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, ["student", "total", *names, "error"])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _text(student: str, total: float, questions: Mapping[str, list[float]], result: Mapping[str, Any]) -> str:
    possible = sum(points for _, points in questions.values())
    lines = [f"# {student}: {total:g} of {possible:g} points" if questions else f"# {student}: no grade", ""]
    lines += [f"**Not graded:** {result['error']}", ""] if "error" in result else []
    for name, (points, of) in questions.items():
        lines += [f"## {name}: {points:g} of {of:g}", ""]
        tests = result["messages"][name]
        lines += [f"- {test}: {message or 'passed'}" for test, message in tests] or ["All tests passed."]
        lines.append("")
    return "\n".join(lines)
