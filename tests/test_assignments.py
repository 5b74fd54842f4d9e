"""The problem sets, graded: right answers, none, every listed mistake and worse; and that nothing leaks."""

import dataclasses
import html
import json
import random
import re
import zipfile
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from course_lib.grading import grade_class
from pipeline.answer_matrix import Row, grade_answers, matrix
from pipeline.assignments import build, masters, read_master
from pipeline.first_cell import find_wheel
from pipeline.hand_out import NotAsExpected, graded
from pipeline.instructor_edition import matrix_table, write_instructor_edition
from pipeline.settings import Settings
from pipeline.student_edition import page_text, write_student_edition
from pipeline.submissions import filled_in, hostile_answers

SETTINGS = Settings()
# A line of code or prose, long enough that nobody else writes it by chance.
DISTINCTIVE = 30


@pytest.fixture(scope="module", params=masters(), ids=lambda path: path.stem)
def built(request, tmp_path_factory):
    """A problem set and what otter made of it."""
    problem = read_master(request.param)
    return problem, build(problem, tmp_path_factory.mktemp(problem.name))


@pytest.fixture
def problem(built):
    """A problem set and the folder of its tests, hidden ones included."""
    return built[0], built[1] / "autograder" / "tests"


@pytest.fixture(autouse=True)
def _types():
    """A set may change torch's default type for its own process."""
    yield
    torch.set_default_dtype(torch.float32)


def auto(problem):
    return [question for question in problem.questions if not question.manual]


def reference(problem):
    return {question.name: question.answer for question in problem.questions}


def test_a_set_has_a_hundred_points_and_at_least_four_mistakes_a_question(problem):
    problem, _ = problem
    assert problem.points == 100
    assert 6 <= len(problem.questions) <= 10
    for question in auto(problem):
        assert len(question.wrong_answers) >= 4, question.name
    for question in problem.questions:
        assert bool(question.rubric) == question.manual, question.name


@pytest.mark.parametrize("seed", range(5))
def test_the_reference_scores_full_marks_whatever_the_seed(problem, seed):
    problem, tests = problem
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    grades = grade_answers(problem, tests, reference(problem))
    assert {name: grade.points for name, grade in grades.items()} == problem.tested


def test_the_untouched_notebook_scores_zero(problem):
    problem, tests = problem
    assert all(grade.points == 0 for grade in grade_answers(problem, tests, {}).values())


def test_every_mistake_loses_its_points_there_only_and_is_named(problem):
    problem, tests = problem
    assert [row for row in matrix(problem, tests) if not row.as_expected] == []


def test_hostile_answers_score_zero(problem, monkeypatch):
    monkeypatch.setattr("course_lib.answer_checks.SECONDS", 0.3)
    problem, tests = problem
    for question in auto(problem):
        alone = dataclasses.replace(problem, questions=[question])
        for name, answer in hostile_answers(question.answer):
            grade = grade_answers(alone, tests, {question.name: answer})[question.name]
            assert grade.points == 0, (question.name, name)
            assert grade.messages, (question.name, name)


@pytest.mark.parametrize("variant", ["autumn-2027", "spring-2028"])
def test_another_variant_asks_for_other_numbers_and_grades_itself(built, variant, tmp_path):
    published, _ = built
    problem = read_master(next(path for path in masters() if path.stem == published.name), variant)
    assert problem.points == 100
    tests = build(problem, tmp_path / variant) / "autograder" / "tests"
    grades = grade_answers(problem, tests, reference(problem))
    assert {name: grade.points for name, grade in grades.items()} == problem.tested
    assert all(grade.points == 0 for grade in grade_answers(problem, tests, {}).values())
    differing = [name for name, value in problem.constants.items() if value != published.constants[name]]
    assert len(differing) > len(problem.constants) / 2


def test_a_set_graded_by_otter(built, tmp_path):
    """The packaging: the archive and the students' notebook, as they are handed out."""
    problem, dist = built
    (archive,) = (dist / "autograder").glob("*.zip")
    notebook = nbformat.read(
        write_student_edition(dist, tmp_path / "student", SETTINGS.build / "wheels"), as_version=4
    )
    (tmp_path / "class").mkdir()
    nbformat.write(filled_in(notebook, reference(problem)), tmp_path / "class" / "right.ipynb")
    nbformat.write(notebook, tmp_path / "class" / "untouched.ipynb")
    right, untouched = grade_class(tmp_path / "class", archive, tmp_path / "out")
    assert not right["error"]
    assert not untouched["error"]
    assert {name: right[name] for name in problem.tested} == problem.tested
    assert untouched["total"] == 0


# What must stay private


def lines_of(text):
    """The lines that are long enough to tell where they come from, without surrounding space."""
    lines = {line.strip().lstrip("# ") for line in text.splitlines() if len(line.strip()) >= DISTINCTIVE}
    return {line for line in lines if not line.startswith(("from ", "import "))}


