"""Sphinx extension: a chapter's number is the one its file name begins with.

Sphinx numbers chapters by their place in the table of contents, so a book with chapters 5 and 8 alone would
call them 1 and 2. Here `08_variational_autoencoders` is chapter 8 from the first day, and so are its
sections, equations, theorems, exercises and figures.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

Number = tuple[int, ...]


def chapter_number(docname: str) -> int | None:
    """The chapter that a page holds: 8 for `book/08_variational_autoencoders`, None for `book/glossary`."""
    match = re.match(r"(\d+)_", docname.rpartition("/")[2])
    return int(match.group(1)) if match else None


def renumber(env: BuildEnvironment) -> None:
    """Replace the first component of every section number of a chapter by the chapter's own number."""
    for docname, numbers in env.toc_secnumbers.items():
        chapter = chapter_number(docname)
        if chapter is None:
            continue
        for anchor, number in numbers.items():
            if number:
                numbers[anchor] = (chapter, *number[1:])
        # Navigation and page titles keep copies of their own.
        titled: list[nodes.Element] = [env.titles[docname], *env.tocs[docname].findall(nodes.reference)]
        for node in titled:
            if node.get("secnumber"):
                node["secnumber"] = [chapter, *node["secnumber"][1:]]


def setup(app: Sphinx) -> dict[str, Any]:
    """Renumber as soon as the sections are numbered, before the figures in them are counted."""
    collector: Any = TocTreeCollectorWithStyles  # Sphinx offers no event between the two steps
    assign = collector.assign_section_numbers

    def assign_section_numbers(self: TocTreeCollectorWithStyles, env: BuildEnvironment) -> list[str]:
        before = env.toc_secnumbers
        assign(self, env)
        renumber(env)
        return [name for name, numbers in env.toc_secnumbers.items() if numbers != before.get(name)]

    collector.assign_section_numbers = assign_section_numbers
    return {"parallel_read_safe": True, "parallel_write_safe": True}
