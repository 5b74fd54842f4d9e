"""The wheel that a site publishes, and the first cell of every notebook, which installs exactly that wheel.

A version number alone would not do: a site rebuilt from changed sources keeps its version. So the cell
compares the content of the installed package with the content of the wheel.
"""

import hashlib
import inspect
import zipfile
from importlib.metadata import requires
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import NamedTuple

__all__ = ["Wheel", "find_wheel", "package_digest", "problem_set_cell", "setup_cell"]

__all__ = ["Wheel", "find_wheel", "package_digest", "problem_set_cell", "setup_cell"]


def package_digest(folder: Path) -> str:
    """A digest of every file of a package, by content and name."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=Path.as_posix):
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


def find_wheel(folder: Path) -> Wheel:
    """What the first cell must know about the one wheel of course_lib in ``folder``.

    Raises:
        FileNotFoundError: there is none, or more than one.
    """
    wheels = sorted(folder.glob("course_lib-*.whl"))
    if len(wheels) != 1:
        found = ", ".join(wheel.name for wheel in wheels) or "none"
        raise FileNotFoundError(f"{folder} must hold one wheel of course_lib, found {found}: run make book")
    path = wheels[0]
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
# The content of the course_lib that this page was built and checked with
DIGEST = "{digest}"


{package_digest}

def installed_digest():
    importlib.invalidate_caches()
    package = importlib.util.find_spec("course_lib")
    return package_digest(Path(package.origin).parent) if package and package.origin else None


"""

_INSTALL = """
WHEEL = "{source}"
if installed_digest() != DIGEST:
    %pip install --quiet "{{WHEEL}}"
    if installed_digest() != DIGEST:  # pip found the same version, but with another content
        %pip install --quiet --force-reinstall --no-deps "{{WHEEL}}"
    for name in [name for name in sys.modules if name.split(".")[0] == "course_lib"]:
        del sys.modules[name]  # what was imported before is of the past
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

dataset = os.environ["COURSE_DATASET"] = os.environ.get("COURSE_DATASET") or "mnist"
fastest = "cuda" if torch.cuda.is_available() else "cpu"
device = os.environ["COURSE_DEVICE"] = os.environ.get("COURSE_DEVICE") or fastest
quoted = "" if dataset == "{dataset}" else " (the text quotes a run on {dataset})"
print(f"course_lib {{VERSION}} · data set {{dataset}}{{quoted}} · device {{device}}")
"""

_KIT = """
TESTS = Path("{tests}")
TESTS_DIGEST = "{tests_digest}"


def kit_is_here():
    wheel = Path("{name}")
    published = wheel.is_file() and hashlib.sha256(wheel.read_bytes()).hexdigest() == "{sha256}"
    library = published or installed_digest() == DIGEST
    return library and TESTS.is_dir() and package_digest(TESTS) == TESTS_DIGEST


"""

_FETCH = """
if not kit_is_here():
    import io
    import urllib.request
    import zipfile

    with urllib.request.urlopen("{kit_url}") as answer:
        kit = zipfile.ZipFile(io.BytesIO(answer.read()))
    kit.extractall(members=[name for name in kit.namelist() if not name.endswith(".ipynb")])
if not kit_is_here():
    raise RuntimeError("{kit_url} belongs to another version of this notebook: download the notebook again.")
"""

_UNPACK = """
if not kit_is_here():
    raise FileNotFoundError(
        f"{{TESTS}} or {name} is not beside this notebook, or of another version. Unpack the whole archive "
        "that the notebook came in, and run this cell again in its folder."
    )
"""

_OTTER = """
if importlib.util.find_spec("otter") is None:
    %pip install --quiet "{otter}"
print(f"Ready: course_lib {{VERSION}}, otter-grader and the public tests")
"""


def setup_cell(wheel: Wheel, dataset: str, site_url: str = "") -> str:
    """The source of the first cell: install the site's wheel unless it is there, choose data and device.

    Args:
        wheel: the published wheel.
        dataset: the data set of the run that the page's text quotes. The reader's own default is MNIST.
        site_url: the site's address; without it there is nowhere to install from, and the cell says what
            is missing instead.
    """
    template = _HEAD.lstrip() + (_INSTALL if site_url else _EXPLAIN).lstrip() + _CHOOSE.rstrip()
    return template.format(
        **wheel._asdict(),
        dataset=dataset,
        source=f"{site_url}/wheels/{wheel.name}#sha256={wheel.sha256}",
        package_digest=dedent(inspect.getsource(package_digest)),
    )


def problem_set_cell(wheel: Wheel, tests: Path, kit_url: str = "") -> str:
    """The first cell of a problem set's notebook: the library, otter-grader and the public tests.

    Args:
        wheel: of the library, as it lies in the set's kit, the archive that also holds the tests.
        tests: the folder of the public tests; it keeps its name.
        kit_url: where the kit will be published; "" where it is handed out, and lies beside the notebook.
    """
    template = _HEAD + _KIT + (_FETCH if kit_url else _UNPACK) + _INSTALL + _OTTER
    otter = next(line for line in requires("course-lib") or [] if line.startswith("otter-grader"))
    return (
        template.replace("\n\n\n\n", "\n\n\n")
        .strip()
        .format(
            **wheel._asdict(),
            source=wheel.name,
            tests=tests.name,
            tests_digest=package_digest(tests),
            kit_url=kit_url,
            otter=otter.split(";")[0].strip(),
            package_digest=dedent(inspect.getsource(package_digest)),
        )
    )
