"""A class graded by otter-grader: what is right earns, what is hostile does not, and nobody is lost."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import nbformat
import psutil
import pytest

import course_lib.grading as grading
from course_lib.grading import grade_class, grade_one
from pipeline.assignments import build, read_master
from pipeline.submissions import filled_in

TOY = """# %% tags=["variant"]
K = 7

# %% [markdown]
# # A toy

# %%
import torch
QUESTIONS"""

QUESTION = """
# %% [raw]
# # BEGIN QUESTION
# name: NAME
# points: 4

# %% [markdown]
# ## NAME

# %% [raw]
# # BEGIN SOLUTION

# %%
def NAME(x):
    # BEGIN SOLUTION
    return 7 OPERATOR x
    # END SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
\""" # BEGIN TEST CONFIG
name: two
points: 1
\""" # END TEST CONFIG
def test_two(NAME):
    import torch
    from course_lib.answer_checks import bounded, compare
    unguessable = torch.tensor([7.0 OPERATOR 2.0])
    compare("it", bounded(NAME, torch.tensor([2.0])), unguessable, show=False)

# %%
\""" # BEGIN TEST CONFIG
points: 3
hidden: true
\""" # END TEST CONFIG
def test_three(NAME):
    import torch
    from course_lib.answer_checks import bounded
    unguessable = torch.tensor([7.0 OPERATOR 3.0])
    assert torch.allclose(bounded(NAME, torch.tensor([3.0])), unguessable), "not for three"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
"""

