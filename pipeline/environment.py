"""Create `.venv` and install the course into it; `make` runs this with the interpreter it has chosen.

    PYTHON pipeline/environment.py [--reuse]

Only the standard library is used: nothing is installed yet. With --reuse, `.venv` also sees the packages of
the interpreter's own environment, and its torch (with the CUDA packages that belong to it) is used as it is.
That environment itself is only read.
"""

import argparse
import json
import os
import re
import site
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["main", "reusing_constraints"]

ROOT = Path(__file__).resolve().parent.parent
# The packages that come as one with a build of torch: all are taken from the reused environment or none.
TORCH_FAMILY = re.compile(r"(torch|torchvision|triton|nvidia|cuda)(-|$)")
# Tools that are programs rather than modules: Python does not find them in another environment's folder.
PROGRAMS = ("ruff",)


def reusing_constraints(lines: Iterable[str], installed: dict[str, str]) -> list[str]:
    """The locked versions, changed so that pip accepts the torch that is already installed.

    Args:
        lines: `name==version` lines.
        installed: the versions of the packages of the reused environment, by normalised name.
    Returns:
        the lines unchanged if torch is not among the installed; else without the lines of torch's family, and
        with that family's installed versions in their place.
    """
    if "torch" not in installed:
        return list(lines)
    kept = [line for line in lines if not TORCH_FAMILY.match(_normalised(re.split(r"[=<>!~ ;\[]", line)[0]))]
    present = [f"{name}=={version}" for name, version in installed.items() if TORCH_FAMILY.match(name)]
    return kept + sorted(present)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _installed() -> dict[str, str]:
    """The packages that this interpreter sees, by normalised name; the first found is the one imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(_normalised(name), distribution.version)
    return found


def _package_folders() -> list[str]:
    """The folders this interpreter imports packages from."""
    folders = site.getsitepackages() + ([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])
    return [folder for folder in folders if Path(folder).is_dir()]


def _create(venv: Path, reuse: bool) -> None:
    """Create an empty virtual environment, whatever was there before."""
    status = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)]).returncode
    if status:
        raise SystemExit(
            f"{sys.executable} cannot create a virtual environment in {venv} (see above). "
            "On Debian and Ubuntu install the package python3-venv, or choose another interpreter: "
            "make PYTHON=/path/to/python"
        )
    if reuse:
        # addsitedir, unlike a plain path, also honours the .pth files of that environment.
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in _package_folders()]
        (own,) = venv.glob("lib/python*/site-packages")
        (own / "zz_reused_environment.pth").write_text("".join(lines))


def _install(venv: Path, reuse: bool) -> None:
    """Install the course and its tools, in the versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = venv / "constraints.txt"
    constraints.write_text("\n".join(reusing_constraints(lines, _installed()) if reuse else lines) + "\n")
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
    pip += ["--constraint", str(constraints)]
    # The build backend comes first, in its locked version, because the course is built with it in place.
    steps = [["hatchling", "editables"], ["--no-build-isolation", "--editable", f"{ROOT}[book,test]"]]
    if reuse:
        steps.append(["--ignore-installed", "--no-deps", *PROGRAMS])
    for arguments in steps:
        status = subprocess.run([*pip, *arguments], cwd=ROOT).returncode
        if status:
            raise SystemExit(
                f"pip could not install the course (see above); run make again to retry ({status})"
            )


def main(arguments: list[str] | None = None) -> None:
    """Create or update `.venv`; its stamp is written last, so an interrupted installation starts afresh."""
    parser = argparse.ArgumentParser(description="Create .venv and install the course into it.")
    parser.add_argument("--reuse", action="store_true", help="also see this interpreter's own packages")
    reuse = parser.parse_args(arguments).reuse
    venv = ROOT / ".venv"
    stamp = venv / "installed.json"
    wanted = {"interpreter": sys.executable, "reuse": reuse}
    finished = stamp.is_file() and json.loads(stamp.read_text()) == wanted
    stamp.unlink(missing_ok=True)
    if not finished:
        _create(venv, reuse)
    _install(venv, reuse)
    unfinished = stamp.with_suffix(".part")
    unfinished.write_text(json.dumps(wanted))
    os.replace(unfinished, stamp)


if __name__ == "__main__":
    main()
