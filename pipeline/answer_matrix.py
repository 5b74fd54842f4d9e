"""Grade answers in this process with the very test files that otter will use: the wrong-answer matrix."""

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from course_lib import answer_checks
from pipeline.assignments import ProblemSet, Question

__all__ = ["Grade", "Row", "grade_answers", "matrix"]


@dataclass
class Grade:
    """What one question earned, and every message of its failed tests."""

    points: float
    messages: list[str]


@dataclass
class Row:
    """One wrong answer: what it earned and said, and what else went wrong."""

    question: str
    mistake: str
    expected: float
    points: float
    message: str
    elsewhere: list[str]

    @property
    def as_expected(self) -> bool:
        """Whether it lost what it should, there and only there, and its mistake was named."""
        return abs(self.points - self.expected) < 1e-9 and bool(self.message) and not self.elsewhere


def grade_answers(problem: ProblemSet, tests: Path, answers: Mapping[str, str]) -> dict[str, Grade]:
    """Execute the head of the set and then each answer with its tests, as a notebook would, in order.

    Args:
        problem: the set.
        tests: the folder of otter's test files, hidden tests included.
        answers: the code of each question; a question that is missing has not been answered.
    """
    from otter.test_files.exception_test import ExceptionTestFile

    notebook = ModuleType("__main__")  # a module, so that `switched_off` finds what the head has imported
    environment = vars(notebook)
    with contextlib.redirect_stdout(io.StringIO()), _loaded(notebook):
        for cell in problem.head:
            if cell.cell_type == "code":
                exec(compile(cell.source, "head", "exec"), environment)
        grades = {}
        for question in problem.questions:
            if question.manual:
                continue
            # What a cell itself fails of, its question's tests will say.
            with contextlib.suppress(AssertionError, SyntaxError):
                code = compile(answers.get(question.name, ""), question.name, "exec")
                answer_checks.bounded(exec, code, environment)
            file = ExceptionTestFile.from_file(str(tests / f"{question.name}.py"))
            file.run(environment)
            failed = [result for result in file.test_case_results if not result.passed]
            passed = [result for result in file.test_case_results if result.passed]
            grades[question.name] = Grade(
                sum(result.test_case.points for result in passed), [result.message for result in failed]
            )
    return grades


@contextlib.contextmanager
def _loaded(notebook: ModuleType) -> Iterator[None]:
    """While the block runs, the notebook is among the modules."""
    sys.modules["__notebook__"] = notebook
    try:
        yield
    finally:
        del sys.modules["__notebook__"]


def matrix(problem: ProblemSet, tests: Path) -> list[Row]:
    """Every wrong answer among right ones, graded."""
    right = {question.name: question.answer for question in problem.questions}
    rows = []
    for question in problem.questions:
        for wrong in question.wrong_answers:
            grades = grade_answers(problem, tests, right | {question.name: wrong.source})
            rows.append(_row(question, wrong.name, wrong.earns, wrong.says, grades, problem.tested))
    return rows


def _row(
    question: Question, name: str, earns: float, says: str, grades: dict[str, Grade], full: dict[str, float]
) -> Row:
    grade = grades[question.name]
    last = (message.strip().split("\n")[-1] for message in grade.messages)  # above it otter quotes the test
    spoken = [line.removeprefix("AssertionError: ") for line in last]
    named = [message for message in spoken if says in message]
    elsewhere = [
        other for other, points in full.items() if other != question.name and grades[other].points < points
    ]
    return Row(question.name, name, earns, grade.points, named[0] if named else "", elsewhere)
