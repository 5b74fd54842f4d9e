"""Build the book: execute the notebooks, build the wheel and the site, put them together.

    python -m pipeline.book

Nothing is built again unless something it is made from has changed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jupyter_book.sphinx import build_sphinx

from pipeline import execute
from pipeline.notebooks import write_atomically
from pipeline.settings import Settings

__all__ = ["SiteFailed", "build_site", "build_wheel", "fingerprint"]

# What the site is made from besides the text of the pages: a change here means building from nothing.
FRAME = (
    "_config.yml",
    "_toc.yml",
    "README.md",
    "LICENSE",
    "pyproject.toml",
    "constraints.txt",
    "benchmarks/results",
    "book",
    "course_lib",
    "pipeline",
)
FRAME_VARIABLES = ("COURSE_REPOSITORY", "COURSE_SITE_URL")
GENERATED = {"__pycache__", ".ipynb_checkpoints"}


class SiteFailed(Exception):
    """The site was built with warnings or not at all."""


def fingerprint(settings: Settings) -> dict[str, Any]:
    """Hashes of everything the site is made from.

    Returns:
        "pages": the hash of each page's text and of its executed notebook, by path; "frame": one hash of the
        rest, the names of the pages included.
    """
    pages: dict[str, str] = {}
    frame: dict[str, str] = {}
    for path in _files(settings.root, [*FRAME, str(settings.executed.relative_to(settings.root))]):
        name = path.relative_to(settings.root).as_posix()
        is_page = path.suffix == ".ipynb" or (path.suffix == ".md" and name.startswith("book/"))
        (pages if is_page else frame)[name] = _hash(path.read_bytes())
    variables = [os.environ.get(name, "") for name in FRAME_VARIABLES]
    return {"pages": pages, "frame": _hash(json.dumps([sorted(pages), frame, variables]).encode())}


def build_site(settings: Settings) -> None:
    """Build the site and the wheel it publishes, if anything they are made from has changed.

    The record of what was built is written last and removed first, so that a failed or interrupted build is
    never taken for a finished one.

    Raises:
        SiteFailed: Sphinx warned or failed.
    """
    record = settings.build / "site.json"
    now = fingerprint(settings)
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if before.get("made from") == now and before.get("files") == _sizes(settings.html):
        print("cached    site")
        return
    record.unlink(missing_ok=True)
    # Pages can be read again one by one, and are then all written again, since any of them may refer to what
    # has changed. A change of anything else, or a failure before, means starting from nothing.
    if before.get("made from", {}).get("frame") != now["frame"]:
        for folder in (settings.html, settings.build / ".doctrees"):
            shutil.rmtree(folder, ignore_errors=True)
    wheel = build_wheel(settings.root, settings.build / "wheels")
    result = build_sphinx(
        str(settings.root),
        str(settings.html),
        noconfig=True,
        path_config=str(settings.root / "_config.yml"),
        confoverrides={"external_toc_path": str(settings.root / "_toc.yml"), "latex_individualpages": False},
        force_all=True,
        warningiserror=True,
        keep_going=True,
        quiet=True,
    )
    if result:  # a status, or the exception that stopped the build; either way the cause is printed above
        raise SiteFailed("the site has warnings or errors (above); nothing was published")
    wheels = settings.html / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir()
    shutil.copy2(wheel, wheels)
    write_atomically(record, json.dumps({"made from": now, "files": _sizes(settings.html)}))


def build_wheel(root: Path, folder: Path) -> Path:
    """Build course_lib's wheel, the only one then in a folder, and return its path."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--wheel-dir", str(folder), str(root)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _files(root: Path, names: Iterable[str]) -> list[Path]:
    """The files that a list of files and folders holds, without what Python leaves there."""
    found: set[Path] = set()
    for name in names:
        path = root / name
        found |= set(path.rglob("*")) if path.is_dir() else {path}
    return sorted(path for path in found if path.is_file() and not GENERATED & set(path.parts))


def _sizes(folder: Path) -> dict[str, int]:
    """The size of every file of the built site, to notice when one is missing or cut short."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    """Execute the notebooks and build the site; the exit status says whether both succeeded."""
    settings = Settings()
    status = execute.main()
    if status:
        return status
    try:
        build_site(settings)
    except SiteFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The book is at {settings.html / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
