"""The published notebooks: what they contain, what links to them, and that they run where only they are."""

import base64
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from colab import colab_url
from cold_start import new_environment, run_in, served, wheel_again
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from sphinx.errors import ConfigError, ExtensionError
from test_markdown_notebook import CONF, PAGE, PNG, build_toy, residue

from pipeline.first_cell import find_wheel, package_digest, setup_cell
from pipeline.notebooks import is_notebook, page_names, read_page
from pipeline.settings import Settings

SETTINGS = Settings()
BUILD_TOOLS = (
    "jupyter_book",
    "myst_nb",
    "nbclient",
    "pytest",
    "sphinx",
)  # absent where a student opens a notebook


# The toy page, published


def toy_site(folder: Path, **config: str) -> tuple[Path, str]:
    """The toy book with its notebook published, and the HTML of its page."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    with zipfile.ZipFile(wheels / "course_lib-1.2.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("course_lib/__init__.py", "")
    config = {"colab_wheels": str(wheels), "colab_repository": "", "colab_site_url": "", **config}
    settings = "".join(f"{name} = {value!r}\n" for name, value in config.items())
    _, warnings = build_toy(folder, PAGE, f"{CONF}\nextensions += ['colab']\n{settings}")
    assert warnings.getvalue() == ""
    return folder / "html", (folder / "html" / "05_toy.html").read_text()


def links(html: str, label: str) -> list[str]:
    """The addresses of a page's header buttons of one kind."""
    return re.findall(rf'<a href="([^"]*)"[^>]*class="[^"]*btn-{label}[ "]', html)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("published")
    return toy_site(folder, colab_repository="owner/fork", colab_site_url="https://example.org/course/")


def test_the_buttons_open_and_download_the_pages_own_notebook(toy: tuple[Path, str]) -> None:
    site, page = toy
    address = "https://colab.research.google.com/github/owner/fork/blob/gh-pages/notebooks/05_toy.ipynb"
    assert links(page, "colab-button") == [address]
    assert links(page, "download-notebook-button") == ["notebooks/05_toy.ipynb"]
    assert (site / "notebooks" / "05_toy.ipynb").is_file()
    assert "_sources" not in page


def test_a_page_without_code_has_neither_notebook_nor_button(toy: tuple[Path, str]) -> None:
    site, _ = toy
    other = (site / "other.html").read_text()
    assert not links(other, "colab-button")
    assert not links(other, "download-notebook-button")
    assert [path.name for path in (site / "notebooks").iterdir()] == ["05_toy.ipynb"]


def test_without_a_repository_there_is_only_the_download(tmp_path: Path) -> None:
    _, page = toy_site(tmp_path)
    assert not links(page, "colab-button")
    assert links(page, "download-notebook-button") == ["notebooks/05_toy.ipynb"]


def test_the_notebook_holds_the_page_in_order(toy: tuple[Path, str]) -> None:
    notebook = nbformat.read(toy[0] / "notebooks" / "05_toy.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code[1:]] == [
        "value = 1.2345", "secret = 1", "answer = 42", "first = 1", "draw()", "assert value > 1",
    ]  # fmt: skip
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}}
    assert code[1].metadata == {"tags": ["hide-input"], **folded}
    assert code[2].metadata == {"tags": ["remove-cell"], **folded}
    assert code[3].metadata == folded  # it stands in a folded solution
    assert code[5].metadata == {}
    assert code[6].metadata == {"tags": ["check"]}
    assert notebook.metadata.accelerator == "GPU"
    assert notebook.cells[1].source.startswith("# 1. The bound")
    assert f"data:image/png;base64,{base64.b64encode(PNG).decode()}" in str(notebook)
    wheel = "https://example.org/course/wheels/course_lib-1.2.3-py3-none-any.whl#sha256="
    assert wheel in notebook.cells[0].source


def test_publishing_twice_gives_the_same_bytes(toy: tuple[Path, str], tmp_path: Path) -> None:
    again, _ = toy_site(tmp_path, colab_repository="owner/fork", colab_site_url="https://example.org/course/")
    first, second = ((site / "notebooks" / "05_toy.ipynb").read_text() for site in (toy[0], again))
    hashes = re.compile(r"#sha256=\w+")  # the toy's wheels carry the time at which they were zipped
    assert hashes.sub("", first) == hashes.sub("", second)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"colab_repository": "https://github.com/owner/fork"}, "COURSE_REPOSITORY must be owner/name"),
        ({"colab_site_url": "example.org"}, "COURSE_SITE_URL must be an http"),
    ],
)
def test_settings_that_make_dead_links_are_refused(tmp_path: Path, config: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        toy_site(tmp_path, **config)


def test_a_site_without_its_wheel_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ExtensionError, match=r"must hold one wheel of course_lib, found none: run make book"):
        toy_site(tmp_path, colab_wheels=str(tmp_path))
    assert not (tmp_path / "html" / "notebooks").exists()


def test_the_digest_sees_content_and_names_but_no_caches(tmp_path: Path) -> None:
    for name, text in {"a/x.py": "1", "b/x.py": "2", "c/y.py": "1", "d/x.py": "1"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "d" / "__pycache__").mkdir()
    (tmp_path / "d" / "__pycache__" / "x.pyc").write_text("compiled")
    one, content, name, cached = (package_digest(tmp_path / folder) for folder in "abcd")
    assert one == cached
    assert len({one, content, name}) == 3


