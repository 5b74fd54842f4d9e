"""The one progress bar of the course: plain text on stderr, and nothing where output is kept."""

import os
import sys
from typing import Any

from tqdm import tqdm

__all__ = ["progress_bar"]


def progress_bar(total: int, unit: str, show: bool = True, first: int = 0) -> Any:
    """A tqdm bar on stderr, which leaves no widget state in a notebook.

    Args:
        total: units of work when it is done.
        unit: what one of them is called.
        show: False hides it, and so does the environment variable COURSE_PROGRESS=0.
        first: units already done.
    """
    hidden = not show or os.environ.get("COURSE_PROGRESS") == "0"
    return tqdm(total=total, initial=first, unit=unit, disable=hidden, file=sys.stderr)
