"""A process for every test of a submission, and a record of what each found, which no submission can write.

The notebook's process forks for a test; what the answer does to memory, output or time ends with the fork.
There the originals are put back, the test runs, and its outcome is signed with a key that only the grader and
the closures of this module hold. The grader's process makes the results from that record: what the notebook's
process has made of otter-grader's own results in the meantime does not count.
"""

import contextlib
import hmac
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["READY", "Record", "isolate"]

TEST_SECONDS = float(os.environ.get("COURSE_TEST_SECONDS", "60"))
READY = ("", -1)  # in the record once everything is in place
MESSAGE = 500  # characters: a message says what is wrong, it does not carry test files
_fork, _exit, _kill, _write = os.fork, os._exit, os.kill, os.write  # the guard takes some of them away


class Record:
    """Lines in a file, each the signed outcome of one test.

    Args:
        path: of the file.
        key: the secret that signs.
    """

    def __init__(self, path: str | Path, key: bytes) -> None:
        self.path, self._key = Path(path), key

    def line(self, question: str, test: int, message: str | None) -> bytes:
        """The line for one outcome; no message means that the test passed."""
        text = json.dumps([question, test, message if message is None else message[:MESSAGE]]).encode()
        return hmac.digest(self._key, text, "sha256").hex().encode() + b" " + text + b"\n"

    def outcomes(self) -> dict[tuple[str, int], str | None]:
        """The last outcome of every test; lines that nobody signed do not count."""
        found = {}
        for line in self.path.read_bytes().split(b"\n"):
            signature, _, text = line.partition(b" ")
            if hmac.compare_digest(signature, hmac.digest(self._key, text, "sha256").hex().encode()):
                question, test, message = json.loads(text)
                found[question, test] = message
        return found


def isolate(sources: Mapping[str, str], record: Record, file: int, forking: Callable[[], Any]) -> None:
    """Let otter-grader run each test in a fork, from these sources, and note what it finds.

    Args:
        sources: the text of each test file by its name; the files themselves are not read again.
        record: signs what is found.
        file: descriptor of the record's file, open for appending.
        forking: gives a context in which a fork is allowed.
    """
    from otter.execute import checker
    from otter.test_files import exception_test

    from course_lib import answer_checks  # with torch, which the grader's own process can do without
    from course_lib.originals import Originals

    original = exception_test.test_case.call_func
    originals: list[Originals] = []
    places: dict[int, tuple[str, int]] = {}  # of each test by its identity: question and number
    files: list[Any] = []  # alive as long as their identities are used

    def known(path: str, *_: object, **__: object) -> Any:
        name = os.path.basename(path)
        made = exception_test.ExceptionTestFile.from_string(sources[name], path=path)
        files.append(made)
        places.update({id(case.body): (name, number) for number, case in enumerate(made.test_cases)})
        return made

    def run(self: Any, environment: dict[str, Any]) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # a test has its own limit; the cell that runs all has none
        receive, send = os.pipe()
        with forking():
            child = _fork()
        if child == 0:
            try:
                originals[0].restore()
                message = _outcome(original, self, environment)
                originals[0].restore()
                _write(send, record.line(*places[id(self)], message))
            finally:  # whatever happened, this copy of the notebook must not go on
                _exit(0)
        os.close(send)
        line = _read(receive, child)
        try:
            message = json.loads(line.partition(b" ")[2])[2]
        except (ValueError, IndexError):
            message = f"the test did not end: its process died, or ran longer than {TEST_SECONDS:g} s"
            line = record.line(*places.get(id(self), ("", 0)), message)
        _write(file, line)
        if message is not None:
            raise AssertionError(message)

    def undo() -> None:
        if os.getpid() != notebook:  # in the notebook itself a student may do with the library what he likes
            originals[0].restore()

    notebook = os.getpid()
    checker.create_test_file = known
    exception_test.test_case.call_func = run
    exception_test.ExceptionTestFile._generate_error_message = lambda self, error, context=0: str(error)
    answer_checks._undo = undo
    originals.append(Originals())  # now, for what was changed here is to stay
    _write(file, record.line(*READY, None))


def _outcome(original: Any, test: Any, environment: dict[str, Any]) -> str | None:
    """In the child: why the test failed; None if it passed."""
    sys.stdout = sys.stderr = io.StringIO()
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        original(test, environment)
    except BaseException as error:
        name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return f"{name}{error}" or "failed"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def _read(pipe: int, child: int) -> bytes:
    """In the parent: the child's line; nothing if it died or took too long."""
    data, deadline = b"", time.monotonic() + TEST_SECONDS
    with os.fdopen(pipe, "rb", buffering=0) as stream:
        while (left := deadline - time.monotonic()) > 0:
            if select.select([stream], [], [], left)[0]:
                piece = stream.read(65536)
                if not piece:
                    break
                data += piece
                if len(data) > 20 * MESSAGE:  # nothing that we have written
                    break
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        _kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return data if data.endswith(b"\n") else b""