def squeezed(text):
    """The text without space, which HTML and line breaks change."""
    return re.sub(r"\s+", "", text)


@cache
def open_text():
    """The library and the chapters: many a line of a solution is everybody's."""
    sources = [*(SETTINGS.root / "course_lib").glob("*.py"), *(SETTINGS.root / "book").glob("*.md")]
    return squeezed("".join(path.read_text() for path in sources))


def secrets(problem, dist):
    """Lines of solutions, rubrics, wrong answers and hidden tests that nobody has published on purpose."""
    private = set()
    for question in problem.questions:
        private |= lines_of("\n".join(cell.source for cell in question.solution)) | lines_of(question.rubric)
        for wrong in question.wrong_answers:
            private |= lines_of(wrong.source) | lines_of(wrong.name)
    for file in (dist / "autograder" / "tests").glob("*.py"):
        private |= lines_of(file.read_text())
    handed_out = [file.read_text() for file in (dist / "student" / "tests").glob("*.py")]
    (notebook,) = (dist / "student").glob("*.ipynb")
    handed_out += [cell.source for cell in nbformat.read(notebook, 4).cells]
    public = squeezed("".join(handed_out)) + open_text()
    return {line for line in private if squeezed(line) not in public}


def words(data, name):
    """The text of a file as one line of words, from JSON, HTML or Python."""
    text = data.decode(errors="ignore")
    if name.endswith(".ipynb"):
        text = "\n".join(cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
                         for cell in json.loads(text)["cells"])  # fmt: skip
    elif name.endswith((".html", ".js")):
        text = html.unescape(re.sub(r"<[^>]*>", "", text))
    return squeezed(text)


def published_files(folder):
    """Names and contents of the files of a folder, and of the archives in it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".zip", ".whl"):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if not name.endswith(".whl"):  # it is published beside, too
                        yield f"{path.name}/{name}", archive.read(name)
        elif path.is_file() and path.suffix in (".html", ".ipynb", ".py", ".md", ".txt", ".json", ".js"):
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def leaks(lines, folder):
    """Which of some lines stand in which published file."""
    short = {squeezed(line): line for line in lines}
    found = []
    for name, data in published_files(folder):
        text = words(data, name)
        found += [(name, line) for piece, line in short.items() if piece in text]
    return found


def test_nothing_private_is_published(built):
    problem, dist = built
    site = SETTINGS.html
    if not (site / "assignments").is_dir():
        pytest.fail(f"there is no site with problem sets in {site}: run make book first")
    assert {path.stem for path in (site / "assignments").glob("*.ipynb")} == {p.stem for p in masters()}
    private = secrets(problem, dist)
    assert len(private) > 100
    assert leaks(private, site) == []


def test_the_search_for_leaks_finds_them(built, tmp_path):
    problem, dist = built
    private = secrets(problem, dist)
    page = write_instructor_edition(problem, [], tmp_path / "instructor")
    assert {name for name, _ in leaks(private, page.parent)} >= {page.name, f"{problem.name}.ipynb"}
    assert leaks(private, dist / "autograder")


def test_the_page_in_the_book_has_every_question_and_no_answer(built, tmp_path):
    problem, dist = built
    notebook = write_student_edition(dist, tmp_path, SETTINGS.build / "wheels")
    page = page_text(notebook, "LINKS")
    assert page.startswith("# Problem set")
    assert page.count("LINKS") == 1
    for question in problem.questions:
        statement = next(cell.source for cell in question.cells if cell.cell_type == "markdown")
        assert statement in page, question.name
    assert not [line for line in secrets(problem, dist) if line in page]
    assert "grader." not in page
    assert "otter" not in page


def test_the_kit_holds_notebook_public_tests_and_library(built, tmp_path):
    problem, dist = built
    wheels = SETTINGS.build / "wheels"
    notebook = write_student_edition(dist, tmp_path, wheels)
    tests = f"{problem.name.split('_')[0]}_tests"
    with zipfile.ZipFile(tmp_path / f"{problem.name}.zip") as kit:
        names = set(kit.namelist())
        assert kit.read(notebook.name) == notebook.read_bytes()
        assert len({info.date_time for info in kit.infolist()}) == 1  # not that of the build
        assert kit.infolist()[0].date_time[0] == 1980
    assert names == {notebook.name, find_wheel(wheels).name} | {
        f"{tests}/{question.name}.py" for question in auto(problem)
    }
    again = tmp_path / "again"
    write_student_edition(dist, again, wheels)
    assert (again / f"{problem.name}.zip").read_bytes() == (tmp_path / f"{problem.name}.zip").read_bytes()


def test_the_instructors_edition_shows_solutions_rubrics_and_the_matrix(built, tmp_path):
    problem, _ = built
    question = auto(problem)[0]
    row = Row(question.name, "forgets <half> & more", 0, 0, "did you forget the ½?", [])
    page = write_instructor_edition(problem, [row], tmp_path).read_text()
    assert matrix_table(problem, [row]) in page
    assert "forgets &lt;half&gt; &amp; more" in page
    text = words(page.encode(), "x.html")
    for question in problem.questions:
        for cell in question.solution:
            for line in lines_of(cell.source):
                if cell.cell_type == "code":
                    assert squeezed(line) in text
    assert not re.search(r'(src|href)="(https?:)?//', page)


# The machinery, on a toy

TOY = """# %% tags=["variant"]
K = int(rng.integers(2, 1000))

