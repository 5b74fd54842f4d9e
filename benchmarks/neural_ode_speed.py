"""Seconds for one gradient of a neural ODE: our adjoint, torchdiffeq's, and back-propagation, interleaved.

    .venv/bin/python benchmarks/neural_ode_speed.py [--threads 2] [--repeats 9] [--gradients 20]
                                                    [--device cpu]

The field is an MLP of two hidden layers on the state and the time, the solver torchdiffeq's dopri5 at
rtol = 1e-5 and atol = 1e-6 in float32, from t = 0 to 1; the loss is the mean square of the final state, and
the gradient is that of all weights and of the initial state. Ours and torchdiffeq's `odeint_adjoint` share
the solver, the tolerances and the equations; they differ in how these are packed and in the norm that chooses
the backward steps. "products" are the field's matrix products alone, as often as our adjoint needs them, into
preallocated memory.

The script refuses to time what does not agree: the gradients of all must be within one per cent.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch
from record import interleaved_seconds, report_speed
from torch import Tensor
from torchdiffeq import odeint_adjoint
from training_speed import products

from course_lib.continuous_flow import VelocityNetwork
from course_lib.neural_ode import CountedField, solve

BATCH, FEATURES, HIDDEN = 256, 16, (64, 64)
TOLERANCES: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=9)
    arguments.add_argument("--gradients", type=int, default=20)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    counted = CountedField(VelocityNetwork(FEATURES, HIDDEN))
    torch.nn.init.normal_(counted.field.layers[-1].weight, std=0.5)  # type: ignore[union-attr, index]
    counted, x = counted.to(device), torch.randn(BATCH, FEATURES).to(device)
    times = torch.tensor([0.0, 1.0], device=device)

    def gradient(states: Callable[[Tensor], Tensor]) -> list[Tensor]:
        start = x.clone().requires_grad_()
        loss = states(start)[-1].square().mean()
        return list(torch.autograd.grad(loss, (start, *counted.parameters())))

    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "course_lib": lambda start: solve(counted, start, times, **TOLERANCES),
        "torchdiffeq": lambda start: odeint_adjoint(counted, start, times, **TOLERANCES),
        "backprop": lambda start: solve(counted, start, times, gradient="backprop", **TOLERANCES),
    }
    truth = gradient(lambda start: solve(counted, start, times, rtol=1e-6, atol=1e-7, gradient="backprop"))
    evaluations = {}
    for name, way in ways.items():
        counted.n_evaluations = 0
        for ours, theirs in zip(gradient(way), truth, strict=True):
            if not torch.allclose(ours, theirs, rtol=0, atol=0.01 * float(theirs.abs().max())):
                raise SystemExit(
                    f"the gradient of {name} differs from that at a tighter tolerance; not timed"
                )
        evaluations[name] = counted.n_evaluations
    print("evaluations of the field for one gradient:", evaluations)

    def repeated(way: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(options.gradients):
                gradient(way)

        return run

    widths = [FEATURES + 1, *HIDDEN, FEATURES]
    layers = [(BATCH, n_in, n_out) for n_in, n_out in itertools.pairwise(widths)]
    runs = {"products": products(layers, device, options.gradients * evaluations["course_lib"])}
    runs |= {name: repeated(way) for name, way in ways.items()}
    times_of = interleaved_seconds(runs, device, options.repeats)
    work = f"{options.gradients} gradients of a neural ODE, {BATCH} states of {FEATURES}, dopri5 at 1e-5"
    counts = ", ".join(f"{name} {count}" for name, count in evaluations.items())
    details = f", hidden layers of {HIDDEN}; evaluations for one gradient: {counts}"
    report_speed("neural_ode", times_of, device, ["torchdiffeq", "backprop"], work, details)


if __name__ == "__main__":
    main()