# The site that was built


@pytest.fixture(scope="module")
def site() -> Path:
    if not (SETTINGS.html / "notebooks").is_dir():
        pytest.fail(f"there is no site in {SETTINGS.html}: run make book first")
    return SETTINGS.html


def executable_pages() -> dict[str, Path]:
    """The pages with code cells, by the name of their notebook."""
    paths = [SETTINGS.root / f"{name}.md" for name in page_names(SETTINGS.root)]
    return {path.stem: path for path in paths if is_notebook(path)}


def test_every_page_with_code_is_published(site: Path) -> None:
    assert {path.stem for path in (site / "notebooks").iterdir()} == set(executable_pages())


@pytest.mark.parametrize("name", sorted(executable_pages()))
def test_published_notebook(site: Path, name: str) -> None:
    notebook = nbformat.read(site / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    address = os.environ.get("COURSE_SITE_URL", "").rstrip("/")
    assert notebook.cells[0].source == setup_cell(find_wheel(site / "wheels"), SETTINGS.dataset, address)
    source = read_page(executable_pages()[name], SETTINGS.root)
    code = [cell.source for cell in source.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:] == code
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert not residue(cell.source)


@pytest.mark.parametrize("name", sorted(executable_pages()))
def test_the_built_page_links_to_its_notebook(site: Path, name: str) -> None:
    page = (site / executable_pages()[name].relative_to(SETTINGS.root)).with_suffix(".html")
    html = page.read_text()
    (download,) = links(html, "download-notebook-button")
    assert (page.parent / download).resolve() == (site / "notebooks" / f"{name}.ipynb").resolve()
    repository = os.environ.get("COURSE_REPOSITORY", "")
    assert links(html, "colab-button") == ([colab_url(repository, name)] if repository else [])


# A cold start: a new environment that knows nothing of this repository


PROBE = f"""
import importlib.util, json, sys
import course_lib
absent = [name for name in {BUILD_TOOLS} if importlib.util.find_spec(name) is None]
print(json.dumps([course_lib.__file__, sys.prefix, absent]))
"""


@pytest.fixture(scope="module")
def wheel(site: Path) -> Path:
    return site / "wheels" / find_wheel(site / "wheels").name


@pytest.fixture
def server(site: Path) -> Iterator[str]:
    """The address of the site on this machine."""
    with served(site) as address:
        yield address


def test_the_first_cell_installs_exactly_the_published_library(
    site: Path, wheel: Path, server: str, tmp_path: Path
) -> None:
    python = new_environment(tmp_path / "env", wheel)

    def run(source: str, folder: str, **variables: str) -> list[str]:
        return run_in(
            python,
            new_notebook(cells=[new_code_cell(source), new_code_cell(PROBE)]),
            tmp_path / folder,
            **variables,
        )

    published = find_wheel(site / "wheels")
    with pytest.raises(CellExecutionError, match=f"pip install wheels/{re.escape(published.name)}"):
        run(setup_cell(published, "digits"), "no-address")

    cell = setup_cell(published, "digits", server)
    first, probe = run(cell, "installed")
    file, prefix, absent = json.loads(probe)
    assert Path(file).is_relative_to(tmp_path / "env")
    assert Path(prefix) == tmp_path / "env"
    assert sorted(absent) == sorted(BUILD_TOOLS)
    said = f"course_lib {published.version} · data set mnist (the text quotes a run on digits) · device "
    assert said in first

    installed = Path(file).parent
    (installed / "publish.py").write_text("stale = True\n")  # the same version, but not what was published
    assert package_digest(installed) != published.digest
    first, _ = run(cell, "replaced", COURSE_DATASET="digits", COURSE_DEVICE="cpu")
    assert package_digest(installed) == published.digest
    assert first.splitlines()[-1] == f"course_lib {published.version} · data set digits · device cpu"


def test_chapter_8_runs_from_nothing_but_torch_and_the_wheel(site: Path, wheel: Path, tmp_path: Path) -> None:
    """Pyro comes from the chapter's own cell, which finds it in a folder instead of an index."""
    python = new_environment(tmp_path / "env", wheel)
    index = tmp_path / "index"
    index.mkdir()
    for name in ("pyro-ppl", "pyro-api", "opt-einsum"):
        wheel_again(name, index)
    command = [python, "-c", "import pyro"]
    assert subprocess.run(command, capture_output=True).returncode != 0
    command = [python, "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", wheel]
    subprocess.run(command, check=True)  # fails if the wheel's own metadata asks for more than was linked
    notebook = nbformat.read(site / "notebooks" / "08_variational_autoencoders.ipynb", as_version=4)
    notebook.cells.append(new_code_cell(PROBE))
    notebook.cells.append(new_code_cell("print(pyro.__file__)"))
    *printed, probe, pyro = run_in(
        python, notebook, tmp_path / "empty", COURSE_DATASET="digits", PIP_FIND_LINKS=str(index)
    )
    file, _, absent = json.loads(probe)
    assert Path(file).is_relative_to(tmp_path / "env")
    assert Path(pyro).is_relative_to(tmp_path / "env")
    assert sorted(absent) == sorted(BUILD_TOOLS)
    assert "· data set digits" in printed[0]
