"""The problem sets' notebooks, opened and worked where there is nothing but what the site publishes."""

import zipfile
from pathlib import Path

import nbformat
import pytest
from cold_start import new_environment, run_in, served
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

from pipeline.assignments import build, masters, read_master
from pipeline.first_cell import find_wheel
from pipeline.settings import Settings
from pipeline.student_edition import write_student_edition
from pipeline.submissions import filled_in

SETTINGS = Settings()


@pytest.fixture(scope="module")
def published() -> Path:
    """The site's folder of problem sets."""
    folder = SETTINGS.html / "assignments"
    if not folder.is_dir():
        pytest.fail(f"there is no site with problem sets in {SETTINGS.html}: run make book first")
    return folder


@pytest.fixture(scope="module")
def python(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of an environment with the library's requirements and otter-grader, without the library."""
    wheels = SETTINGS.html / "wheels"
    return new_environment(
        tmp_path_factory.mktemp("cold") / "env", wheels / find_wheel(wheels).name, "otter-grader"
    )


def unpacked(kit, folder):
    """The notebook of a kit, which is unpacked into a new folder."""
    with zipfile.ZipFile(kit) as archive:
        archive.extractall(folder)
    return nbformat.read(folder / f"{kit.stem}.ipynb", as_version=4)


def worked(notebook, problem):
    """The notebook with the reference answers and, at its end, the questions whose public tests fail."""
    auto = [question.name for question in problem.questions if not question.manual]
    notebook = filled_in(notebook, {question.name: question.answer for question in problem.questions})
    notebook.cells.append(
        new_code_cell(f"print('failing:', [q for q in {auto} if not grader.check(q).passed_all])")
    )
    return notebook


@pytest.mark.parametrize("path", masters(), ids=lambda path: path.stem)
def test_a_kit_is_all_that_a_student_needs(published, python, tmp_path, path):
    problem = read_master(path)
    notebook = unpacked(published / f"{path.stem}.zip", tmp_path / "run")
    first, *_, last = run_in(python, worked(notebook, problem), tmp_path / "run")
    assert first.splitlines()[-1].startswith("Ready: course_lib")
    assert last.strip() == "failing: []"


def test_the_untouched_notebook_fails_its_public_tests(published, python, tmp_path):
    path = masters()[0]
    notebook = unpacked(published / f"{path.stem}.zip", tmp_path / "run")
    names = [question.name for question in read_master(path).questions if not question.manual]
    notebook.cells.append(
        new_code_cell(f"print('failing:', [q for q in {names} if not grader.check(q).passed_all])")
    )
    *_, last = run_in(python, notebook, tmp_path / "run")
    assert last.strip() == f"failing: {names}"


def test_the_first_cell_fetches_library_and_tests_from_the_site(tmp_path):
    path, wheels = masters()[0], SETTINGS.html / "wheels"
    problem = read_master(path)
    dist = build(problem, tmp_path / "built")
    python = new_environment(tmp_path / "env", wheels / find_wheel(wheels).name, "otter-grader")
    site = tmp_path / "site"
    with served(site) as address:
        url = f"{address}/{path.stem}.zip"
        notebook = nbformat.read(write_student_edition(dist, site, wheels, url), as_version=4)
        first, *_, last = run_in(python, worked(notebook, problem), tmp_path / "alone")
        assert first.splitlines()[-1].startswith("Ready: course_lib")
        assert last.strip() == "failing: []"
        assert not list((tmp_path / "alone").glob("*.ipynb"))  # a notebook in work is never overwritten
        # A site that has moved on to another version does not go unnoticed.
        other = build(read_master(path, "another"), tmp_path / "other")
        write_student_edition(other, site, wheels, url)
        notebook.cells = notebook.cells[:1]
        with pytest.raises(CellExecutionError, match="download the notebook again"):
            run_in(python, notebook, tmp_path / "late")


def test_without_an_address_the_first_cell_says_what_is_missing(published, python, tmp_path):
    notebook = nbformat.read(published / f"{masters()[0].stem}.ipynb", as_version=4)
    if "urlopen" in notebook.cells[0].source:
        pytest.skip("this site was built for an address")
    notebook.cells = notebook.cells[:1]
    with pytest.raises(CellExecutionError, match="Unpack the whole archive"):
        run_in(python, notebook, tmp_path / "run")
