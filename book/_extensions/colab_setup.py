"""The wheel that a site publishes, and the first cell of its notebooks, which installs exactly that wheel.

A version number alone would not do: a site rebuilt from changed sources keeps its version. So the cell
compares the content of the installed package with the content of the wheel.
"""

import hashlib
import inspect
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import NamedTuple


def package_digest(folder: Path) -> str:
    """A digest of every file of a package, by content and name."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "__pycache__" not in name and not path.name.startswith("."):
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class Wheel(NamedTuple):
    """A built wheel: its file name and version, the digest of the package inside, and its own SHA-256."""

    name: str
    version: str
    digest: str
    sha256: str


def build_wheel(project: Path, folder: Path) -> Wheel:
    """Build the wheel of ``project`` into ``folder``, in place of older ones, without network.

    Raises:
        RuntimeError: the build failed; the message carries its last lines.
    """
    for old in folder.glob("course_lib-*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    built = sorted(folder.glob("course_lib-*.whl"))
    if done.returncode or len(built) != 1:
        raise RuntimeError(f"the wheel of {project} was not built: {(done.stdout + done.stderr)[-2000:]}")
    return read_wheel(built[0])


def read_wheel(path: Path) -> Wheel:
    """What the first cell must know about the wheel at ``path``."""
    with TemporaryDirectory() as unpacked, zipfile.ZipFile(path) as archive:
        archive.extractall(unpacked)
        digest = package_digest(Path(unpacked, "course_lib"))
    return Wheel(path.name, path.name.split("-")[1], digest, hashlib.sha256(path.read_bytes()).hexdigest())


_HEAD = """
# @title Run this cell first: it prepares the course library
import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path

VERSION = "{version}"
DIGEST = "{digest}"  # of the course_lib that this page was built and checked with


{package_digest}

def installed_digest():
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.split(".")[0] == "course_lib"]:
        del sys.modules[name]
    package = importlib.util.find_spec("course_lib")
    return package and package_digest(Path(package.origin).parent)


"""

_INSTALL = """
WHEEL = "{url}#sha256={sha256}"
if installed_digest() != DIGEST:
    %pip install --quiet "{{WHEEL}}"
if installed_digest() != DIGEST:  # the same version with another content was there: replace it
    %pip install --quiet --force-reinstall --no-deps "{{WHEEL}}"
if installed_digest() != DIGEST:
    raise ImportError(f"course_lib {{VERSION}} was not installed from {{WHEEL}}: see pip's message above")
"""

_EXPLAIN = """
found = installed_digest()
if found is None:
    raise ModuleNotFoundError(
        f"This notebook needs course_lib {{VERSION}}. Install the wheel published with it, "
        "pip install wheels/{name} from the site's folder, and run this cell again."
    )
if found != DIGEST:
    print("Your course_lib is not the build that this page was checked with; results may differ.")
"""

_CHOOSE = """
import torch

import course_lib

os.environ.setdefault("COURSE_DATASET", "mnist")
os.environ.setdefault("COURSE_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
dataset, device = os.environ["COURSE_DATASET"], os.environ["COURSE_DEVICE"]
print(f"course_lib {{VERSION}} · data set {{dataset}} · device {{device}}")
"""


def setup_cell(wheel: Wheel, site_url: str = "") -> str:
    """The source of the first cell: install the site's wheel unless it is there, choose data and device.

    Without ``site_url`` there is nowhere to install from, and the cell says what is missing instead.
    """
    template = _HEAD.lstrip() + (_INSTALL if site_url else _EXPLAIN).lstrip() + _CHOOSE.rstrip()
    return template.format(
        **wheel._asdict(),
        url=f"{site_url}/wheels/{wheel.name}",
        package_digest=dedent(inspect.getsource(package_digest)),
    )
