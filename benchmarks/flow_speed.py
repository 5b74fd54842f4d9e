"""Two-dimensional flows beside zuko's of the same size: seconds a step and test log-likelihood.

    .venv/bin/python benchmarks/flow_speed.py [--threads 1] [--repeats 5] [--seeds 3] [--device cpu]

Both libraries fit the same density of points with the same number of transforms and hidden units, the same
activation, fused Adam, batches and number of steps; only what the libraries themselves decide differs: ours
has an `ActNorm` a layer, and each bounds its scales in its own way. Every run is timed in turns in one
process; then each is trained from several seeds and scored on the same fresh points of the density
(`--seeds 0` leaves that out).
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
from course_lib.bijections import Bijection
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


def ours(layers: list[Bijection], x: Tensor) -> Flow:
    """A flow of the course, whose layers start from the points."""
    return Flow(2, layers).to(x.device).initialise(x)


def makers(x: Tensor) -> dict[str, Callable[[], Any]]:
    """Every flow, untrained."""
    return {
        "coupling": lambda: ours(coupling_layers(2, N_LAYERS, HIDDEN), x),
        "coupling, zuko": lambda: Zuko(
            zuko.flows.RealNVP(2, transforms=N_LAYERS, hidden_features=HIDDEN, activation=nn.SiLU)
        ).to(x.device),
        "autoregressive": lambda: ours(autoregressive_layers(2, N_LAYERS, HIDDEN), x),
        "autoregressive, zuko": lambda: Zuko(
            zuko.flows.MAF(2, transforms=N_LAYERS, hidden_features=HIDDEN, activation=nn.SiLU)
        ).to(x.device),
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
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    x, test = moons(N_TRAIN, 0).to(device), moons(N_TEST, 1).to(device)
    flows = makers(x)
    timed = {name: make() for name, make in flows.items()}
    runs: dict[str, Callable[[], None]] = {
        name: partial(train, flow, x, TIMED_STEPS, 0) for name, flow in timed.items()
    }
    times = interleaved_seconds(runs, device, options.repeats)
    milliseconds = {name: 1000 * statistics.median(values) / TIMED_STEPS for name, values in times.items()}
    for name, value in milliseconds.items():
        print(f"{name}: {value:.2f} ms a step")
    scores = {
        name: torch.stack([score(make, x, test, seed) for seed in range(options.seeds)])
        for name, make in flows.items()
        if options.seeds
    }
    comparisons = {}
    for name in ("coupling", "autoregressive") if options.seeds else ():
        own, theirs = scores[name], scores[f"{name}, zuko"]
        difference = own.mean(0) - theirs.mean(0)
        over_seeds = (own.mean(1) - theirs.mean(1)).std() / math.sqrt(options.seeds)
        comparisons[name] = {
            "step time over zuko's": milliseconds[name] / milliseconds[f"{name}, zuko"],
            "test log-likelihood": float(own.mean()),
            "zuko's test log-likelihood": float(theirs.mean()),
            "difference": float(difference.mean()),
            "standard error over points": float(difference.std() / math.sqrt(len(test))),
            "standard error over seeds": float(over_seeds),
        }
    for name, comparison in comparisons.items():
        print(name)
        for key, value in comparison.items():
            print(f"  {key:32s} {value:8.4f}")
    content: dict[str, Any] = {
        "kind": "speed",
        "protocol": (
            f"two moons with noise {NOISE}, {N_TRAIN:,} points, batch {BATCH}; {N_LAYERS} transforms with "
            f"hidden layers {HIDDEN} of SiLU; fused Adam, learning rate {LEARNING_RATE:g} falling to 0 along "
            f"a cosine. Seconds: {TIMED_STEPS} steps, medians of {options.repeats} interleaved repeats in "
            "one process"
        ),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "repeats": times,
        "machine": machine(device) | {"zuko": zuko.__version__},
    }
    if options.seeds:
        content["comparison"] = comparisons
        content["protocol"] += (
            f". Log-likelihoods: {STEPS:,} steps, {options.seeds} seeds, {N_TEST:,} fresh points, the same "
            "for all; nats per point"
        )
    print(f"written to {write(f'speed_flow_{device.type}', content)}")


if __name__ == "__main__":
    main()
