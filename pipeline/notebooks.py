"""Reading the book's pages and writing its executed notebooks."""

import os
import tempfile
from functools import cache
from pathlib import Path

import nbformat
import yaml
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_yaml

__all__ = ["is_notebook", "page_names", "read_page", "write_atomically", "write_notebook"]


def page_names(root: Path) -> list[str]:
    """The pages that `_toc.yml` lists, in its order, as paths under `root` without suffix.

    Raises:
        FileNotFoundError: a page that is listed has no `.md` file.
    """
    names = list(parse_toc_yaml(root / "_toc.yml"))
    for name in names:
        if not (root / f"{name}.md").is_file():
            raise FileNotFoundError(
                f"_toc.yml lists {name!r}, but there is no file {name}.md: write it or drop it"
            )
    return names


@cache
def _markdown_config(config_file: Path) -> MdParserConfig:
    """The Markdown dialect of the book: what counts as a cell depends on the enabled extensions."""
    config = yaml.safe_load(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    return MdParserConfig(enable_extensions=set(config.get("parse", {}).get("myst_enable_extensions", [])))


def is_notebook(path: Path) -> bool:
    """Whether a Markdown page has the header of a text notebook."""
    return is_myst_markdown_notebook(path.read_text(encoding="utf-8"))


def read_page(path: Path, root: Path) -> NotebookNode:
    """Read a text notebook into cells exactly as the site builder does."""
    text = path.read_text(encoding="utf-8")
    config = _markdown_config(root / "_config.yml")
    notebook = read_myst_markdown_notebook(text, config=config, add_source_map=True, path=path)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # in place of a random one, so that the same page gives the same file
    return notebook


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or an interruption, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_notebook(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook atomically, and only when its text changes (the site builder watches its date)."""
    text = nbformat.writes(notebook, version=4)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
