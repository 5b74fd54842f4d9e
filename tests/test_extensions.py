"""The Sphinx extensions: outputs only from executed notebooks, numbers from the file names."""

import gc
import re
import weakref
from types import SimpleNamespace

import nbformat
import pytest
from chapter_numbers import chapter_number
from nbformat.v4 import new_code_cell, new_notebook, new_output
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace

from pipeline.notebooks import page_names, write_notebook
from pipeline.settings import ROOT, Settings

pytestmark = pytest.mark.filterwarnings(  # theirs, not ours
    "ignore::FutureWarning:sphinx_external_toc", "ignore::PendingDeprecationWarning:sphinx_multitoc_numbering"
)

HEADER = """---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

"""
CODE = "open('executed', 'w')\nprint(6 * 7)"
TOC = """format: jb-book
root: index
parts:
- caption: One
  numbered: true
  chapters: [{file: 05_bound}]
- caption: Two
  numbered: true
  chapters: [{file: 08_vae}]
"""
EQUATION = "# {0}\n\n$$x$$ (first-{0})\n\n## Section\n\n$$x$$ (second-{0})\n\nSee {{eq}}`second-{0}`.\n"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a small book in tmp_path; returns the HTML of a page."""
    monkeypatch.chdir(tmp_path)
    # sphinx_external_toc looks at every object of the process, and stumbles over proxies of dead ones that
    # other tests have left; a build of its own has none.
    alive = SimpleNamespace(
        get_objects=lambda: [o for o in gc.get_objects() if type(o) not in weakref.ProxyTypes]
    )
    monkeypatch.setattr("sphinx_external_toc.collectors.gc", alive)

    def run(page, **pages):
        for name, text in pages.items():
            (tmp_path / f"{name}.md").write_text(text)
        extensions = ["myst_nb", "sphinx_external_toc", "chapter_numbers", "executed_outputs"]
        config = {
            "extensions": extensions,
            "exclude_patterns": ["_build"],
            "nb_execution_mode": "cache",
            "myst_enable_extensions": ["dollarmath"],
            "numfig": True,
            "numfig_secnum_depth": 1,
            "use_multitoc_numbering": True,
        }
        out = tmp_path / "_build" / "html"
        with docutils_namespace():
            Sphinx(tmp_path, None, out, tmp_path / "_build" / "trees", "html", config, None, None).build()
        return (out / f"{page}.html").read_text()

    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    return run


def executed_path(tmp_path):
    return Settings(root=tmp_path).executed / "index.ipynb"


def executed(source, text):
    return new_notebook(cells=[new_code_cell(source, outputs=[new_output("stream", text=text)])])


def test_a_page_without_an_executed_notebook_stops_the_build_and_is_not_executed(build, tmp_path):
    with pytest.raises(ExtensionError, match="make notebooks"):
        build("index", index=f"{HEADER}# Page\n\n```{{code-cell}}\n{CODE}\n```\n")
    assert not (tmp_path / "executed").exists()


def test_a_notebook_executed_from_other_code_stops_the_build(build, tmp_path):
    write_notebook(executed_path(tmp_path), executed("print(6 * 8)", "48\n"))
    with pytest.raises(ExtensionError, match="other code"):
        build("index", index=f"{HEADER}# Page\n\n```{{code-cell}}\n{CODE}\n```\n")
    assert not (tmp_path / "executed").exists()


def test_outputs_come_from_the_executed_notebook_and_follow_it(build, tmp_path):
    text = f"{HEADER}# Page\n\n```{{code-cell}}\n{CODE}\n```\n"
    write_notebook(executed_path(tmp_path), executed(CODE, "the answer\n"))
    assert "the answer" in build("index", index=text)
    write_notebook(executed_path(tmp_path), executed(CODE, "another answer\n"))
    assert "another answer" in build("index")
    assert not (tmp_path / "executed").exists()
    assert nbformat.read(executed_path(tmp_path), as_version=4).cells[0].source == CODE


@pytest.mark.parametrize(
    ("page", "number"),
    [("book/08_variational_autoencoders", 8), ("12_iwae", 12), ("book/glossary", None), ("book/2d", None)],
)
def test_a_chapter_is_numbered_by_its_file_name(page, number):
    assert chapter_number(page) == number


def test_sections_and_equations_carry_their_chapter_s_number(build, tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC)
    pages = {"index": "# Index\n", "05_bound": EQUATION.format("bound"), "08_vae": EQUATION.format("vae")}
    for _ in range(2):  # a second build with a changed page numbers it again
        html = build("08_vae", **pages)
        assert re.findall(r'class="eqno">\((.*?)\)', html) == ["8.1", "8.2"]
        assert (
            re.findall(r'class="section-number">(.*?)\s*</span>', html) == ["8. ", "8.1. "] or "8.1." in html
        )
        assert ">(8.2)</a>" in html
        pages["08_vae"] += "\nMore.\n"


@pytest.mark.parametrize("name", [name for name in page_names(ROOT) if chapter_number(name)])
def test_the_built_chapters_are_numbered(name):
    path = Settings().html / f"{name}.html"
    assert path.is_file(), f"{path} is missing: run `make book` first"
    html = path.read_text(encoding="utf-8")
    number = chapter_number(name)
    assert re.search(rf'<h1><span class="section-number">{number}\.', html)
    equations = re.findall(r'class="eqno">\((.*?)\)', html)
    assert equations == [f"{number}.{i}" for i in range(1, len(equations) + 1)]
    assert equations
