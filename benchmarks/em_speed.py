"""Seconds for one iteration of EM with 100,000 points, 16 dimensions, 32 full covariances.

    python benchmarks/em_speed.py [--threads 2] [--repeats 5] [--device cpu]

All in one process, interleaved, medians over the repeats, in float64, from the same parameters.

- products: only the matrix products of an iteration, by the same blocks of examples into preallocated
  memory: for every component the whitened data and the scatter matrix. No loop on this machine that is built
  on them can be faster.
- course_lib: `fit_em` of a `GaussianMixture`.
- scikit-learn: `fit` of its `GaussianMixture`.

Both are timed for six iterations and for one, and a fifth of the difference is the time of an iteration: what
a fit does once, such as looking at the data, cancels. On a GPU scikit-learn still computes on the CPU.
"""

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import sklearn
import torch
from record import interleaved_seconds, report_speed
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Oracle
from threadpoolctl import threadpool_limits

from course_lib.em import fit_em
from course_lib.gaussian_mixture import GaussianMixture

N, D, C, ITERATIONS = 100_000, 16, 32, 5  # five more than one


def clouds(generator: torch.Generator) -> torch.Tensor:
    """Points of overlapping clouds, each with a covariance of its own; float64, shape (N, D)."""
    centres = 2 * torch.randn(C, D, dtype=torch.float64, generator=generator)
    roots = torch.randn(C, D, D, dtype=torch.float64, generator=generator) / D**0.5
    labels = torch.randint(C, (N,), generator=generator)
    noise = torch.randn(N, D, dtype=torch.float64, generator=generator)
    return centres[labels] + torch.einsum("nij,nj->ni", roots[labels], noise)


def products(x: torch.Tensor, model: GaussianMixture) -> Callable[[], None]:
    """Whitening and scatter of every block of examples, for all components."""
    n = max(model.CHUNK // (C * D), D)
    like: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
    whiten, scatter = torch.randn(C, D, D, **like), torch.empty(C, D, D, **like)
    centred, out = torch.randn(C, n, D, **like), torch.empty(C, n, D, **like)

    def run() -> None:
        for _ in range(ITERATIONS):
            for rows in x.split(n):
                block, result = centred[:, : len(rows)], out[:, : len(rows)]
                torch.bmm(block, whiten, out=result)
                torch.bmm(block.mT, block, out=scatter)

    return run


def course(x: torch.Tensor, model: GaussianMixture, iterations: int) -> Callable[[], None]:
    """The course's own loop, always from the same parameters."""
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def run() -> None:
        model.load_state_dict(start)
        fit_em(model, x, max_iterations=iterations, tolerance=0, progress=False)

    return run


def scikit_learn(oracle: Oracle, x: torch.Tensor, iterations: int, threads: int) -> Callable[[], None]:
    """Scikit-learn's loop from its start."""
    data = x.cpu().numpy()

    def run() -> None:
        oracle.set_params(max_iter=iterations)
        with threadpool_limits(threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the few iterations are meant
            oracle.fit(data)

    return run


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    device = torch.device(options.device)
    x = clouds(generator)
    model = GaussianMixture.start(x, C, generator=generator)
    oracle = Oracle(
        C,
        tol=0,
        reg_covar=model.variance_floor,
        weights_init=model.weights.detach().clone().numpy(),
        means_init=model.means.detach().clone().numpy(),
        precisions_init=model.covariances.detach().inverse().numpy(),
    )
    x, model = x.to(device), model.to(device)
    few, many = 1, 1 + ITERATIONS
    runs = {"products": products(x, model)}
    for iterations in (few, many):
        runs[f"course_lib {iterations}"] = course(x, model, iterations)
        runs[f"scikit-learn {iterations}"] = scikit_learn(oracle, x, iterations, options.threads)
    fits = interleaved_seconds(runs, device, options.repeats)
    times = {"products": [total / ITERATIONS for total in fits["products"]]}
    for name in ("course_lib", "scikit-learn"):
        pairs = zip(fits[f"{name} {few}"], fits[f"{name} {many}"], strict=True)
        times[name] = [(longer - shorter) / ITERATIONS for shorter, longer in pairs]
    difference = model.log_likelihood(x).mean().item() - oracle.score(x.cpu().numpy())  # after the last fits
    if abs(difference) > 1e-6:
        raise SystemExit(f"the two did not do the same: their mean log-likelihoods differ by {difference}")
    work = f"one iteration of EM: {N:,} points, {D} dimensions, {C} full covariances, float64"
    place = "" if device.type == "cpu" else " on the CPU"
    details = (
        f"; a fit of {many} iterations less one of {few}, divided by {ITERATIONS}, from one start to "
        f"one end; scikit-learn {sklearn.__version__}{place}"
    )
    report_speed("em", times, device, ["scikit-learn"], work, details)


if __name__ == "__main__":
    main()
