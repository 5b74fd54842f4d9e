"""Grade a class: `python -m course_lib.grading submissions/ --autograder ps1.zip --jobs 4`.

The one notebook of every submission in the folder is graded by `otter run`, in a process and a temporary
folder of its own. Each grade is kept at once: an interrupted run goes on where it stopped, and a submission
that breaks everything loses only its own points. What could not be graded is tried again by the next run. At
the end there is one CSV with a row a student, by name, and one feedback file each.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from course_lib.collecting import Submission, cleaned, collect
from course_lib.feedback import file_name, messages, write_class
from course_lib.progress import progress_bar

__all__ = ["grade_class", "grade_one", "main"]

SECONDS, MEMORY = 900.0, 4.0


class _Processes:
    """Those that are running, with all that they have started, so that an interruption can end them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        with self._lock:
            if self.stopped:
                raise RuntimeError("interrupted")
            process = subprocess.Popen(command, start_new_session=True, **options)
            self._running.add(process)
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it and its descendants: a notebook's process is a session of its own, and would go on."""
        import psutil  # type: ignore[import-untyped]

        try:
            parent = psutil.Process(process.pid)
            family = [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()
        with self._lock:
            self._running.discard(process)

    def end_all(self) -> None:
        with self._lock:
            self.stopped = True
            running = list(self._running)
        for process in running:
            self.end(process)


def grade_one(
    notebook: bytes,
    autograder: Path,
    seconds: float = SECONDS,
    memory: float = MEMORY,
    processes: _Processes | None = None,
) -> dict[str, Any]:
    """Grade one notebook with `otter run`; whatever happens, a result: points and messages, or an error.

    Args:
        notebook: as it was handed in.
        autograder: the archive that `make assignments` wrote.
        seconds: after which it is given up.
        memory: GiB that it may take beyond what the library itself needs.
        processes: keeps the running process; None makes one.
    """
    processes = processes or _Processes()
    with tempfile.TemporaryDirectory(prefix="grading-", ignore_cleanup_errors=True) as folder:
        try:
            text = cleaned(notebook)
        except Exception as error:  # whatever a file can be that is no notebook
            return {"error": f"this is no notebook, or a damaged one ({type(error).__name__}: {error})"[:300]}
        submission = Path(folder, "submission.ipynb")
        submission.write_text(text, encoding="utf-8", errors="replace")
        command = [sys.executable, "-m", "otter", "run", "-a", str(autograder.resolve())]
        command += ["-o", folder, str(submission)]
        # One thread each, no accelerator: a score must not depend on the machine.
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "COURSE_PROGRESS": "0",
            "GRADING_MEMORY": str(memory),
            # What it leaves behind goes with the folder, and is not read by the next one.
            "TMPDIR": folder,
            "IPYTHONDIR": str(Path(folder, "ipython")),
            "JUPYTER_RUNTIME_DIR": str(Path(folder, "jupyter")),
        }
        said = Path(folder, "stderr")
        with said.open("wb") as stderr:
            process = processes.start(
                command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=stderr
            )
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return {
                "error": f"stopped after {seconds:g} s: it does not end, perhaps in one call of a compiled "
                "function, which no limit of a cell interrupts. Read it, or give more --seconds"
            }
        finally:
            processes.end(process)
        results = Path(folder, "results.json")
        if not results.is_file():
            return {"error": _reason(said)}
        tests = json.loads(results.read_text())["tests"]
    scored = [test for test in tests if test.get("max_score") is not None]
    if not scored:
        return {
            "error": " ".join(str(test.get("output", "")) for test in tests).split("\n")[0] or "no test ran"
        }
    return {
        "questions": {test["name"]: [test.get("score", 0), test["max_score"]] for test in scored},
        "messages": {test["name"]: messages(test.get("output", "")) for test in scored},
    }


def _reason(said: Path) -> str:
    """The last line of what otter-grader said, or what it means."""
    with said.open("rb") as file:
        file.seek(max(0, said.stat().st_size - 10_000))
        lines = file.read().decode(errors="replace").strip().splitlines() or ["otter run wrote no result"]
    if "DeadKernelError" in lines[-1] or "Kernel died" in lines[-1]:
        return "its process died: out of memory, or it ended itself"
    return lines[-1][:300]


def grade_class(
    folder: Path,
    autograder: Path,
    out: Path,
    jobs: int = 2,
    seconds: float = SECONDS,
    memory: float = MEMORY,
) -> list[dict[str, Any]]:
    """Grade all submissions of a folder, those only whose grade is not there yet.

    Args:
        folder: of the submissions.
        autograder: the archive that `make assignments` wrote.
        out: folder for `grades.csv`, `feedback/` and what a resumed run reads.
        jobs: submissions graded at a time.
        seconds: after which a submission is given up.
        memory: GiB that each may take beyond what the library itself needs.

    Returns:
        the rows of the CSV, by name.

    Raises:
        ValueError: there is no such folder or archive, or `out` lies among the submissions.
    """
    if not autograder.is_file():
        raise ValueError(f"{autograder} is no file; `make assignments` writes the autograder archives")
    if folder.resolve() in [out.resolve(), *out.resolve().parents]:
        raise ValueError(f"{out} lies among the submissions: choose a folder outside {folder}")
    found = collect(folder)
    (out / "results").mkdir(parents=True, exist_ok=True)
    archive = hashlib.sha256(autograder.read_bytes())
    processes = _Processes()

    def grade(submission: Submission) -> dict[str, Any]:
        if submission.notebook is None:
            return {"error": submission.error}
        digest = archive.copy()
        digest.update(submission.notebook)
        kept = out / "results" / f"{file_name(submission.student)}.json"
        old = _kept(kept)
        if old.get("key") == digest.hexdigest() and "questions" in old:
            return old
        result = grade_one(submission.notebook, autograder, seconds, memory, processes)
        if "questions" in result:  # an error may be another tomorrow, with more time or memory
            partial = kept.with_suffix(".partial")
            partial.write_text(json.dumps(result | {"key": digest.hexdigest()}))
            os.replace(partial, kept)
        return result

    graded = {}
    with ThreadPoolExecutor(jobs) as pool, progress_bar(len(found), "submission", True, 0) as bar:
        try:
            for submission, result in zip(found, pool.map(grade, found), strict=True):
                graded[submission.student] = result
                bar.update(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end_all()
            raise
    return write_class(graded, out)


def _kept(path: Path) -> dict[str, Any]:
    """An earlier result; nothing if there is none that can be read."""
    try:
        old = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return old if isinstance(old, dict) else {}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.grading", description=__doc__)
    parser.add_argument("submissions", type=Path)
    parser.add_argument("--autograder", type=Path, required=True, help="archive of `make assignments`")
    parser.add_argument("--out", type=Path, default=Path("graded"))
    parser.add_argument("--jobs", type=int, default=2, help="submissions graded at a time")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which one is given up")
    parser.add_argument("--memory", type=float, default=MEMORY, help="GiB for one, beside the library's own")
    options = parser.parse_args()
    try:
        rows = grade_class(
            options.submissions,
            options.autograder,
            options.out,
            options.jobs,
            options.seconds,
            options.memory,
        )
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        done = len(list((options.out / "results").glob("*.json")))
        print(f"\nstopped; {done} grades are kept in {options.out}: the same command goes on from there")
        sys.exit(130)
    failed = [row["student"] for row in rows if row["error"]]
    print(f"{len(rows)} submissions, {len(failed)} with an error; {options.out / 'grades.csv'}")


if __name__ == "__main__":
    main()
