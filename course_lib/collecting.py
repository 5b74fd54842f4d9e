"""The submissions of a class, as Moodle, Gradescope or a colleague has left them: one notebook each.

Every file and folder that a student may have handed in becomes a row. Where it is unclear which notebook is
meant, or none is there, the row says so, and what to do; nothing is left out in silence.
"""

import io
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Submission", "cleaned", "collect"]

MEGABYTES = 50  # of one notebook; also an end to archives that unpack to more than a disk holds
IGNORED = frozenset({"__macosx", "thumbs.db", "desktop.ini", "submission_metadata.yml", "__pycache__"})
Found = tuple[str, bytes]  # a name to show, and the content


@dataclass
class Submission:
    """One student's notebook.

    Attributes:
        student: the name of file or folder.
        notebook: its bytes; None if there is not exactly one.
        error: why there is none, and what to do about it.
    """

    student: str
    notebook: bytes | None
    error: str = ""


def collect(folder: Path) -> list[Submission]:
    """The submissions in a folder, by name: notebooks, zips, and folders with either in them, however deep.

    Names that differ in capitals only are one student's. The same notebook twice counts once.

    Raises:
        ValueError: there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give the one that holds the submissions")
    entries: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not _ignored(path.name):
            name = path.name if path.is_dir() else path.stem
            entries.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(path)
    if not entries:
        raise ValueError(f"{folder} holds no .ipynb, no .zip and no folder with a notebook")
    found = [_submission(paths) for paths in entries.values()]
    return sorted(found, key=lambda submission: submission.student)


def cleaned(notebook: bytes) -> str:
    """The notebook without outputs, for the kernel that grades and no other.

    Raises:
        Exception: it is no notebook, or a damaged one; which exception depends on the damage.
    """
    import nbformat  # comes with otter-grader

    content = nbformat.reads(notebook.decode("utf-8-sig"), as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.writes(content)


def _submission(paths: list[Path]) -> Submission:
    """What one student has handed in, under one name."""
    first = paths[0]
    student = unicodedata.normalize("NFC", first.name if first.is_dir() else first.stem)
    named = " and ".join(path.name for path in paths)
    try:
        found = [notebook for path in paths for notebook in _notebooks(path)]
    except Exception as error:  # damaged archives fail in a dozen ways
        return Submission(student, None, f"{named} cannot be read ({error}): ask for it again")
    different = dict.fromkeys(content for _, content in found)
    if not different:
        return Submission(student, None, f"{named} holds no notebook (.ipynb): ask for it")
    if len(different) > 1:
        names = ", ".join(name for name, _ in found)
        return Submission(
            student,
            None,
            f"{len(found)} notebooks ({names}): leave the one that counts and run again; "
            "if they are several students', give their folder",
        )
    return Submission(student, next(iter(different)))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in IGNORED


def _notebooks(path: Path) -> Iterator[Found]:
    """Every notebook at a path: itself, in the archive, or below the folder."""
    if path.is_dir():
        for below in sorted(path.iterdir()):
            if not _ignored(below.name) and not (below.is_dir() and below.is_symlink()):
                for name, content in _notebooks(below):
                    yield f"{path.name}/{name}", content
    elif path.suffix.casefold() in (".ipynb", ".zip"):
        if path.suffix.casefold() == ".ipynb" and path.stat().st_size > MEGABYTES * 2**20:
            raise ValueError(f"more than {MEGABYTES} MB")
        yield from _opened(path.name, path.read_bytes())


def _opened(name: str, content: bytes, depth: int = 0) -> Iterator[Found]:
    """The notebook, or those of the archive and of archives in it."""
    if name.casefold().endswith(".ipynb"):
        yield name, content
        return
    room = MEGABYTES * 2**20
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            inner = info.filename.replace("\\", "/")
            wanted = inner.casefold().endswith((".ipynb", ".zip")) and not any(
                map(_ignored, inner.split("/"))
            )
            if not wanted or (depth and not inner.casefold().endswith(".ipynb")):
                continue
            with archive.open(info) as file:
                content = file.read(room + 1)  # what the header says may be wrong
            room -= len(content)
            if room < 0:
                raise ValueError(f"its notebooks have more than {MEGABYTES} MB")
            for below, data in _opened(inner, content, depth + 1):
                yield f"{name}/{below}" if depth == 0 else below, data
