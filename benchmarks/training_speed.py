"""Seconds for one pass over MNIST with a 784-400-50 VAE: ours, the bare matrix products, the usual idiom.

    python benchmarks/training_speed.py [--threads 2] [--repeats 5] [--device cpu]

All in one process, interleaved, medians over the repeats:

- products: only the matrix products of the forward and backward pass, into preallocated memory. No
  training loop on this machine can be faster.
- course_lib: images as uint8 on the device, `fit` with fused Adam.
- binarised: the same with fresh bits drawn for every batch.
- idiom: a DataLoader over torchvision's MNIST with ToTensor, and Adam as its documentation shows it.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from record import interleaved_seconds, report_speed
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from course_lib.bounds import NegativeElbo
from course_lib.data import load_images
from course_lib.training import fit
from course_lib.vae import BernoulliVAE

BATCH, PIXELS, HIDDEN, LATENTS = 128, 784, 400, 50


def products(layers: Sequence[tuple[int, int, int]], device: torch.device, steps: int) -> Callable[[], None]:
    """The matrix products of `steps` training steps: each layer's output, weight and input gradients.

    Args:
        layers: rows, inputs and outputs of each; the first one sees the images.
        device: where.
        steps: how many.
    """
    tensors = []
    for rows, n_in, n_out in layers:
        shapes = (rows, n_in), (n_in, n_out), (rows, n_out), (n_in, n_out), (rows, n_in)
        tensors.append([torch.randn(shape, device=device) for shape in shapes])

    def run() -> None:
        for _ in range(steps):
            for index, (x, weight, y, grad_weight, grad_x) in enumerate(tensors):
                torch.mm(x, weight, out=y)
                torch.mm(x.T, y, out=grad_weight)
                if index > 0:  # nobody needs the gradient with respect to the images
                    torch.mm(y, weight.T, out=grad_x)

    return run


def course(device: torch.device, steps: int, transform: str | None) -> Callable[[], None]:
    """One pass of the course's own loop."""
    images = load_images("mnist", device)
    objective = NegativeElbo(BernoulliVAE(PIXELS, LATENTS, (HIDDEN,), nn.Softplus).to(device))
    batches = images.batches(BATCH, transform)
    return lambda: void(fit(objective, batches, steps, log_every=steps, progress=False))


def idiom(device: torch.device, steps: int) -> Callable[[], None]:
    """One pass of the loop most examples show."""
    import os

    root = os.environ.get("COURSE_DATA_DIR", "data")
    loader = DataLoader(
        MNIST(root, transform=transforms.ToTensor()), batch_size=BATCH, shuffle=True, drop_last=True
    )
    objective = NegativeElbo(BernoulliVAE(PIXELS, LATENTS, (HIDDEN,), nn.Softplus).to(device))
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)

    def run() -> None:
        total = 0.0
        for images, _labels in loader:
            optimizer.zero_grad()
            loss = objective(images.to(device).flatten(1))
            loss.backward()
            optimizer.step()
            total += loss.item()

    return run


def void(_: object) -> None:
    """Drop a value."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    device, steps = torch.device(options.device), 60_000 // BATCH
    widths = [(PIXELS, HIDDEN), (HIDDEN, LATENTS), (HIDDEN, LATENTS), (LATENTS, HIDDEN), (HIDDEN, PIXELS)]
    runs = {
        "products": products([(BATCH, *width) for width in widths], device, steps),
        "course_lib": course(device, steps, None),
        "binarised": course(device, steps, "binarize"),
        "idiom": idiom(device, steps),
    }
    times = interleaved_seconds(runs, device, options.repeats)
    work = f"one pass over MNIST: {steps} steps of {BATCH}, 784-400-50 softplus VAE"
    report_speed("vae", times, device, ["idiom"], work, "")


if __name__ == "__main__":
    main()
