"""Where things are, and what a run of the book depends on outside the repository."""

import os
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FIXED_VARIABLES", "ROOT", "Settings"]

ROOT = Path(__file__).resolve().parent.parent

# One thread a kernel: two kernels run side by side on two cores, and the number of threads changes the
# last digits of a training run, which would make a second execution print something else. Progress bars
# are silenced for the same reason: what they print depends on the clock.
FIXED_VARIABLES = {
    "COURSE_PROGRESS": "0",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "TQDM_DISABLE": "1",
}


def _variable(name: str, default: str = "") -> str:
    """An environment variable, with an empty value counted as absent."""
    return os.environ.get(name) or default


@dataclass(frozen=True)
class Settings:
    """One way to run the book: the repository's folder, the data set, the device.

    Attributes:
        root: the repository's folder.
        dataset: COURSE_DATASET, "digits" by default.
        data_dir: COURSE_DATA_DIR as an absolute path, or "" where the data set needs no files.
        device: COURSE_DEVICE, or "" for the default device.
    """

    root: Path = ROOT
    dataset: str = field(default_factory=lambda: _variable("COURSE_DATASET", "digits"))
    data_dir: str = field(default_factory=lambda: _variable("COURSE_DATA_DIR"))
    device: str = field(default_factory=lambda: _variable("COURSE_DEVICE"))

    def __post_init__(self) -> None:
        """Make the data folder absolute: a kernel does not run in the folder where make was called."""
        if self.data_dir:
            object.__setattr__(self, "data_dir", str(Path(self.data_dir).absolute()))

    @property
    def build(self) -> Path:
        """The folder of everything generated."""
        return self.root / "_build"

    @property
    def executed(self) -> Path:
        """The folder of the executed notebooks of this data set."""
        return self.build / "executed" / self.dataset

    @property
    def html(self) -> Path:
        """The folder of the built site."""
        return self.build / "html"

    def variables(self) -> dict[str, str]:
        """The environment variables that a kernel and a test must see to give the same numbers."""
        chosen = {
            "COURSE_ROOT": str(self.root),
            "COURSE_DATASET": self.dataset,
            "COURSE_DATA_DIR": self.data_dir,
            "COURSE_DEVICE": self.device,
        }
        return FIXED_VARIABLES | {name: value for name, value in chosen.items() if value}

    def kernel_environment(self) -> dict[str, str]:
        """The whole environment of a kernel."""
        inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        return inherited | self.variables()  # without MPLBACKEND the kernel draws figures inline
