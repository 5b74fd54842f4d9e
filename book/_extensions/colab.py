"""Sphinx extension: publishes every page with code as a notebook, and links the page to it.

The notebooks lie in the site's ``notebooks`` folder, beside ``wheels`` with the library they install. Nothing
about a particular repository or address is written down: ``COURSE_REPOSITORY`` (owner/name on GitHub) gives
each page its Colab button, ``COURSE_SITE_URL`` is the address that the first cell installs from. Both come
from the environment, so a fork works unedited.
"""

import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from markdown_notebook import MarkdownPage
from myst_nb.core.read import create_nb_reader
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.application import Sphinx
from sphinx.errors import ConfigError
from sphinx.util.display import status_iterator

from pipeline.first_cell import Wheel, find_wheel, setup_cell

HIDING_TAGS = {"hide-input", "hide-cell", "remove-input", "remove-cell", "remove_input", "remove_cell"}
HIDDEN = {"cellView": "form", "jupyter": {"source_hidden": True}}  # Colab's word for it, and Jupyter's


def colab_url(repository: str, name: str) -> str:
    """Where Colab opens the published notebook ``name`` of a GitHub ``repository`` (owner/name)."""
    return f"https://colab.research.google.com/github/{repository}/blob/gh-pages/notebooks/{name}.ipynb"


def notebook_name(docname: str) -> str:
    """``book/05_evidence_lower_bound`` is published as ``05_evidence_lower_bound.ipynb``."""
    return PurePosixPath(docname).name


def read_notebook(app: Sphinx, docname: str) -> nbformat.NotebookNode | None:
    """The page's source as a notebook, without outputs; None for a page without code cells."""
    if "kernelspec" not in app.env.metadata.get(docname, {}):
        return None
    env: Any = app.env  # carries MyST-NB's settings
    path = Path(env.doc2path(docname))
    text = path.read_text(encoding="utf-8")
    reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
    notebook = reader.read(text) if reader else None
    return notebook if notebook and any(map(_is_code, notebook.cells)) else None


def published_notebook(app: Sphinx, docname: str, wheel: Wheel) -> nbformat.NotebookNode | None:
    """The notebook for Colab and Jupyter: a first cell that prepares the library, then the page in order.

    Code cells that the page does not show (tag ``remove-cell``) still run, folded, where they stood.
    """
    source = read_notebook(app, docname)
    if source is None:
        return None
    site = app.config.colab_site_url
    document = app.env.get_and_resolve_doctree(docname, app.builder)
    page = MarkdownPage(app.builder, docname, site)
    contents = page.cells(document)
    waiting = [index for index, cell in enumerate(source.cells) if _is_code(cell)]
    dataset = os.environ.get("COURSE_DATASET") or "digits"
    cells = [new_code_cell(setup_cell(wheel, dataset, site), metadata=HIDDEN)]
    for content in [*contents, len(source.cells)]:
        if isinstance(content, str):
            cells.append(new_markdown_cell(content))
            continue
        while waiting and waiting[0] <= content:
            index = waiting.pop(0)
            cells.append(_code_cell(source.cells[index], index in page.folded))
    for position, cell in enumerate(cells):
        cell.id = f"cell-{position}"
    return new_notebook(cells=cells, metadata=_metadata(notebook_name(docname)))


def _is_code(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def _code_cell(cell: nbformat.NotebookNode, is_folded: bool) -> nbformat.NotebookNode:
    tags = list(cell.metadata.get("tags", []))
    hidden = HIDDEN if is_folded or HIDING_TAGS & set(tags) else {}
    return new_code_cell(cell.source, metadata={**({"tags": tags} if tags else {}), **hidden})


def _metadata(name: str) -> dict[str, Any]:
    return {
        "accelerator": "GPU",
        "colab": {"name": f"{name}.ipynb", "toc_visible": True},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def publish(app: Sphinx, error: Exception | None) -> None:
    """Write all notebooks into the finished site."""
    if error is not None or app.builder.format != "html":
        return
    wheel = find_wheel(Path(app.srcdir, app.config.colab_wheels))
    folder = Path(app.outdir, "notebooks")
    folder.mkdir(exist_ok=True)
    pages = [docname for docname in sorted(app.env.found_docs) if read_notebook(app, docname)]
    names = Counter(map(notebook_name, pages))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"several pages would be published as {twice[0]}.ipynb: rename all but one")
    for old in folder.glob("*.ipynb"):
        old.unlink()
    for docname in status_iterator(pages, "writing notebooks... ", "brown", len(pages), app.verbosity):
        nbformat.write(published_notebook(app, docname, wheel), folder / f"{notebook_name(docname)}.ipynb")


def add_buttons(app: Sphinx, pagename: str, _template: str, context: dict[str, Any], doctree: object) -> None:
    """Point the page's Colab and download buttons at its published notebook."""
    if doctree is None or read_notebook(app, pagename) is None:
        return
    name = notebook_name(pagename)
    buttons = [entry for entry in context.get("header_buttons", []) if entry.get("label") != "launch-buttons"]
    if app.config.colab_repository:
        url, tooltip = colab_url(app.config.colab_repository, name), "Open this page's notebook in Colab"
        buttons.insert(0, _link(url, "Colab", tooltip, "colab-button", "fas fa-rocket me-2"))
    url, tooltip = context["pathto"](f"notebooks/{name}.ipynb", 1), "Download this page's notebook"
    download = _link(url, ".ipynb", tooltip, "download-notebook-button", "fas fa-code")
    for group in buttons:
        if (
            group.get("label") == "download-buttons"
        ):  # the theme offers the text source, of no use to a reader
            group["buttons"] = [download, *(entry for entry in group["buttons"] if entry["type"] != "link")]
    context["header_buttons"] = buttons


def _link(url: str, text: str, tooltip: str, label: str, icon: str) -> dict[str, str]:
    return {"type": "link", "url": url, "text": text, "tooltip": tooltip, "label": label, "icon": icon}


def check_config(app: Sphinx, config: Any) -> None:
    """Refuse a repository or an address that would make dead links."""
    config.colab_site_url = config.colab_site_url.rstrip("/")
    if config.colab_repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", config.colab_repository):
        raise ConfigError(f"COURSE_REPOSITORY must be owner/name, got {config.colab_repository!r}")
    if config.colab_site_url and not re.match(r"https?://\S+$", config.colab_site_url):
        raise ConfigError(f"COURSE_SITE_URL must be an http(s):// address, got {config.colab_site_url!r}")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension; ``colab_wheels`` is the folder of the wheel to publish, seen from the root."""
    app.add_config_value("colab_repository", os.environ.get("COURSE_REPOSITORY", ""), "html")
    app.add_config_value("colab_site_url", os.environ.get("COURSE_SITE_URL", ""), "html")
    app.add_config_value("colab_wheels", "_build/wheels", "")
    app.connect("config-inited", check_config)
    app.connect("html-page-context", add_buttons, priority=600)  # after the theme has made its own
    app.connect("build-finished", publish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
