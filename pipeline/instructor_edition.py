"""What an instructor gets of a problem set: all of it in one notebook and one page, the matrix included."""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pipeline.answer_matrix import Row
from pipeline.assignments import BLOCK, METADATA, ProblemSet, Question

__all__ = ["matrix_table", "write_instructor_edition"]

MATHJAX = "tex-svg.js"  # one file, fonts included: the page is read without a network
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<script>MathJax = {{tex: {{inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]}}}};</script>
<script src="{mathjax}" defer></script>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.55 system-ui, sans-serif; }}
pre {{ overflow-x: auto; padding: .6rem; font-size: .85rem; border: 1px solid #8886; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; }}
td, th {{ padding: .3rem .6rem; border-bottom: 1px solid #8886; text-align: left; vertical-align: top; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
HEADINGS = {"SOLUTION": "Solution", "TESTS": "Tests, hidden ones included"}


def write_instructor_edition(problem: ProblemSet, rows: Sequence[Row], folder: Path) -> Path:
    """Write `<name>.ipynb` and `<name>.html`, with everything in them that a student must not see.

    Args:
        problem: the set.
        rows: its wrong answers, graded.
        folder: where to.

    Returns:
        the page's path.
    """
    from nbconvert import HTMLExporter

    notebook = new_notebook(cells=list(_cells(problem, rows)), metadata=METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{problem.name}.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.exclude_anchor_links = True
    body, _ = exporter.from_notebook_node(notebook)
    package = find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "sphinx-mathjax-offline, which brings MathJax, is not installed: make clean"
        )
    shutil.copy2(Path(package.origin).parent / "static" / "mathjax" / MATHJAX, folder)
    page = folder / f"{problem.name}.html"
    page.write_text(PAGE.format(title=problem.name, mathjax=MATHJAX, body=body), encoding="utf-8")
    return page


def matrix_table(problem: ProblemSet, rows: Sequence[Row]) -> str:
    """The wrong-answer matrix as an HTML table: question, mistake, points of how many, message."""
    possible = {question.name: question.points for question in problem.questions}
    lines = []
    for row in rows:
        points = f"{row.points:g} of {possible[row.question]:g}"
        cells = map(escape, (row.question, row.mistake, points, row.message))
        lines.append("<tr>" + "".join(f'<td class="mathjax_ignore">{cell}</td>' for cell in cells) + "</tr>")
    head = "<tr><th>Question</th><th>Mistake</th><th>Points</th><th>Message</th></tr>"
    return "\n".join(["<table>", head, *lines, "</table>"])


def _cells(problem: ProblemSet, rows: Sequence[Row]) -> Iterator[NotebookNode]:
    """All cells of the edition, in order."""
    yield new_markdown_cell(
        f"**Instructor's edition of `{problem.name}`, variant `{problem.variant}`. Not for students.** At "
        "the end: every wrong answer, graded, and the constants of the variant."
    )
    yield from problem.head
    for question in problem.questions:
        yield from _question(question)
    yield new_markdown_cell(
        "# Every wrong answer, graded\n\n"
        "Each stood among right answers to all other questions, which lost nothing by it.\n\n"
        + matrix_table(problem, rows)
    )
    yield new_markdown_cell(f"# The constants of this variant\n\n```json\n{_constants(problem)}\n```")


def _constants(problem: ProblemSet) -> str:
    lines = (f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in problem.constants.items())
    return "{\n" + ",\n".join(lines) + "\n}"


def _question(question: Question) -> Iterator[NotebookNode]:
    """A question's cells with a heading before each part, then its rubric and its wrong answers."""
    kind = "graded by hand" if question.manual else "graded by its tests"
    pool = f", one of the pool `{question.pool}`" if question.pool else ""
    yield new_markdown_cell(f"---\n\n`{question.name}`: {question.points:g} points, {kind}{pool}")
    for cell in question.cells:
        mark = BLOCK.match(cell.source.split("\n")[0]) if cell.cell_type == "raw" else None
        if mark and mark[1] == "BEGIN" and mark[2] in HEADINGS:
            yield new_markdown_cell(f"**{HEADINGS[mark[2]]}**")
        elif cell.cell_type != "raw":
            yield cell
    if question.rubric:
        yield new_markdown_cell(f"**Rubric**\n\n{question.rubric}")
    for wrong in question.wrong_answers:
        yield new_markdown_cell(f"**Wrong: {_plain(wrong.name)}** (earns {wrong.earns:g})")
        yield new_code_cell(wrong.source)


def _plain(text: str) -> str:
    """Words that Markdown must not format."""
    return re.sub(r"([*_`$\\])", r"\\\1", text)
