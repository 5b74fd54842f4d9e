"""The image data sets of the course, held on the device as their native grey levels, in 8 bits."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.batches import TRANSFORMS, Batches, ZippedBatches, check_transform, sub_seed
from course_lib.labels import balanced_indices as balanced_indices  # for who looks for it here
from course_lib.labels import labelled_and_unlabelled

__all__ = ["DATASETS", "Images", "bars_and_stripes", "default_device", "load_images"]

DATASETS = ("digits", "mnist", "fashion-mnist")


def default_device(name: torch.device | str | None = None) -> torch.device:
    """The named device, else that of COURSE_DEVICE, else the GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine has no such device.
    """
    name = name or os.environ.get("COURSE_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch built without CUDA
        raise ValueError(
            f"cannot compute on device {str(name)!r} ({_one_line(error)}). Ask for another device, or set "
            "COURSE_DEVICE=cpu."
        ) from error
    return torch.device(name)


@dataclass(frozen=True)
class Images:
    """A labelled image data set held on one device.

    Attributes:
        name: the data set's name.
        shape: height and width in pixels.
        n_levels: number of grey levels of the original images: 17 for the digits, 256 for MNIST.
        train: native grey levels 0 … n_levels − 1 as uint8, shape (N, height · width).
        train_labels: int64, shape (N,).
        test: likewise, shape (M, height · width).
        test_labels: int64, shape (M,).
    """

    name: str
    shape: tuple[int, int]
    n_levels: int
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def n_pixels(self) -> int:
        """Height times width."""
        return self.shape[0] * self.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.train.device

    def batches(
        self, batch_size: int = 100, transform: str | None = "binarize", labels: bool = False, seed: int = 0
    ) -> Batches:
        """An endless stream of training batches of shape (batch_size, n_pixels), with labels if asked.

        Args:
            batch_size: images per batch.
            transform: "binarize" (bits with p(1) = level / (n_levels − 1), drawn afresh each time),
                "dequantize" ((level + u) / n_levels with u uniform on [0, 1)) or None (level /
                (n_levels − 1), in [0, 1]).
            labels: yield pairs (images, labels).
            seed: of the order and the noise.
        """
        tensors = (self.train, self.train_labels) if labels else (self.train,)
        return Batches(
            *tensors, batch_size=batch_size, transform=transform, seed=seed, n_levels=self.n_levels
        )

    def semi_supervised_batches(
        self, indices: Tensor, batch_size: int = 100, transform: str | None = "binarize", seed: int = 0
    ) -> ZippedBatches:
        """An endless stream of ((images, labels), images without labels), for `SemiSupervisedObjective`.

        The images without labels are drawn from the whole training set, those with labels among them.

        Args:
            indices: of the training images whose labels may be used, as `balanced_indices` gives them.
            batch_size: images without labels in a batch; of those with labels as many, or all if they are
                fewer.
            transform: as in `batches`.
            seed: of the orders and the noise.

        Raises:
            ValueError: an index occurs twice or names no image, or a class has no labelled image.
        """
        return labelled_and_unlabelled(
            self.train, self.train_labels, indices, batch_size, transform, seed, self.n_levels
        )

    def evaluation(self, transform: str | None = "binarize", split: str = "test", seed: int = 0) -> Tensor:
        """A whole split, transformed once: a seed names the same images in every run and on every device.

        The noise is therefore drawn on the CPU, whose generator gives the same numbers everywhere.

        Args:
            transform: as in `batches`.
            split: "train" or "test".
            seed: of the noise.
        """
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        pixels = self.train if split == "train" else self.test
        check_transform(transform, pixels, self.n_levels)
        noise = torch.Generator("cpu").manual_seed(sub_seed(seed, "evaluation"))
        return TRANSFORMS[transform](pixels.cpu(), noise, self.n_levels).to(self.device)


def load_images(
    name: str | None = None, device: torch.device | str | None = None, data_dir: str | Path | None = None
) -> Images:
    """Load a data set once, as 8-bit integers on the device.

    Args:
        name: "digits" (1,797 handwritten 8×8 digits with 17 grey levels that come with scikit-learn; 1,500
            to train, 297 to test, a fixed random split), "mnist" or "fashion-mnist" (60,000 + 10,000 of
            28×28 with 256 levels). None means the environment variable COURSE_DATASET, else "digits".
        device: None means `default_device()`.
        data_dir: folder of the downloaded sets, in torchvision's layout; None means COURSE_DATA_DIR, else
            ~/.cache/course_lib. What is missing there is downloaded.

    Raises:
        ValueError: unknown name, a file that is damaged, or a device this machine lacks.
        ConnectionError: the set is not on disk and could not be downloaded.
    """
    name = name or os.environ.get("COURSE_DATASET") or "digits"
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; COURSE_DATASET and name may be one of {list(DATASETS)}")
    if name == "digits":
        splits, n_levels = _digits(), 17
    else:
        folder = data_dir or os.environ.get("COURSE_DATA_DIR") or Path.home() / ".cache" / "course_lib"
        splits, n_levels = _torchvision_images(name, Path(folder)), 256
    device = default_device(device)
    height, width = splits[0].shape[1:]
    train, train_labels, test, test_labels = (split.to(device) for split in splits)
    return Images(
        name, (height, width), n_levels, train.flatten(1), train_labels, test.flatten(1), test_labels
    )


def bars_and_stripes(side: int) -> Tensor:
    """The patterns of bars and stripes: a square whose rows, or whose columns, are each on or off.

    To draw from it, choose a row of the result at random: first a coin decides between bars and stripes, then
    one coin a line. So the blank and the full square occur twice, and every other pattern once.

    Args:
        side: pixels along one side, at least 1.

    Returns:
        float bits, shape (2 · 2^side, side²).

    Source:
        MacKay (2003), section 43.1.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1 pixel, got {side}")
    lines = torch.arange(2**side)[:, None] >> torch.arange(side) & 1
    stripes = lines[:, :, None].expand(-1, side, side)
    return torch.cat([stripes, stripes.mT]).flatten(1).float()


