"""Sphinx extension: publishes the problem sets, without answers, as pages, notebooks and kits.

A page that consists of an empty ``{problem-set}`` becomes what the student's notebook of the master beside
it says. The notebook and its kit (the notebook, the public tests and the library, in one archive) lie in the
site's folder ``assignments``, where the notebook's first cell finds them. Solutions, rubrics, wrong answers
and hidden tests are left out before anything here sees the text.
"""

import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.display import status_iterator

from pipeline.assignments import build, masters, read_master
from pipeline.student_edition import page_text, write_student_edition

PLACE = re.compile(r"\A```\{problem-set\}\n```\n\Z")
LINKS = """
```{{raw}} html
<p class="problem-set-links">
{colab}<a href="../../assignments/{name}.ipynb" download>Notebook</a> ·
<a href="../../assignments/{name}.zip" download>the same with its public tests and the library (zip)</a>
</p>
```
"""
COLAB = (
    '<a href="https://colab.research.google.com/github/{0}/blob/gh-pages/assignments/{1}.ipynb">Colab</a> · '
)


def editions(app: Sphinx) -> Path:
    """Where the student editions are made before the site is."""
    return Path(app.srcdir, "_build", "assignments", "site")


def prepare(app: Sphinx) -> None:
    """Make the student edition of every master in the published variant."""
    if app.builder.format != "html":
        return
    folder = editions(app)
    shutil.rmtree(folder, ignore_errors=True)
    site, wheels = app.config.colab_site_url, Path(app.srcdir, app.config.colab_wheels)
    paths = masters(Path(app.srcdir, "book", "assignments"))
    for path in status_iterator(paths, "making problem sets... ", "brown", len(paths), app.verbosity):
        dist = build(read_master(path), folder / "work" / path.stem)
        kit_url = f"{site}/assignments/{path.stem}.zip" if site else ""
        write_student_edition(dist, folder / "student", wheels, kit_url)
    shutil.rmtree(folder / "work")


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the problem set in the place of its directive."""
    if not PLACE.match(source[0]):
        return
    name, repository = Path(docname).name, app.config.colab_repository
    links = LINKS.format(name=name, colab=COLAB.format(repository, name) if repository else "")
    source[0] = page_text(editions(app) / "student" / f"{name}.ipynb", links.strip())


def publish(app: Sphinx, error: Exception | None) -> None:
    """Copy the student editions into the finished site."""
    if error is None and app.builder.format == "html":
        out = Path(app.outdir, "assignments")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(editions(app) / "student", out)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", prepare)
    app.connect("source-read", fill)
    app.connect("build-finished", publish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
