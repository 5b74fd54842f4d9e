"""The executor: what makes a notebook run again, what does not, and what happens when a cell fails."""

import re
import sys

import nbformat
import pytest

from pipeline.execute import NotebookFailed, execute_all, plan
from pipeline.keys import reached_files
from pipeline.settings import Settings

HEADER = """---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

"""
TOC = "format: jb-book\nroot: book/index\nchapters:\n"


def page(*cells, prose="Some prose."):
    return (
        HEADER
        + f"# A page\n\n{prose}\n\n"
        + "\n".join(f"```{{code-cell}} python\n{cell}\n```\n" for cell in cells)
    )


@pytest.fixture
def repository(tmp_path):
    """A repository with one notebook, `book/one.md`, that reaches two of three modules of its library."""
    files = {
        "_toc.yml": TOC + "  - file: book/one\n",
        "constraints.txt": "torch==2.0\n",
        "book/index.md": "# Index\n",
        "book/one.md": page("import course_lib.chapter", "print(40 + 2)"),
        "course_lib/__init__.py": "",
        "course_lib/chapter.py": "from course_lib.service import answer\n",
        "course_lib/service.py": "answer = 42\n",
        "course_lib/unreached.py": "",
        "course_lib/shapes.txt": "",
        "benchmarks/results/vae.json": "{}",
    }
    for name, text in files.items():
        write(tmp_path, name, text)
    return tmp_path


@pytest.fixture
def settings(repository):
    return Settings(root=repository, dataset="digits", data_dir="", device="")


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def key(settings):
    (task,) = plan(settings)
    return task.key


def test_changing_prose_executes_nothing_and_is_carried_over(repository, settings):
    source = page("print(40 + 2)", prose="Some prose.")
    write(repository, "book/one.md", source)
    assert execute_all(settings, jobs=1) == ["book/one"]
    output = settings.executed / "book/one.ipynb"
    assert nbformat.read(output, as_version=4).cells[1].outputs[0].text == "42\n"

    first = output.read_bytes()
    assert execute_all(settings, jobs=1) == []
    assert output.read_bytes() == first

    changed = source.replace("Some prose.", "Better prose.").replace(
        "python\n", "python\n:tags: [hide-input]\n"
    )
    write(repository, "book/one.md", changed)
    assert execute_all(settings, jobs=1) == []
    executed = nbformat.read(output, as_version=4)
    assert "Better prose." in executed.cells[0].source
    assert executed.cells[1].metadata.tags == ["hide-input"]
    assert executed.cells[1].outputs[0].text == "42\n"


def test_a_failing_cell_is_fatal_named_and_leaves_no_output(repository, settings):
    write(repository, "_toc.yml", TOC + "  - file: book/one\n  - file: book/two\n")
    write(repository, "book/one.md", page("x = 1"))
    write(repository, "book/two.md", page("y = 2"))
    execute_all(settings, jobs=2)
    write(repository, "book/one.md", page("x = 1", "raise RuntimeError('on purpose')"))
    write(repository, "book/two.md", page("y = 3"))
    with pytest.raises(NotebookFailed, match="on purpose") as failure:
        execute_all(settings, jobs=2)
    (line,) = re.findall(r"book/one\.md: the cell at line (\d+) failed", str(failure.value))
    assert (repository / "book/one.md").read_text().splitlines()[int(line) - 1].startswith("```{code-cell}")
    assert [path.name for path in (settings.executed / "book").iterdir()] == ["two.ipynb"]


def test_a_cell_may_raise_on_purpose(repository, settings):
    write(repository, "book/one.md", page(":tags: [raises-exception]\n1 / 0"))
    execute_all(settings, jobs=1)
    (output,) = nbformat.read(settings.executed / "book/one.ipynb", as_version=4).cells[1].outputs
    assert output.ename == "ZeroDivisionError"


def test_the_kernel_is_this_interpreter_in_a_fixed_environment(repository, settings):
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED", "COURSE_ROOT", "COURSE_DATASET"]
    code = ["import os, sys", "print(sys.executable)", f"print([os.environ[name] for name in {names}])"]
    write(repository, "book/one.md", page("\n".join([*code, "print(os.getcwd())"])))
    execute_all(settings, jobs=1)
    (output,) = nbformat.read(settings.executed / "book/one.ipynb", as_version=4).cells[1].outputs
    assert output.text.splitlines() == [
        sys.executable,
        str(["1", "1", "0", str(repository), "digits"]),
        str(settings.executed / "book"),  # where nbval runs it
    ]


