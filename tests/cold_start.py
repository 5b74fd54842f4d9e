"""A cold start: a new environment that knows nothing of this repository, and a site on this machine."""

import importlib.metadata
import json
import subprocess
import threading
import venv
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{service.server_port}"
        service.shutdown()


def collect(requirement: Requirement, found: dict[str, importlib.metadata.Distribution]) -> None:
    """Add the distribution that ``requirement`` names, and all that it requires in turn, to ``found``."""
    name = str(canonicalize_name(requirement.name) + "".join(sorted(requirement.extras)))
    if name in found:
        return
    found[name] = distribution = importlib.metadata.distribution(requirement.name)
    for further in map(Requirement, distribution.requires or []):
        if is_asked_for(further, requirement.extras):
            collect(further, found)


def is_asked_for(requirement: Requirement, extras: Iterable[str] = ()) -> bool:
    """Whether a requirement holds on this machine, with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def new_environment(folder: Path, wheel: Path, *others: str) -> Path:
    """The python of a new environment: what ``wheel`` requires, a kernel, pip and others, but not the wheel.

    Nothing is downloaded: the packages are links to those of this environment. PIP_NO_INDEX must be set for
    whatever runs there, so that pip never replaces one of them.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    needed = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    found: dict[str, importlib.metadata.Distribution] = {}
    for requirement in [*filter(is_asked_for, needed), *map(Requirement, ("ipykernel", "pip", *others))]:
        collect(requirement, found)
    for distribution in found.values():
        tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
        for top in tops:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())
    return python


def run_in(python: Path, notebook: nbformat.NotebookNode, folder: Path, **variables: str) -> list[str]:
    """Run a notebook with another python in ``folder``, and return what each cell printed."""
    folder.mkdir(parents=True, exist_ok=True)
    home = folder.parent / f"{folder.name}-home"
    spec = home / "kernels" / "cold"
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "cold", "language": "python"})
    )
    specs = KernelSpecManager(kernel_dirs=[str(home / "kernels")], ensure_native_kernel=False)
    manager = AsyncKernelManager(kernel_name="cold", kernel_spec_manager=specs)
    bare = {
        "HOME": str(home),
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "PIP_NO_INDEX": "1",
        "TQDM_DISABLE": "1",
    }
    client = NotebookClient(notebook, km=manager, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**bare, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **variables})
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in code]


def wheel_again(name: str, folder: Path) -> None:
    """Zip an installed pure-Python package into a wheel from which pip can install it elsewhere."""
    distribution = importlib.metadata.distribution(name)
    file = f"{name.replace('-', '_')}-{distribution.version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / file, "w") as archive:
        for path in distribution.files or []:
            if ".." not in path.parts and "__pycache__" not in path.parts:
                archive.write(Path(str(distribution.locate_file(path))), path.as_posix())
