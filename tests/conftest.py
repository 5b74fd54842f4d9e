"""What the unit tests share: one thread, no progress bar, the devices, and a tiny MNIST on disk."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["COURSE_PROGRESS"] = "0"
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch
from idx_files import write_tiny_mnist

torch.set_num_threads(1)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    """Every device a test must hold on."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _seed():
    """No test depends on which tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def double_precision():
    """New tensors and modules are float64, so that an oracle's last digits count."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def tiny_mnist(tmp_path):
    """A valid data set of 20 + 10 random images of 28×28, laid out as torchvision keeps MNIST."""
    return write_tiny_mnist(tmp_path / "data")
