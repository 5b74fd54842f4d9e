"""The autograders, graded: right answers, empty ones, every mistake that is listed, and what nobody lists."""

import random

import numpy as np
import pytest
import torch

from pipeline.answer_matrix import grade_answers, matrix
from pipeline.assignments import build, read_master
from pipeline.hostile_answers import hostile_answers
from pipeline.settings import ROOT

MASTERS = sorted((ROOT / "book" / "assignments").glob("ps*.py"))


@pytest.fixture(scope="module", params=MASTERS, ids=lambda path: path.stem)
def problem(request, tmp_path_factory):
    """A problem set and the folder of its tests, hidden ones included."""
    problem = read_master(request.param)
    return problem, build(problem, tmp_path_factory.mktemp(problem.name)) / "autograder" / "tests"


@pytest.fixture(autouse=True)
def _types():
    """A set may change torch's default type for its own process."""
    yield
    torch.set_default_dtype(torch.float32)


def auto(problem):
    return [question for question in problem.questions if not question.manual]


def test_a_set_has_a_hundred_points_and_at_least_four_mistakes_a_question(problem):
    problem, _ = problem
    assert problem.points == 100
    assert 6 <= len(problem.questions) <= 10
    for question in auto(problem):
        assert len(question.wrong_answers) >= 4, question.name


@pytest.mark.parametrize("seed", range(5))
def test_the_reference_scores_full_marks_whatever_the_seed(problem, seed):
    problem, tests = problem
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    grades = grade_answers(problem, tests, {q.name: q.answer for q in problem.questions})
    assert {name: grade.points for name, grade in grades.items()} == {q.name: q.points for q in auto(problem)}


def test_the_untouched_notebook_scores_zero(problem):
    problem, tests = problem
    assert all(grade.points == 0 for grade in grade_answers(problem, tests, {}).values())


def test_every_mistake_loses_its_points_there_only_and_is_named(problem):
    problem, tests = problem
    bad = [row for row in matrix(problem, tests) if not row.as_expected]
    assert not bad


def test_hostile_answers_score_zero_and_the_rest_is_graded(problem, monkeypatch):
    monkeypatch.setattr("course_lib.answer_checks.SECONDS", 1.0)
    problem, tests = problem
    right = {q.name: q.answer for q in problem.questions}
    for question in auto(problem):
        for name, answer in hostile_answers(question.answer):
            grades = grade_answers(problem, tests, right | {question.name: answer})
            lost = {
                n: g.points
                for n, g in grades.items()
                if g.points != dict((q.name, q.points) for q in auto(problem))[n]
            }
            assert lost == {question.name: 0}, (question.name, name, lost)
