"""Seconds for one CD-1 pass over MNIST with 500 hidden units: ours, the bare matrix products, scikit-learn.

    python benchmarks/rbm_speed.py [--threads 2] [--repeats 5] [--device cpu]

All in one process, interleaved, medians over the repeats. Every run is given the same bits in float32,
batches of 100 and plain gradient steps.

- products: only the five matrix products of a CD-1 step, into preallocated memory. No training loop on this
  machine can be faster.
- course_lib: `ContrastiveDivergence` and `fit` with fused stochastic gradient steps.
- binarised: the same with fresh bits drawn from the grey levels for every batch.
- scikit-learn: `BernoulliRBM.fit` for one iteration, which computes no pseudo-likelihood while `verbose` is
  off. It keeps the chains from batch to batch (persistent), which costs it the same five products.
"""

import argparse
from collections.abc import Callable

import sklearn
import torch
from record import interleaved_seconds, report_speed
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits

from course_lib.batches import Batches
from course_lib.contrastive_divergence import ContrastiveDivergence
from course_lib.data import Images, load_images
from course_lib.rbm import RBM
from course_lib.training import fit

BATCH, HIDDEN, LEARNING_RATE = 100, 500, 0.05


def products(images: Images, device: torch.device, steps: int) -> Callable[[], None]:
    """The products of `steps` CD-1 steps: h from data, v from h, h from v, both phases."""
    v, v_model = torch.randn(2, BATCH, images.n_pixels, device=device)
    h, h_model = torch.randn(2, BATCH, HIDDEN, device=device)
    weight = torch.randn(images.n_pixels, HIDDEN, device=device)
    statistics_out = torch.empty_like(weight)

    def run() -> None:
        for _ in range(steps):
            torch.mm(v, weight, out=h)
            torch.mm(h, weight.T, out=v_model)
            torch.mm(v_model, weight, out=h_model)
            torch.mm(v.T, h, out=statistics_out)
            torch.mm(v_model.T, h_model, out=statistics_out)

    return run


def course(images: Images, batches: Batches, steps: int) -> Callable[[], None]:
    """One pass of the course's own loop."""
    rbm = RBM(images.n_pixels, HIDDEN).to(batches.tensors[0].device)
    objective = ContrastiveDivergence(rbm)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=LEARNING_RATE, fused=True)

    def run() -> None:
        fit(objective, batches, steps, optimizer, log_every=steps, progress=False)

    return run


def scikit_learn(bits: torch.Tensor, threads: int) -> Callable[[], None]:
    """One iteration of scikit-learn's machine."""
    data = bits.cpu().numpy()
    rbm = BernoulliRBM(HIDDEN, learning_rate=LEARNING_RATE, batch_size=BATCH, n_iter=1, random_state=0)

    def run() -> None:
        with threadpool_limits(threads):
            rbm.fit(data)

    return run


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    images = load_images("mnist", device)
    bits, steps = images.evaluation("binarize", "train", seed=0), len(images.train) // BATCH
    runs = {
        "products": products(images, device, steps),
        "course_lib": course(images, Batches(bits, batch_size=BATCH), steps),
        "binarised": course(images, images.batches(BATCH, "binarize"), steps),
        "scikit-learn": scikit_learn(bits, options.threads),
    }
    times = interleaved_seconds(runs, device, options.repeats)
    work = f"one CD-1 pass over MNIST: {steps} steps of {BATCH}, {HIDDEN} hidden units"
    place = "" if device.type == "cpu" else " on the CPU"
    details = (
        ", plain gradient steps; the same bits in float32 for all but binarised; "
        f"scikit-learn {sklearn.__version__}{place} keeps its chains from batch to batch, which costs it "
        "the same products"
    )
    report_speed("rbm", times, device, ["scikit-learn"], work, details)


if __name__ == "__main__":
    main()
