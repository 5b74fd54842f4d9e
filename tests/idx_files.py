"""Image files in the IDX format of MNIST, written by the tests that damage or serve them."""

import struct
from pathlib import Path

import numpy as np

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write an array of unsigned bytes: the type and number of axes, their big-endian lengths, the bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_tiny_mnist(folder: Path) -> Path:
    """Write 20 + 10 random images of 28×28 with labels, in the folders torchvision keeps MNIST in."""
    raw, random = folder / "MNIST" / "raw", np.random.RandomState(0)
    raw.mkdir(parents=True)
    for name, size in zip(FILES, (20, 20, 10, 10), strict=True):
        values = random.randint(0, 256, (size, 28, 28)) if "images" in name else random.randint(0, 10, size)
        write_idx(raw / name, values)
    return folder
