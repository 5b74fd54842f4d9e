"""Sphinx extension: take every cell's outputs from the executed notebooks; never execute anything.

MyST-NB looks for outputs in a cache and executes what it does not find there. This extension fills that cache
before the pages are read. A page without a fitting executed notebook stops the build.
"""

import shutil
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import create_nb_reader
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from pipeline.settings import Settings


def empty_cache(app: Sphinx) -> None:
    """Start from an empty cache: everything in it is derived, and outputs may have changed."""
    shutil.rmtree(_myst(app.env).mystnb_config.execution_cache_path, ignore_errors=True)


def fill_cache(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Store the outputs of the pages about to be read, in the form in which MyST-NB will ask for them.

    Raises:
        ExtensionError: a page's notebook was never executed, or its code has changed since.
    """
    config, markdown = _myst(env).mystnb_config, _myst(env).myst_config
    cache = get_cache(config.execution_cache_path)
    for name in docnames:
        source = Path(env.doc2path(name))
        text = source.read_text(encoding="utf-8")
        reader = create_nb_reader(str(source), markdown, config, text)
        if reader is None:  # a page without code
            continue
        notebook = reader.read(text)
        merge_outputs(notebook, _executed_path(app, name))
        cache.cache_notebook_bundle(CacheBundleIn(notebook, name), check_validity=False, overwrite=True)


def merge_outputs(notebook: NotebookNode, executed_path: Path) -> None:
    """Copy the outputs of an executed notebook into one with the same code.

    Raises:
        ExtensionError: there is no executed notebook, or its code is different.
    """
    if not executed_path.is_file():
        raise ExtensionError(f"{executed_path} is missing: execute the notebooks first (make notebooks)")
    executed = nbformat.read(executed_path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    ran = [cell for cell in executed.cells if cell.cell_type == "code"]
    if [cell.source for cell in cells] != [cell.source for cell in ran]:
        raise ExtensionError(f"{executed_path} was run from other code: execute it again (make notebooks)")
    for cell, before in zip(cells, ran, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count


def depend_on_outputs(app: Sphinx, docname: str, source: list[str]) -> None:
    """Read a page again when its outputs change, though its text has not."""
    path = _executed_path(app, docname)
    if path.is_file():
        app.env.note_dependency(str(path))


def _myst(env: BuildEnvironment) -> Any:
    """The environment with the settings that MyST-NB adds to it."""
    return env


def _executed_path(app: Sphinx, docname: str) -> Path:
    return Settings(root=Path(app.srcdir)).executed / f"{docname}.ipynb"


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension to the events of a build."""
    app.connect("builder-inited", empty_cache, priority=600)  # after MyST-NB has settled where the cache is
    app.connect("env-before-read-docs", fill_cache)
    app.connect("source-read", depend_on_outputs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
