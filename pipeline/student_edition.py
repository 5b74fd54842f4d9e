"""What a student gets of a problem set: a notebook, and a kit with it, the public tests and the library."""

import re
import shutil
import zipfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from pipeline.first_cell import find_wheel, problem_set_cell

__all__ = ["page_text", "write_student_edition"]

START = 'import otter\n\ngrader = otter.Notebook(tests_dir="{tests}")'
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["otter_ignore"]}
FIXED = {"deletable": False, "editable": False}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same kit from the same content


def write_student_edition(dist: Path, folder: Path, wheels: Path, kit_url: str = "") -> Path:
    """Write `<name>.ipynb` and `<name>.zip` into a folder.

    Args:
        dist: what `assignments.build` returned.
        folder: where to.
        wheels: the folder of the library's wheel.
        kit_url: where the kit will be published, if it will.

    Returns:
        the notebook's path.
    """
    (source,) = (dist / "student").glob("*.ipynb")
    wheel = find_wheel(wheels)
    tests = dist / f"{source.stem.split('_')[0]}_tests"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(dist / "student" / "tests", tests)
    notebook = nbformat.read(source, as_version=4)
    # The grader ignores the first cell: it has the library, and no network.
    notebook.cells[:0] = [
        new_code_cell(problem_set_cell(wheel, tests, kit_url), metadata=FOLDED | FIXED),
        new_code_cell(START.format(tests=tests.name), metadata=FIXED),
    ]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    notebook.metadata["colab"] = {"name": source.name, "toc_visible": True}
    text = nbformat.writes(notebook)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / source.name
    path.write_text(text, encoding="utf-8")
    with zipfile.ZipFile(path.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as kit:
        kit.writestr(zipfile.ZipInfo(path.name, EPOCH), text, zipfile.ZIP_DEFLATED)
        for file in [*sorted(tests.glob("*.py")), wheels / wheel.name]:
            name = f"{tests.name}/{file.name}" if file.parent == tests else file.name
            kit.writestr(zipfile.ZipInfo(name, EPOCH), file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path


def page_text(notebook: Path, links: str) -> str:
    """The notebook as a page of the book: its questions with their empty answers, to be read.

    Args:
        notebook: the student's.
        links: what stands below the title.
    """
    parts = []
    for cell in nbformat.read(notebook, as_version=4).cells[2:]:
        source = re.sub(r"<!-- (BEGIN|END) QUESTION -->", "", cell.source).strip()
        answer = "otter_answer_cell" in cell.metadata.get("tags", [])
        if cell.cell_type == "code" and not source.startswith("grader.check"):
            parts.append(f"```python\n{source}\n```")
        elif cell.cell_type == "markdown" and source and not answer:
            parts.append(source)
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([title, links, rest.strip(), *parts[1:]]) + "\n"
