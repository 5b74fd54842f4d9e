"""Commit the numbers of the last run as the expected ones: python tests/update_expected.py [chapter ...]

For each chapter the values glued by its executed notebook are written to tests/expected/<chapter>.json, under
the data set of COURSE_DATASET. Values that still agree keep their entry; chosen tolerances are kept. Read the
difference before committing it.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbformat

from pipeline.glued import glued_values, read_expected, updated
from pipeline.notebooks import write_atomically
from pipeline.settings import ROOT, Settings


def main(chapters: list[str]) -> None:
    """Update the expected values of the named chapters, or of all."""
    settings = Settings()
    notebooks = {path.stem: path for path in sorted(settings.executed.rglob("*.ipynb"))}
    if unknown := set(chapters) - set(notebooks):
        raise SystemExit(f"no executed notebook of {sorted(unknown)}: run `make notebooks` first")
    for chapter in chapters or notebooks:
        path = ROOT / "tests" / "expected" / f"{chapter}.json"
        values = glued_values(nbformat.read(notebooks[chapter], as_version=4))
        everything = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        everything[settings.dataset] = updated(values, read_expected(path, settings.dataset))
        if values or path.is_file():
            write_atomically(path, json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
            print(f"{path.relative_to(ROOT)}: {len(values)} values of {settings.dataset}")


if __name__ == "__main__":
    main(sys.argv[1:])