def _digits() -> tuple[Tensor, ...]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))  # the file is sorted by writer
    pixels = torch.from_numpy(bunch.images[order].astype(np.uint8))  # the levels 0 … 16, stored as floats
    labels = torch.from_numpy(bunch.target[order]).long()
    return pixels[:1500], labels[:1500], pixels[1500:], labels[1500:]


def _torchvision_images(name: str, folder: Path) -> tuple[Tensor, ...]:
    from torchvision import datasets  # slow to import, so only when it is needed

    dataset = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST}[name]
    raw = folder / dataset.__name__ / "raw"
    if not all((raw / Path(filename).stem).is_file() for filename, _ in dataset.resources):
        _download(dataset, name, folder)
    try:
        train, test = (dataset(str(folder), train=train, download=False) for train in (True, False))
        splits = train.data, train.targets, test.data, test.targets
        if not (len(train.data) == len(train.targets) and len(test.data) == len(test.targets)):
            raise ValueError("images and labels differ in number")
    except Exception as error:  # torchvision raises anything from AssertionError to struct.error here
        raise ValueError(
            f"the {name} files in {raw} are damaged ({type(error).__name__}: {_one_line(error)}). Delete "
            "that folder and load again to download it, or copy the four original files there."
        ) from error
    return splits


def _download(dataset: Any, name: str, folder: Path) -> None:
    """Download beside the target and move into place only what is complete."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as partial:
            dataset(partial, download=True)
            target = folder / dataset.__name__
            shutil.rmtree(target, ignore_errors=True)
            (Path(partial) / dataset.__name__).rename(target)
    except PermissionError as error:
        raise PermissionError(
            f"cannot write to {folder}, where {name} was to be downloaded. Set COURSE_DATA_DIR to a folder "
            "you can write to, or to one that already holds the files."
        ) from error
    except (RuntimeError, OSError) as error:
        raise ConnectionError(
            f"{name} is not in {folder} and could not be downloaded ({_one_line(error)}). Check the network, "
            "or set COURSE_DATA_DIR to a folder that holds it, or use COURSE_DATASET=digits: it needs none."
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
