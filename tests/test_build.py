"""The build of the site: nothing again without a reason, nothing kept that a change may have touched."""

import zipfile

import nbformat
import pytest
from nbformat.v4 import new_notebook

from pipeline import book
from pipeline.book import SiteFailed, build_site, build_wheel
from pipeline.settings import ROOT, Settings


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A repository whose site takes no time to build; calling it builds and says what was done."""
    for name in ("_config.yml", "book/page.md", "course_lib/vae.py", "benchmarks/results/vae.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("first")
    settings = Settings(tmp_path, "digits", "", "")
    executed = settings.executed / "book" / "page.ipynb"
    executed.parent.mkdir(parents=True)
    nbformat.write(new_notebook(), executed)
    for variable in book.FRAME_VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    def wheel(_root, folder):
        folder.mkdir(exist_ok=True)
        path = folder / "course_lib-1.whl"
        path.write_text("wheel")
        return path

    def sphinx(_root, _html, **_options):
        html = settings.html
        site.done = "updated" if (html / "page.html").exists() else "built"
        html.mkdir(parents=True, exist_ok=True)
        (html / "page.html").write_text((tmp_path / "book" / "page.md").read_text())
        return site.status

    def site():
        site.done = "nothing"
        build_site(settings)
        return site.done

    site.status, site.root, site.html, site.executed = 0, tmp_path, settings.html, executed
    monkeypatch.setattr(book, "build_sphinx", sphinx)
    monkeypatch.setattr(book, "build_wheel", wheel)
    return site


def test_a_site_is_built_once_and_holds_the_wheel(site):
    assert site() == "built"
    assert site() == "nothing"
    assert (site.html / "wheels" / "course_lib-1.whl").is_file()


@pytest.mark.parametrize("name", ["book/page.md", "_build/executed/digits/book/page.ipynb"])
def test_a_change_of_a_page_or_its_outputs_updates_the_site(site, name):
    site()
    (site.root / name).write_text((site.root / name).read_text() + "\n")
    assert site() == "updated"
    assert site() == "nothing"


@pytest.mark.parametrize(
    "name",
    [
        "_config.yml",
        "course_lib/vae.py",
        "benchmarks/results/vae.json",
        "book/_static/custom.css",
        "book/new.md",
    ],
)
def test_any_other_change_builds_it_from_nothing(site, name):
    site()
    (site.root / name).parent.mkdir(exist_ok=True)
    (site.root / name).write_text("second")
    assert site() == "built"


@pytest.mark.parametrize("variable", ["COURSE_REPOSITORY", "COURSE_SITE_URL"])
def test_where_the_site_is_published_matters(site, monkeypatch, variable):
    site()
    monkeypatch.setenv(variable, "another")
    assert site() == "built"


def test_a_page_that_is_gone_leaves_nothing_behind(site):
    site()
    (site.html / "gone.html").write_text("a page of an earlier book")
    (site.root / "book" / "new.md").write_text("")
    site()
    assert not (site.html / "gone.html").exists()


def test_a_damaged_site_is_mended(site):
    site()
    (site.html / "page.html").write_text("")
    assert site() == "updated"
    assert (site.html / "page.html").read_text() == "first"


def test_warnings_are_fatal_and_not_forgotten(site):
    site()
    (site.root / "book" / "page.md").write_text("with a broken reference")
    site.status = 1
    for _ in range(2):
        with pytest.raises(SiteFailed):
            site()
    site.status = 0
    assert site() == "built"  # from nothing: Sphinx would not repeat the warnings of pages it has read


def test_the_wheel_holds_the_library_and_nothing_else(tmp_path):
    wheel = build_wheel(ROOT, tmp_path / "wheels")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"course_lib"}
    assert {"course_lib/__init__.py", "course_lib/py.typed"} <= set(names)