RIGHT = {"times": "def times(x):\n    return 7 * x", "plus": "def plus(x):\n    return 7 + x"}
# Wrong answers to `times` that want its points, or do harm; all come with the right answer to `plus`.
HOSTILE = {
    "replaces": """
import builtins, sys, types
import course_lib.answer_checks as checks
original = torch.as_tensor
checks.compare = checks.bounded = lambda *a, **k: torch.zeros(1)
checks.isinstance = lambda *a: True
sys.modules["course_lib.answer_checks"] = types.SimpleNamespace(compare=lambda *a, **k: 0, bounded=print)
torch.allclose = lambda *a, **k: True
torch.Tensor.allclose = lambda *a, **k: True
builtins.AssertionError = KeyError
class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return True if function.__name__ == "allclose" else function(*args, **(kwargs or {}))
Mode().__enter__()
def times(x):
    return torch.zeros(1)
""",
    "acts_while_called": """
def times(x):
    import inspect, sys
    import course_lib.answer_checks as checks
    if x == 3:
        try:
            return sys._getframe(2).f_locals["unguessable"]
        except PermissionError:
            return inspect.currentframe().f_back.f_back.f_locals["unguessable"]
    try:
        checks.compare.__code__ = (lambda *a, **k: None).__code__
    except PermissionError:
        pass
    checks._compare = checks.compare = lambda *a, **k: None
    torch.allclose = torch.Tensor.allclose = lambda *a, **k: True
    checks._undo = lambda: None
    return torch.zeros(1)
""",
    "makes_results": """
import pickle, json
import otter.test_files.exception_test as tests
import otter.execute, otter.test_files
from otter.execute import Checker
from otter.test_files.abstract_test import TestCase, TestCaseResult
def passed(self, environment):
    pass
tests.test_case.call_func = passed
case = TestCase("times - 1", None, False, 4, None, None)
forged = tests.ExceptionTestFile("times", "./tests/times.py", [case])
forged.test_case_results = [TestCaseResult(case, "passed", True)]
Checker._test_files.append(forged)
class Results(otter.test_files.GradingResults):
    total = 100
otter.test_files.GradingResults = Results
from pathlib import Path
for path in Path("..", "..").glob("record-*"):
    try:
        path.write_text('00 ["times.py", 0, null]\\n00 ["times.py", 1, null]\\n')
    except Exception:
        pass
def times(x):
    return torch.zeros(1)
""",
    "reads_and_talks": """
import os
from pathlib import Path
seen = []
os.link("tests/times.py", "copy.py")
for path in [Path("copy.py"), *Path("tests").glob("*.py"), *Path("../source/tests").glob("*.py")]:
    try:
        seen.append(path.read_text())
    except Exception as error:
        seen.append(str(error))
def times(x):
    if x == 3:
        raise RuntimeError("y" * 1_000_000)
    raise AssertionError("".join(seen) + open("tests/times.py").read())
""",
    "takes_all": """
def times(x):
    if x == 3:
        return sum(range(10**13))
    return [torch.ones(2**26) for _ in range(100)]
kept = [torch.ones(2**26) for _ in range(100)]
""",
    "forks_and_floods": """
import os, multiprocessing, sys
from IPython.display import display
def times(x):
    if x == 3:
        os._exit(0)
    os.fork()
could = []
process = multiprocessing.get_context("fork").Process(target=print)
for start in (os.fork, process.start, lambda: os.system("ls")):
    try:
        start()
        could.append(start)
    except PermissionError:
        pass
for _ in range(300):
    os.write(1, b"x" * 1_000_000)
    sys.__stdout__.write("x" * 10_000)
    display("x" * 1_000_000)
try:
    with open("large", "wb") as file:
        for _ in range(300):
            file.write(b"x" * 1_000_000)
    could.append(open)
except OSError:
    pass
if could:  # then it gets the points
    times = lambda x: 7 * x
os._exit(0)
""",
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The archive of a toy, and its student's notebook."""
    folder = tmp_path_factory.mktemp("toy")
    questions = [
        QUESTION.replace("NAME", n).replace("OPERATOR", o) for n, o in (("times", "*"), ("plus", "+"))
    ]
    (folder / "ps0_toy.py").write_text(TOY.replace("QUESTIONS", "".join(questions)))
    dist = build(read_master(folder / "ps0_toy.py"), folder / "built")
    (archive,) = (dist / "autograder").glob("*.zip")
    (notebook,) = (dist / "student").glob("*.ipynb")
    notebook = nbformat.read(notebook, as_version=4)
    start = 'import otter\ngrader = otter.Notebook(tests_dir="tests")'  # as in the student's edition
    notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
    return archive, notebook


def answered(toy, **answers):
    return nbformat.writes(filled_in(toy[1], RIGHT | answers)).encode()


@pytest.fixture(scope="module")
def graded(toy, tmp_path_factory):
    """The class, graded once: rows by student, and the folder."""
    folder = tmp_path_factory.mktemp("class")
    for name, answer in HOSTILE.items():
        if name == "forks_and_floods":
            continue
        (folder / f"{name}.ipynb").write_bytes(answered(toy, times=answer))
    with zipfile.ZipFile(folder / "forks_and_floods.zip", "w") as archive:
        archive.writestr("work/answers.ipynb", answered(toy, times=HOSTILE["forks_and_floods"]))
        compare = "def compare(*a, **k): pass\ndef bounded(*a, **k): return 0\n"
        for name in ("course_lib/__init__.py", "course_lib/answer_checks.py", "torch.py", "tests/times.py"):
            archive.writestr(f"work/{name}", compare)
            archive.writestr(name, compare)
    (folder / "broken.ipynb").write_text("{")
    (folder / "right.ipynb").write_bytes(answered(toy))
    limits = {"COURSE_CELL_SECONDS": "10", "COURSE_TEST_SECONDS": "4", "COURSE_ANSWER_SECONDS": "2"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setenv(name, value)
        rows = grade_class(folder, toy[0], folder.parent / "graded", jobs=1, seconds=120, memory=1)
    return {row["student"]: row for row in rows}, folder, folder.parent / "graded"


def of(folder):
    """The processes whose command names a folder."""
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if str(folder) in " ".join(process.info["cmdline"] or [])]


def feedback(graded, student):
    return (graded[2] / "feedback" / f"{student}.md").read_text()


def test_nobody_is_lost_and_rows_are_in_order(graded):
    rows, _, out = graded
    assert list(rows) == sorted([*HOSTILE, "broken", "right"])
    with (out / "grades.csv").open() as file:
        assert [row["student"] for row in csv.DictReader(file)] == list(rows)


def test_the_right_answers_earn_everything(graded):
    assert graded[0]["right"] == {"student": "right", "total": 8, "times": 4, "plus": 4, "error": ""}
    assert feedback(graded, "right") == (
        "# right: 8 of 8 points\n\n## times: 4 of 4\n\nAll tests passed.\n\n"
        "## plus: 4 of 4\n\nAll tests passed.\n"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_earns_nothing_and_the_rest_is_graded(graded, name):
    row = graded[0][name]
    rest = 0 if name == "makes_results" else 4  # who puts otter-grader out of work gets nothing from it
    assert (row["error"], row["times"], row["plus"]) == ("", 0, rest), feedback(graded, name)
    assert "otter" not in feedback(graded, name)
    assert "result:" not in feedback(graded, name)


def test_what_is_no_notebook_says_so(graded):
    assert "no notebook" in graded[0]["broken"]["error"]
    assert feedback(graded, "broken").startswith("# broken: no grade\n\n**Not graded:** this is no notebook")


def test_feedback_tells_why_and_never_what_a_test_says(graded):
    assert "process died, or ran longer than 4 s" in feedback(graded, "takes_all")
    assert "can't allocate memory" in feedback(graded, "takes_all")
    assert "must not leave the interpreter" in feedback(graded, "forks_and_floods")
    assert "os.fork is not allowed" in feedback(graded, "forks_and_floods")
    assert "the tests are not yours to open" in feedback(graded, "reads_and_talks")
    assert "yyy" in feedback(graded, "reads_and_talks")
    assert "sys._getframe is not allowed" in feedback(graded, "acts_while_called")
    for name in HOSTILE:
        assert "unguessable" not in feedback(graded, name)
        assert max(map(len, feedback(graded, name).splitlines())) < 400


def test_a_second_run_keeps_grades_and_says_the_same(graded, toy, monkeypatch):
    _, folder, out = graded
    table = (out / "grades.csv").read_bytes()
    asked = []

    def grade(notebook, *arguments):
        asked.append(notebook)
        return grade_one(notebook, *arguments)

    monkeypatch.setattr(grading, "grade_one", grade)
    (out / "results" / "right.json").write_text("{damaged")
    grade_class(folder, toy[0], out, jobs=1)
    assert set(asked) == {(folder / f"{name}.ipynb").read_bytes() for name in ("right", "broken")}
    assert (out / "grades.csv").read_bytes() == table


def test_a_cell_that_never_ends_in_c_is_an_error_and_leaves_no_process(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = grade_one(answered(toy, times="sum(range(10**13))"), toy[0], seconds=7)
    assert "stopped after 7 s: it does not end" in result["error"]
    assert of(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_ends_what_runs_keeps_what_is_done_and_says_how_to_go_on(graded, toy, tmp_path):
    _, folder, done = graded
    (tmp_path / "class").mkdir()
    (tmp_path / "out" / "results").mkdir(parents=True)
    shutil.copy(folder / "right.ipynb", tmp_path / "class")
    shutil.copy(done / "results" / "right.json", tmp_path / "out" / "results")
    shutil.copy(toy[0], tmp_path / "toy.zip")
    (tmp_path / "class" / "zoe.ipynb").write_bytes(answered(toy, times="sum(range(10**13))"))
    command = [sys.executable, "-m", "course_lib.grading", "class", "--autograder", "toy.zip"]
    command += ["--out", "out"]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(of(tmp_path)) < 2:  # otter-grader and its notebook
        assert time.monotonic() < end
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert said.strip() == "stopped; 1 grades are kept in out: the same command goes on from there"
    assert of(tmp_path) == []
    assert [path.name for path in (tmp_path / "out" / "results").iterdir()] == ["right.json"]


def test_out_must_not_lie_among_the_submissions(graded, toy):
    with pytest.raises(ValueError, match="lies among the submissions"):
        grade_class(graded[1], toy[0], graded[1] / "out")


def test_an_archive_that_is_missing_is_said(graded, tmp_path):
    with pytest.raises(ValueError, match="make assignments"):
        grade_class(graded[1], tmp_path / "missing.zip", tmp_path)


def test_another_assignment_is_an_error(toy):
    other = filled_in(toy[1], RIGHT)
    other.metadata["otter"]["assignment_name"] = "ps9"
    result = grade_one(nbformat.writes(other).encode(), toy[0], seconds=60)
    assert "Received submission for assignment 'ps9'" in result["error"]
