"""What keeps a submission's code from spoiling its own grading: limits on cells, a process for every test.

The autograder's configuration names `GradingGuard` as a plugin of otter-grader. It puts `protect()` in front
of the submitted notebook. Against mistakes and mischief this is enough; against a determined attacker only
a container is.
"""

import contextlib
import io
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from course_lib.answer_checks import MAX_CHARACTERS, OutOfTime

try:
    from otter.plugins import AbstractOtterPlugin
except ImportError:  # students need the checks above, not the grader
    AbstractOtterPlugin = object

__all__ = ["CELL_SECONDS", "TEST_SECONDS", "GradingGuard", "protect"]

CELL_SECONDS = float(os.environ.get("COURSE_CELL_SECONDS", "120"))
TEST_SECONDS = float(os.environ.get("COURSE_TEST_SECONDS", "60"))
PASSED, PIPE_BYTES = "\0passed", 16_000  # a pipe holds that much without a reader
_exit_of_the_system, _kill_of_the_system = os._exit, os.kill
DESTRUCTIVE = {"os.remove", "os.rmdir", "os.rename", "shutil.rmtree", "shutil.move", "os.truncate"}
PROCESSES = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"}


class GradingGuard(AbstractOtterPlugin):
    """otter-grader's plugin: protect the notebook before its first cell runs."""

    def before_execution(self, submission: Any) -> Any:
        """The notebook with one cell more at its beginning."""
        from nbformat.v4 import new_code_cell

        submission.cells.insert(0, new_code_cell("from course_lib.grading_guard import protect\nprotect()"))
        return submission


def protect(tests: str | Path = "tests") -> None:
    """Limit every cell's time and output, shield the test files, and give each test a process of its own."""
    torch.set_num_threads(1)  # a forked process inherits no thread pool
    _limit_cells()
    _shield(Path(tests).resolve())
    _isolate_tests()


def _limit_cells() -> None:
    """A timer for every cell, and an end to what it prints."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    printed = 0
    write = sys.stdout.write

    def count(text: str) -> int:
        nonlocal printed
        printed += len(text)
        if printed > MAX_CHARACTERS:
            raise RuntimeError(f"this cell printed more than {MAX_CHARACTERS:,} characters")
        return write(text)

    def stop(*_: object) -> None:
        raise OutOfTime(f"this cell was stopped after {CELL_SECONDS:g} s: does it loop for ever?")

    def begin(*_: object) -> None:
        nonlocal printed
        printed = 0
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, CELL_SECONDS, 1)

    def end(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    sys.stdout.write = count  # type: ignore[method-assign]
    shell.events.register("pre_run_cell", begin)
    shell.events.register("post_run_cell", end)


def _shield(tests: Path) -> None:
    """Refuse to delete or write test files, to start processes and to leave the interpreter."""

    def inside(argument: object) -> bool:
        if not isinstance(argument, str | bytes | os.PathLike):
            return False
        path = Path(os.fsdecode(argument)).resolve()
        return path == tests or tests in path.parents or path in tests.parents

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROCESSES:
            raise PermissionError(f"{event} is not allowed while an assignment is graded")
        if event in DESTRUCTIVE and any(inside(argument) for argument in arguments[:2]):
            raise PermissionError(f"{event}({arguments[0]!r}): the tests of the assignment must stay")
        writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if (
            writing
            and inside(arguments[0])
            and Path(os.fsdecode(arguments[0])).resolve() not in tests.parents
        ):
            raise PermissionError(
                f"open({arguments[0]!r}): the tests of the assignment must stay as they are"
            )

    def stay(*_: object) -> None:
        raise PermissionError("an assignment must not leave the interpreter")

    sys.addaudithook(watch)
    os._exit = os.abort = os.kill = stay  # type: ignore[assignment]


def _isolate_tests() -> None:
    """Fork for every test: what its answer does to memory, output or time ends with that process."""
    from otter.test_files import exception_test

    original = exception_test.test_case.call_func

    def isolated(self: Any, environment: dict[str, Any]) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # a test has its own limit; the cell that runs all has none
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                message = _outcome(original, self, environment)
                os.write(send, message.encode()[:PIPE_BYTES])
            finally:  # whatever happened, this copy of the notebook must not go on
                _exit_of_the_system(0)
        os.close(send)
        _report(_read(receive, child))

    exception_test.test_case.call_func = isolated
    exception_test.ExceptionTestFile._generate_error_message = lambda self, error, context=0: (
        f"{str(error).strip()}"
    )


def _outcome(original: Any, test: Any, environment: dict[str, Any]) -> str:
    """In the child: PASSED, else why not."""
    sys.stdout = sys.stderr = io.StringIO()
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        original(test, environment)
    except BaseException as error:
        name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return f"{name}{error}" or "failed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return PASSED


def _read(pipe: int, child: int) -> str | None:
    """In the parent: the child's message; None if it died or took too long."""
    data, deadline = b"", time.monotonic() + TEST_SECONDS
    with os.fdopen(pipe, "rb", buffering=0) as stream:
        while (left := deadline - time.monotonic()) > 0:
            if select.select([stream], [], [], left)[0]:
                piece = stream.read(65536)
                if not piece:
                    break
                data += piece
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        _kill_of_the_system(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return data.decode(errors="replace") if data else None


def _report(message: str | None) -> None:
    if message is None:
        raise AssertionError(f"the test did not end: its process died, or ran longer than {TEST_SECONDS:g} s")
    if message != PASSED:
        raise AssertionError(message)
