"""What keeps a submission's code from spoiling its own grading, or the machine that grades it.

The autograder's configuration names `GradingGuard` as a plugin of otter-grader. It takes everything but the
notebook out of a submission, puts `protect()` in front of the first cell, and afterwards makes the results
from the record of `course_lib.isolated_tests`.

Defended: a cell or an answer that does not end; output or memory without end; tests read, changed or deleted;
programs and processes started; leaving the interpreter; replaced functions of Python, torch, the library or
otter-grader; results of one's own making. **Not defended:** an answer runs in the interpreter of its test,
with the rights of the account. Whoever climbs through tracebacks to frames and closures, or calls C, finds
expected values and the key of the record; and he can read files, write to the disk and use the network. For
the machine a container helps, for the marks only somebody who reads the notebook.

`GRADING_MEMORY`, in GiB, limits what the notebook may take beyond what the library itself needs.
"""

import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_lib.isolated_tests import READY, Record, isolate
from course_lib.shielded import limit_resources, load_imports, shield

try:
    from otter.plugins import AbstractOtterPlugin
except ImportError:  # students need the checks above, not the grader
    AbstractOtterPlugin = object

__all__ = ["CELL_SECONDS", "GradingGuard", "protect"]

CELL_SECONDS = float(os.environ.get("COURSE_CELL_SECONDS", "120"))
NOT_RUN = "the tests of this question did not run: the notebook came to an end before them"


class GradingGuard(AbstractOtterPlugin):
    """otter-grader's plugin: protect the notebook before its first cell runs, and make the results."""

    def before_grading(self, config: Any) -> None:
        """Only the notebook counts: what lies beside it could stand in for a library."""
        del config
        autograder = Path("../source/files")
        ours = {path.name for path in autograder.iterdir()} if autograder.is_dir() else set()
        for path in Path().iterdir():
            if path.name in ours | {"tests", "__init__.py", Path(self.submission_path).name}:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def before_execution(self, submission: Any) -> Any:
        """The notebook with one cell more at its beginning."""
        import otter.execute
        from nbformat.v4 import new_code_cell
        from otter.execute.logging import LogRecordStreamHandler
        from otter.test_files import GradingResults
        from otter.test_files.exception_test import ExceptionTestFile

        limit_resources(final=False)
        self._tests = [ExceptionTestFile.from_file(str(path)) for path in sorted(Path("tests").glob("*.py"))]
        key = secrets.token_bytes(32)
        handle, path = tempfile.mkstemp(prefix="record-")
        os.write(handle, key)
        os.close(handle)
        self._record = Record(path, key)
        # A pickle runs what its author likes: what the notebook's process says is not read.
        otter.execute.pickle = _NothingToRead(GradingResults)
        LogRecordStreamHandler.handle = lambda self: None
        source = f"from course_lib.grading_guard import protect\nprotect('tests', {path!r})"
        submission.cells.insert(0, new_code_cell(source))
        return submission

    def after_grading(self, results: Any) -> None:
        """Make the results from the record."""
        from otter.test_files.abstract_test import TestCaseResult

        outcomes = self._record.outcomes()
        self._record.path.unlink()
        if READY not in outcomes:  # no zeros for what is not the student's fault
            first = [cell for cell in results.notebook.cells if "protect(" in cell.source][:1]
            heard = " ".join(output.get("evalue", "") for cell in first for output in cell.outputs)
            raise RuntimeError(f"the guard of the grading did not start: {heard}")
        del outcomes[READY]
        order = list(dict.fromkeys(name for name, _ in outcomes))  # that of the notebook
        order += [Path(test.path).name for test in self._tests]
        self._tests.sort(key=lambda test: order.index(Path(test.path).name))
        for test in self._tests:
            for number, case in enumerate(test.test_cases):
                message = outcomes.get((Path(test.path).name, number), NOT_RUN)
                said = "✅ Test case passed" if message is None else f"❌ Test case failed\n{message}"
                test.test_case_results.append(
                    TestCaseResult(test_case=case, message=said, passed=message is None)
                )
        notebook = results.notebook
        vars(results).clear()
        results.__init__(self._tests, notebook)


class _NothingToRead:
    """Stands where otter-grader expects the module `pickle`."""

    def __init__(self, results: Any) -> None:
        self._results = results

    def load(self, file: object) -> Any:
        """No results; they come from the record."""
        return self._results([])


def protect(tests: str | Path, record: str | Path) -> None:
    """Limit cells and memory, hide and shield the test files, and give each test a process of its own.

    Args:
        tests: the folder of the test files. They are read, and emptied.
        record: the file for the outcomes. It holds the key that signs them, and is emptied, too.
    """
    limit_resources(None)  # what was inherited is too little for torch
    import torch

    torch.set_num_threads(1)  # a forked process inherits no thread pool
    folder = Path(tests).resolve()
    sources = {path.name: path.read_text() for path in sorted(folder.glob("*.py"))}
    path = Path(record).resolve()
    key = path.read_bytes()
    path.write_bytes(b"")
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    unpacked = folder.parent.parent / "source" / "tests"
    for test in [*folder.glob("*.py"), *unpacked.glob("*.py")]:
        test.write_text("")
    load_imports(sources.values())
    _limit_cells()
    limit_resources(final=True)
    forks = [False]  # whether one is allowed

    @contextlib.contextmanager
    def forking() -> Iterator[None]:
        forks[0] = True
        try:
            yield
        finally:
            forks[0] = False

    shield([folder, unpacked], path, forks)
    isolate(sources, Record(path, key), file, forking)


def _limit_cells() -> None:
    """A timer for every cell, and an end to what it prints; nobody looks at what it shows."""
    from IPython import get_ipython

    from course_lib.answer_checks import MAX_CHARACTERS, OutOfTime

    shell = get_ipython()
    if shell is None:
        return
    printed = 0
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # ipykernel reads what is written there, and keeps it
    os.dup2(nothing, 2)

    def count(text: str) -> int:
        nonlocal printed
        printed += len(text)
        if printed > MAX_CHARACTERS:
            raise RuntimeError(f"this cell printed more than {MAX_CHARACTERS:,} characters")
        return len(text)

    def stop(*_: object) -> None:
        raise OutOfTime(f"this cell was stopped after {CELL_SECONDS:g} s: does it loop for ever?")

    def begin(*_: object) -> None:
        nonlocal printed
        printed = 0
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, CELL_SECONDS, 1)

    def end(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    sys.stdout.write = sys.stderr.write = count  # type: ignore[method-assign]
    shell.display_pub.publish = shell.displayhook.write_format_data = lambda *_, **__: None
    shell.events.register("pre_run_cell", begin)
    shell.events.register("post_run_cell", end)