def test_the_notebooks_of_removed_pages_are_removed(repository, settings):
    write(repository, "_toc.yml", TOC + "  - file: book/one\n  - file: book/two\n")
    write(repository, "book/one.md", page("x = 1"))
    write(repository, "book/two.md", page("y = 2"))
    execute_all(settings, jobs=2)
    write(repository, "_toc.yml", TOC + "  - file: book/one\n")
    assert execute_all(settings, jobs=1) == []
    assert [path.name for path in settings.executed.rglob("*.ipynb")] == ["one.ipynb"]


def test_a_page_that_does_not_exist_is_named(repository, settings):
    write(repository, "_toc.yml", TOC + "  - file: book/three\n")
    with pytest.raises(FileNotFoundError, match=r"book/three\.md"):
        plan(settings)


def test_data_sets_do_not_share_outputs(repository):
    digits, mnist = (Settings(repository, name, "", "") for name in ("digits", "mnist"))
    assert digits.executed != mnist.executed


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("course_lib/chapter.py", "from course_lib.service import answer\nmore = 1\n"),
        ("course_lib/service.py", "answer = 43\n"),
        ("course_lib/__init__.py", "version = 1\n"),
        ("course_lib/shapes.txt", "8 8\n"),
        ("constraints.txt", "torch==2.1\n"),
        ("book/one.md", page("import course_lib.chapter", "print(41 + 2)")),
        ("book/one.md", page("import course_lib.chapter", ":tags: [raises-exception]\nprint(40 + 2)")),
    ],
)
def test_what_the_outputs_depend_on_changes_the_key(repository, settings, name, text):
    before = key(settings)
    write(repository, name, text)
    assert key(settings) != before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("course_lib/unreached.py", "more = 1\n"),
        ("course_lib/__pycache__/chapter.pyc", "bytes"),
        ("benchmarks/results/vae.json", '{"nelbo": 99}'),
        ("book/index.md", "# Another index\n"),
        ("book/one.md", page("import course_lib.chapter", "print(40 + 2)", prose="Other prose.")),
        ("book/one.md", page("import course_lib.chapter", ":tags: [hide-input]\nprint(40 + 2)")),
    ],
)
def test_what_they_do_not_depend_on_leaves_the_key(repository, settings, name, text):
    before = key(settings)
    write(repository, name, text)
    assert key(settings) == before


@pytest.mark.parametrize(
    "cell", ['print("benchmarks/results")', 'from pathlib import Path\nPath("benchmarks") / "results"']
)
def test_the_result_files_matter_to_a_notebook_that_reads_them(repository, settings, cell):
    write(repository, "book/one.md", page(cell))
    before = key(settings)
    write(repository, "benchmarks/results/vae.json", '{"nelbo": 99}')
    changed = key(settings)
    write(repository, "benchmarks/results/iwae.json", "{}")
    assert len({before, changed, key(settings)}) == 3


def test_data_set_data_folder_and_device_change_the_key(repository):
    runs = [
        Settings(repository, "digits", "", ""),
        Settings(repository, "digits", "", "cuda"),
        Settings(repository, "mnist", "/a/data", ""),
        Settings(repository, "mnist", "/a/sample", ""),
    ]
    assert len({key(run) for run in runs}) == len(runs)
    assert key(Settings(repository, "digits", "/a/data", "")) == key(runs[0])  # the digits need no files


@pytest.mark.parametrize(
    ("code", "reached"),
    [
        ("import numpy", set()),
        ("import course_lib", {"__init__"}),
        ("from course_lib import service", {"__init__", "service"}),
        ("from course_lib.service import answer", {"__init__", "service"}),
        ("import course_lib.chapter as c", {"__init__", "chapter", "service"}),
        ("def f():\n    from course_lib.unreached import g", {"__init__", "unreached"}),
        ("from course_lib.relative import x", {"__init__", "relative", "service"}),
        ("from course_lib.part.inner import x", {"__init__", "part/__init__", "part/inner", "unreached"}),
        ("print('by hand and by course_lib')\nimport course_lib", {"__init__"}),
        ("from course_lib import *", "all"),
        ("import subprocess\nsubprocess.run(['python', '-m', 'course_lib', 'train'])", "all"),
        ("%time import course_lib.service", "all"),
        ("!python -m course_lib train vae", "all"),
        ("import importlib\nimportlib.import_module('course_lib.service')", "all"),
        ("from course_lib.dynamic import x", "all"),
        ("no Python at all", "all"),
    ],
)
def test_imports_are_followed(repository, code, reached):
    write(repository, "course_lib/relative.py", "from .service import answer as x")
    write(repository, "course_lib/part/__init__.py", "")
    write(repository, "course_lib/part/inner.py", "from ..unreached import x")
    write(repository, "course_lib/dynamic.py", "import importlib")
    package = repository / "course_lib"
    files = reached_files([code], package)
    names = {path.relative_to(package).with_suffix("").as_posix() for path in files if path.suffix == ".py"}
    if reached == "all":
        reached = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py")}
    assert names == reached
