"""What every test run needs: the book's environment, for kernels too, and a fair division of work."""

import os
import re
from typing import Any

import pytest

from pipeline.settings import Settings

os.environ.update(Settings().variables())
# Kernels inherit this: a second execution must publish its figures as the first did.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"

SLOW_FIRST = (
    ".ipynb::",
    "test_wrong_twins[",
    "test_assignments.py::",
    "test_student_notebooks.py::",
    "test_site.py::",
)


PROBLEM_SET = re.compile(r"test_(?:assignments|student_notebooks)\.py::.*\[(ps\d)")


def _is_one_chapter(nodeid: str) -> bool:
    return "test_wrong_twins[" in nodeid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker is left alone with it at the end."""

    def place(item: pytest.Item) -> int:
        return next((i for i, part in enumerate(SLOW_FIRST) if part in item.nodeid), len(SLOW_FIRST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divide the work by notebook and test module, test_wrong_twins by chapter, problem sets by set."""
    from xdist.scheduler import LoadScopeScheduling

    class ByChapter(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if problem_set := PROBLEM_SET.search(nodeid):
                return problem_set[1]
            return nodeid if _is_one_chapter(nodeid) else super()._split_scope(nodeid)

    return ByChapter(config, log) if config.getvalue("dist") == "loadscope" else None