# %% [markdown]
# # Problem set 0: a toy

# %%
import torch

# %% [raw]
# # BEGIN QUESTION
# name: times
# points: 4

# %% [markdown]
# ## Multiply by {{K}}

# %% [raw]
# # BEGIN SOLUTION

# %%
def times(x):
    # BEGIN SOLUTION
    return {{K}} * x
    # END SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
\""" # BEGIN TEST CONFIG
points: 4
hidden: HIDDEN
\""" # END TEST CONFIG
def test_times(times):
    from course_lib.answer_checks import bounded, compare
    compare("K x", bounded(times, 2.0), EXPECTED, {"did you add?": {{K}} + 2.0}, show=False)

# %% [raw]
# # END TESTS

# %% [raw]
# # BEGIN WRONG ANSWERS

# %%
# wrong: adds
# earns: 0
# says: did you add
def times(x):
    return x + {{K}}

# %% [raw]
# # END WRONG ANSWERS

# %% [raw]
# # END QUESTION
"""


def toy(folder, variant="published", expected="2.0 * {{K}}", says="did you add", **changes):
    text = TOY.replace("EXPECTED", expected).replace("HIDDEN", "false").replace("did you add\n", f"{says}\n")
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path = Path(folder, "ps0_toy.py")
    path.write_text(text)
    problem = read_master(path, variant)
    return problem, build(problem, folder / "built") / "autograder" / "tests"


def test_a_sound_master_grades_itself(tmp_path):
    problem, tests = toy(tmp_path)
    (row,) = graded(problem, tests)
    assert row == Row("times", "adds", 0, 0, "K x: did you add?", [])
    assert read_master(tmp_path / "ps0_toy.py").constants == problem.constants
    assert read_master(tmp_path / "ps0_toy.py", "another").constants != problem.constants


def test_a_row_is_as_expected_when_points_message_and_all_other_questions_are():
    row = Row("times", "adds", 1, 1, "did you add?", [])
    assert row.as_expected
    for change in ({"points": 2}, {"message": ""}, {"elsewhere": ["another"]}):
        assert not dataclasses.replace(row, **change).as_expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expected": "3.0 * {{K}}"}, "the reference earns 0 of 4"),
        ({"expected": "2.0 + {{K}}"}, "the reference earns 0 of 4"),
        ({"says": "something else"}, "mistake='adds'"),
        ({"earns": ("# earns: 0", "# earns: 2")}, "mistake='adds'"),
        ({"wrong": ("return x + {{K}}", "return x * {{K}}")}, "mistake='adds'"),
        ({"stub": ("    # BEGIN SOLUTION\n    return", "    return")}, None),
    ],
)
def test_an_unsound_master_is_refused(tmp_path, change, message):
    if message is None:  # what the student is given already answers: the untouched notebook is graded, too
        problem, tests = toy(tmp_path)
        problem.head.append(nbformat.v4.new_code_cell(problem.questions[0].answer))
        message = "no answer earns 4"
    else:
        problem, tests = toy(tmp_path, **change)
    with pytest.raises(NotAsExpected, match=re.escape(message)):
        graded(problem, tests)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{{K}}", "{{MISSING}}", "no constant of the variant cell"),
        ("# # END QUESTION\n", "# # nothing\n", "not closed"),
        ("# # BEGIN QUESTION", "# # ASSIGNMENT CONFIG", "take out ASSIGNMENT CONFIG"),
        ("# points: 4", "# color: 4", "needs a name and points"),
        ("# says: did you add\n", "", "a wrong answer begins with"),
        ('tags=["variant"]', "", "tagged 'variant'"),
    ],
)
def test_a_malformed_master_says_what_is_wrong(tmp_path, old, new, message):
    assert old in TOY
    path = tmp_path / "ps0_toy.py"
    path.write_text(TOY.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_master(path)


def test_no_masters_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"ps\*\.py"):
        masters(tmp_path)


def test_the_instructors_example_is_a_sound_master(tmp_path):
    page = (SETTINGS.root / "book" / "instructors.md").read_text()
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "QUESTION" in code)
    path = tmp_path / "ps5_weights.py"
    path.write_text(example)
    problem = read_master(path, "any")
    (row,) = graded(problem, build(problem, tmp_path / "built") / "autograder" / "tests")
    assert row.as_expected
    path.write_text(example.replace("# says: divide by K", "# says: something else"))
    problem = read_master(path, "any")
    with pytest.raises(NotAsExpected):
        graded(problem, build(problem, tmp_path / "again") / "autograder" / "tests")
