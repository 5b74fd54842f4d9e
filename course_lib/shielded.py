"""What Python is told to refuse while a submission is graded: a watcher of its audit events, and limits."""

import ast
import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["limit_resources", "load_imports", "shield"]

DESTRUCTIVE = frozenset({"os.remove", "os.rmdir", "os.rename", "shutil.rmtree", "shutil.move", "os.truncate"})
PROCESSES = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.forkpty", "pty.spawn"}
)
SPYING = frozenset(
    {
        "sys._getframe",
        "sys._current_frames",
        "gc.get_objects",
        "gc.get_referrers",
        "gc.get_referents",
        "ctypes.dlopen",
        "ctypes.dlsym",
        "sys.addaudithook",
    }
)
FILE_BYTES = 256 * 2**20
PARTS = frozenset({"__code__", "__defaults__", "__kwdefaults__"})


def shield(folders: Sequence[Path], record: Path, forks: list[bool]) -> None:
    """Refuse to read, write or delete test files, to start processes, to look around, and to leave.

    Args:
        folders: of the tests.
        record: the file of the outcomes, which a notebook has no business with.
        forks: one element, whether `os.fork` is allowed now.
    """
    closed = frozenset({*folders, record})
    above = frozenset(parent for folder in folders for parent in folder.parents)
    asking: list[bool] = []  # to find out who asks is an event itself

    def inside(argument: object, also: frozenset[Path] = frozenset()) -> bool:
        if not isinstance(argument, str | bytes | os.PathLike):
            return False
        path = Path(os.fsdecode(argument)).resolve()
        return not closed.isdisjoint({path, *path.parents}) or path in also

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if inside(arguments[0]):
                raise PermissionError(f"open({arguments[0]!r}): the tests are not yours to open")
        elif event in PROCESSES or (event == "os.fork" and not forks[0]):
            raise PermissionError(f"{event} is not allowed while an assignment is graded")
        elif event in DESTRUCTIVE:
            if any(inside(argument, above) for argument in arguments[:2]):
                raise PermissionError(f"{event}({arguments[0]!r}): the tests of the assignment must stay")
        elif event == "object.__setattr__":
            if arguments[1] in PARTS and _of_the_graders(arguments[0]):
                raise PermissionError(f"{arguments[1]} of a function of the library must stay as it is")
        elif event in SPYING and not asking and by_a_cell():
            raise PermissionError(f"{event} is not allowed while an assignment is graded")

    def by_a_cell() -> bool:
        asking.append(True)
        try:
            return _is_a_cell(sys._getframe(2))  # of who has caused the event
        finally:
            asking.pop()

    def stay(*_: object) -> None:
        raise PermissionError("an assignment must not leave the interpreter")

    sys.addaudithook(watch)
    os._exit = os.abort = os.kill = os.killpg = stay  # type: ignore[assignment]


def _of_the_graders(function: Any) -> bool:
    name = getattr(function, "__globals__", {}).get("__name__", "")
    return str(name).partition(".")[0] in ("course_lib", "otter", "torch")


def _is_a_cell(frame: FrameType) -> bool:
    """Whether its code is a cell's, be it one that asks through a module of Python."""
    while frame.f_back and frame.f_globals.get("__name__") in ("ctypes", "inspect", "traceback"):
        frame = frame.f_back
    name = frame.f_code.co_filename
    return "ipykernel_" in name or name.startswith(("<ipython", "<string"))


def load_imports(sources: Iterable[str]) -> None:
    """Import what tests will import, so that no file that a cell writes is imported in its place."""
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            for name in names:
                with contextlib.suppress(ImportError):  # then the test will say so
                    importlib.import_module(name)


def limit_resources(final: bool | None) -> None:
    """Allow this process files of FILE_BYTES, and GRADING_MEMORY GiB of addresses more than it has now.

    Args:
        final: whether the limit of memory cannot be changed any more; None takes one that is not final away.
    """
    wanted = float(os.environ.get("GRADING_MEMORY", "0"))  # no limit where it is not set
    with contextlib.suppress(ImportError, OSError, ValueError):  # of Linux; elsewhere memory is not limited
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not wanted:
            return
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = int(pages * resource.getpagesize() + wanted * 2**30)
        top = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = limit if top == resource.RLIM_INFINITY else min(limit, top)
        resource.setrlimit(resource.RLIMIT_AS, (top if final is None else limit, limit if final else top))
