"""Execute the book's notebooks, several at a time, each only when something it depends on has changed.

    python -m pipeline.execute

The executed notebooks, with their outputs and the key they were executed under, are written to
`_build/executed/<data set>/`. The site builder takes the outputs from there, and nbval compares with them.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from pipeline.keys import notebook_key
from pipeline.notebooks import is_notebook, page_names, read_page, write_notebook
from pipeline.settings import Settings

__all__ = ["NotebookFailed", "Task", "execute_all", "plan"]

CELL_TIMEOUT = 600  # seconds
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailed(Exception):
    """A cell of a notebook raised an exception."""


class OwnInterpreter(AsyncKernelManager):
    """A kernel run by the interpreter that runs this file, whatever kernels the machine has registered."""

    def __init__(self, **options: Any) -> None:
        super().__init__(transport_encryption="auto", **options)  # the kernel warns of open sockets otherwise

    @property
    def kernel_spec(self) -> KernelSpec:
        """The specification that ipykernel would install for this interpreter."""
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


@dataclass
class Task:
    """One notebook: its source, its key now, and the earlier execution if there is one.

    Attributes:
        name: the page's path under the repository, without suffix.
        notebook: the cells as they are written now, without outputs.
        key: what the outputs depend on, hashed.
        output: the executed notebook's path.
        earlier: the executed notebook found at that path, if any.
    """

    name: str
    notebook: NotebookNode
    key: str
    output: Path
    earlier: NotebookNode | None

    @property
    def seconds(self) -> float:
        """How long the earlier execution took; infinite if there is none, to start the unknown first."""
        return self._record.get("seconds", float("inf"))

    @property
    def is_current(self) -> bool:
        """Whether the earlier execution still holds."""
        return self._record.get("key") == self.key

    @property
    def _record(self) -> dict[str, Any]:
        return self.earlier.metadata.get("course", {}) if self.earlier else {}


def plan(settings: Settings) -> list[Task]:
    """The notebooks among the pages of `_toc.yml`, each with its key and its earlier execution."""
    tasks = []
    for name in page_names(settings.root):
        source = settings.root / f"{name}.md"
        if not is_notebook(source):
            continue
        notebook = read_page(source, settings.root)
        output = settings.executed / f"{name}.ipynb"
        tasks.append(Task(name, notebook, notebook_key(notebook, settings), output, _read_earlier(output)))
    return tasks


def execute_all(settings: Settings, jobs: int) -> list[str]:
    """Bring the executed notebooks up to date and remove those whose page is gone.

    Args:
        settings: the run.
        jobs: how many kernels run at a time.
    Returns:
        the names of the notebooks that were executed now.
    Raises:
        NotebookFailed: one or more cells failed; the message holds every traceback. The notebooks that
            succeeded are kept, those that failed leave no output behind.
    """
    tasks = plan(settings)
    _remove_stale(settings, {task.output for task in tasks})
    for task in tasks:
        if task.is_current:
            _keep(task)
            print(f"cached    {task.name}", flush=True)
    waiting = sorted((task for task in tasks if not task.is_current), key=lambda task: -task.seconds)
    failures = []
    for task, failure, seconds in _run(waiting, settings, jobs):
        print(f"{'FAILED  ' if failure else 'executed'}  {task.name}  {seconds:.1f} s", flush=True)
        if failure:
            failures.append(f"{task.name}.md: {failure}")
    if failures:
        raise NotebookFailed("\n\n".join(failures))
    return [task.name for task in waiting]


def _run(tasks: list[Task], settings: Settings, jobs: int) -> Iterator[tuple[Task, str, float]]:
    """Execute notebooks side by side; yields each one with its failure ("" for none) and its seconds."""
    pool = ThreadPoolExecutor(max_workers=max(jobs, 1))
    try:
        pending: dict[Future[tuple[str, float]], Task] = {
            pool.submit(_execute, task, settings): task for task in tasks
        }
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), *future.result()
    finally:  # on an interruption, do not wait for the notebooks that are running
        pool.shutdown(wait=False, cancel_futures=True)


def _execute(task: Task, settings: Settings) -> tuple[str, float]:
    """Execute one notebook in a kernel of its own and write it with its outputs."""
    task.output.unlink(missing_ok=True)  # what is there no longer holds
    task.output.parent.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        task.notebook,
        kernel_manager_class=OwnInterpreter,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(task.output.parent)}},  # the folder nbval runs it in, too
        timeout=CELL_TIMEOUT,
    )
    start = time.perf_counter()
    try:
        client.execute(env=settings.kernel_environment())
    except Exception as error:  # whatever stops the notebook, the others should still report
        return _explain(error, task.notebook), time.perf_counter() - start
    seconds = time.perf_counter() - start
    task.notebook.metadata["course"] = {"key": task.key, "seconds": round(seconds, 1)}
    write_notebook(task.output, task.notebook)
    return "", seconds


def _explain(error: Exception, notebook: NotebookNode) -> str:
    """Where and why a notebook stopped: the line of the page where the cell begins, and the traceback."""
    if not isinstance(error, CellExecutionError):
        return f"{type(error).__name__}: {error}"
    # Cells may raise on purpose; the one that stopped the run is the last one with an error.
    stopped = [
        line
        for line, cell in zip(notebook.metadata["source_map"], notebook.cells, strict=True)
        if any(output.output_type == "error" for output in cell.get("outputs", []))
    ]
    return f"the cell at line {stopped[-1]} failed\n{error}"


def _keep(task: Task) -> None:
    """Give the executed notebook the page's present prose and cell tags; its outputs stay."""
    assert task.earlier is not None
    ran = iter(cell for cell in task.earlier.cells if cell.cell_type == "code")
    for cell in task.notebook.cells:
        if cell.cell_type == "code":
            before = next(ran)
            cell.outputs, cell.execution_count = before.outputs, before.execution_count
    task.notebook.metadata = {**task.earlier.metadata, **task.notebook.metadata}
    write_notebook(task.output, task.notebook)


def _read_earlier(path: Path) -> NotebookNode | None:
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError):  # none there, or not one of ours: execute anew
        return None


def _remove_stale(settings: Settings, wanted: set[Path]) -> None:
    """Remove the executed notebooks of pages that are no longer part of the book."""
    for path in settings.executed.rglob("*.ipynb"):
        if path not in wanted:
            path.unlink()


def main() -> int:
    """Execute the notebooks of the book; the exit status says whether every cell ran."""
    try:
        execute_all(Settings(), int(os.environ.get("JOBS") or 2))
    except (NotebookFailed, FileNotFoundError) as error:
        text = str(error)
        print(text if sys.stderr.isatty() else COLOURS.sub("", text), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(130)  # the kernels notice that their parent is gone, and stop
    return 0


if __name__ == "__main__":
    sys.exit(main())
