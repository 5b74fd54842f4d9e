"""The pages around the chapters tell the truth: what they name is there, and what is there is named."""

import importlib
import re
import shlex

import pytest

from course_lib.__main__ import parser
from pipeline.notebooks import page_names, read_page
from pipeline.settings import ROOT, Settings

REFERENCE = ROOT / "book" / "reference"
MODULES = sorted(path.stem for path in (ROOT / "course_lib").glob("*.py") if not path.stem.startswith("_"))
PAGES = page_names(ROOT)
CHAPTERS = {int(name.split("/")[-1][:2]): name for name in PAGES if re.match(r"\d\d_", name.split("/")[-1])}
GUIDES = ("README.md", "CONTRIBUTING.md", "book/instructors.md", "book/index.md", "book/reproductions.md")
GUIDES += ("book/reference/command_line.md",)
SOURCES = (".ci", ".github", "pipeline", "course_lib", "book/_extensions", "tests", "benchmarks")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


# The reference.


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_reference_page(module):
    assert f"book/reference/{module}" in PAGES, "write the page and list it in _toc.yml"
    assert f".. automodule:: course_lib.{module}\n" in text_of(f"book/reference/{module}.md")
    assert f"[`{module}`]({module}.md)" in text_of("book/reference/index.md"), "list it in the index"


@pytest.mark.parametrize("module", MODULES)
def test_the_test_that_vouches_for_a_module_is_there_and_uses_it(module):
    (test,) = re.findall(r"vouched for by `(tests/\w+\.py)`", text_of(f"book/reference/{module}.md"))
    assert re.search(rf"course_lib\.{module}\b|from course_lib import .*\b{module}\b", text_of(test))


def chapters_that_import(module):
    """The labels of the chapters whose code imports the module by name."""
    found = set()
    for name in CHAPTERS.values():
        code = "\n".join(
            c.source for c in read_page(ROOT / f"{name}.md", ROOT).cells if c.cell_type == "code"
        )
        if re.search(rf"^\s*(from|import) course_lib\.{module}\b", code, re.MULTILINE):
            (label,) = re.findall(r"^\((ch-[\w-]+)\)=$", text_of(f"{name}.md"), re.MULTILINE)
            found.add(label)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_a_reference_page_names_the_chapters_that_import_its_module(module):
    named = set(re.findall(r"<(ch-[\w-]+)>", text_of(f"book/reference/{module}.md")))
    assert named == chapters_that_import(module)


@pytest.mark.parametrize("module", MODULES)
def test_the_built_page_documents_every_public_class_and_function(module):
    page = Settings().html / "book" / "reference" / f"{module}.html"
    assert page.is_file(), f"{page} is missing: run `make book` first"
    documented = set(re.findall(rf'id="course_lib\.{module}\.(\w+)"', page.read_text(encoding="utf-8")))
    content = importlib.import_module(f"course_lib.{module}")
    public = {name for name in content.__all__ if callable(getattr(content, name))}
    constants = set(content.__all__) - public
    assert public <= documented <= public | constants


# The map of the front page.


def map_rows():
    """Number, chapter cell of each row of the map, in order."""
    rows = re.findall(r"^\| +(\d+) \| (.+?) \| .+\|$", text_of("book/index.md"), re.MULTILINE)
    return [(int(number), chapter) for number, chapter in rows]


def test_the_map_has_all_chapters_in_order():
    assert [number for number, _ in map_rows()] == list(range(1, 18))


@pytest.mark.parametrize(("number", "cell"), map_rows())
def test_the_map_links_what_is_published_and_nothing_else(number, cell):
    if number not in CHAPTERS:
        assert cell.endswith(" *(being written)*")
        assert "](" not in cell
        return
    file = CHAPTERS[number].split("/")[-1]
    title = re.search(r"^# (.+)$", text_of(f"{CHAPTERS[number]}.md"), re.MULTILINE)[1]
    assert cell == f"[{title}]({file}.md)"


# Commands, variables and files that the guides name.


@pytest.mark.parametrize("guide", GUIDES)
def test_make_targets_exist(guide):
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|&& )(?:[A-Z_]+=\S+ )*make ([a-z]+)\b", text_of(guide), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("guide", GUIDES)
def test_files_exist(guide):
    """Paths in backquotes that begin with a folder of the repository; `<…>` and `NN` stand for names."""
    paths = re.findall(r"`((?:book|course_lib|tests|benchmarks|pipeline|\.github)/[^`]*)`", text_of(guide))
    missing = [path for path in paths if not re.search("<|NN", path) and not list(ROOT.glob(path.strip("/")))]
    assert not missing


@pytest.mark.parametrize("guide", GUIDES)
def test_command_lines_are_accepted(guide):
    for command in re.findall(r"python -m course_lib (train[^`\n]*)", text_of(guide).replace("\\\n", " ")):
        parser().parse_args(shlex.split(command, comments=True))


def test_the_readme_explains_every_variable():
    explained = set(re.findall(r"^\| `(COURSE_[A-Z_]+)` \|", text_of("README.md"), re.MULTILINE))
    files = [ROOT / "Makefile", *(file for name in SOURCES for file in (ROOT / name).rglob("*"))]
    texts = [
        file.read_text(encoding="utf-8")
        for file in files
        if file.suffix in {"", ".py", ".sh", ".yml"} and file.is_file()
    ]
    used = {name for text in texts for name in re.findall(r"\bCOURSE_[A-Z_]+\b", text)}
    assert explained == used
