"""Two-dimensional flows beside zuko's of the same size: seconds a step and test log-likelihood.

    .venv/bin/python benchmarks/flow_speed.py [--threads 1] [--repeats 5] [--seeds 3]

Both libraries fit the same density of points with the same number of transforms and hidden units, the same
activation, fused Adam, batches and number of steps; only what the libraries themselves decide differs: ours
has an `ActNorm` a layer, and each bounds its scales in its own way. Every run is timed in turns in one
process; then each is trained from several seeds and scored on the same fresh points of the density.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import zuko
from record import interleaved_seconds, machine, write
from sklearn.datasets import make_moons
from torch import Tensor, nn

from course_lib.batches import Batches
from course_lib.flow import Flow, NegativeLogLikelihood, autoregressive_layers, coupling_layers
from course_lib.training import fit

N_LAYERS, HIDDEN, BATCH, STEPS, TIMED_STEPS, LEARNING_RATE = 6, [64, 64], 256, 3000, 200, 1e-3
N_TRAIN, N_TEST, NOISE = 50_000, 20_000, 0.08


def moons(n: int, seed: int) -> Tensor:
    """Two half circles with Gaussian noise."""
    points, _ = make_moons(n, noise=NOISE, random_state=seed)
    return torch.from_numpy(points).float()


class Zuko(nn.Module):
    """zuko's flow behind the two methods that are compared."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x)."""
        log_prob: Tensor = self.flow().log_prob(x)
        return log_prob


def makers(x: Tensor) -> dict[str, Callable[[], Any]]:
    """Every flow, untrained."""
    return {
        "coupling": lambda: Flow(2, coupling_layers(2, N_LAYERS, HIDDEN)).initialise(x),
        "coupling, zuko": lambda: Zuko(
            zuko.flows.RealNVP(2, transforms=N_LAYERS, hidden_features=HIDDEN, activation=nn.SiLU)
        ),
        "autoregressive": lambda: Flow(2, autoregressive_layers(2, N_LAYERS, HIDDEN)).initialise(x),
        "autoregressive, zuko": lambda: Zuko(
            zuko.flows.MAF(2, transforms=N_LAYERS, hidden_features=HIDDEN, activation=nn.SiLU)
        ),
    }


def train(flow: Any, x: Tensor, steps: int, seed: int) -> None:
    """The same loop for both libraries, with a cosine to 0."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = Batches(x, batch_size=BATCH, seed=seed)
    fit(NegativeLogLikelihood(flow), batches, steps, optimizer, scheduler, log_every=steps, progress=False)


def score(make: Callable[[], Any], x: Tensor, test: Tensor, seed: int) -> Tensor:
    """The test log-likelihood of each point after training from one seed."""
    torch.manual_seed(seed)
    flow = make()
    train(flow, x, STEPS, seed)
    with torch.no_grad():
        log_prob: Tensor = flow.log_prob(test)
    return log_prob.double()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    x, test = moons(N_TRAIN, 0), moons(N_TEST, 1)
    flows = makers(x)
    timed = {name: make() for name, make in flows.items()}
    runs: dict[str, Callable[[], None]] = {
        name: partial(train, flow, x, TIMED_STEPS, 0) for name, flow in timed.items()
    }
    times = interleaved_seconds(runs, device, options.repeats)
    milliseconds = {name: 1000 * statistics.median(values) / TIMED_STEPS for name, values in times.items()}
    scores = {
        name: torch.stack([score(make, x, test, seed) for seed in range(options.seeds)])
        for name, make in flows.items()
    }
    comparisons = {}
    for name in ("coupling", "autoregressive"):
        ours, theirs = scores[name], scores[f"{name}, zuko"]
        difference = ours.mean(0) - theirs.mean(0)
        over_seeds = (ours.mean(1) - theirs.mean(1)).std() / math.sqrt(options.seeds)
        comparisons[name] = {
            "step time over zuko's": milliseconds[name] / milliseconds[f"{name}, zuko"],
            "test log-likelihood": float(ours.mean()),
            "zuko's test log-likelihood": float(theirs.mean()),
            "difference": float(difference.mean()),
            "standard error over points": float(difference.std() / math.sqrt(len(test))),
            "standard error over seeds": float(over_seeds),
        }
    for name, comparison in comparisons.items():
        print(name, f"{milliseconds[name]:.2f} ms a step; zuko's {milliseconds[f'{name}, zuko']:.2f} ms")
        for key, value in comparison.items():
            print(f"  {key:32s} {value:8.4f}")
    content = {
        "kind": "speed",
        "protocol": (
            f"two moons with noise {NOISE}, {N_TRAIN:,} points, batch {BATCH}; {N_LAYERS} transforms with "
            f"hidden layers {HIDDEN} of SiLU; fused Adam, learning rate {LEARNING_RATE:g} falling to 0 along "
            f"a cosine. Seconds: {TIMED_STEPS} steps, medians of {options.repeats} interleaved repeats in "
            f"one process. Log-likelihoods: {STEPS:,} steps, {options.seeds} seeds, {N_TEST:,} fresh "
            "points, the same for all; nats per point"
        ),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "repeats": times,
        "comparison": comparisons,
        "machine": machine(device) | {"zuko": zuko.__version__},
    }
    print(f"written to {write('speed_flow_cpu', content)}")


if __name__ == "__main__":
    main()
