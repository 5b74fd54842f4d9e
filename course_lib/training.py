"""The one loop that trains every model of the course, and a second-order fit for small smooth problems."""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_lib.progress import progress_bar

__all__ = ["History", "fit", "fit_full_batch"]


@dataclass
class History:
    """What a training run did: at each logged step, the mean loss since the previous one.

    Attributes:
        steps: optimiser steps taken when each entry was logged.
        losses: mean loss over the steps since the previous entry, in the objective's unit.
        seconds: wall-clock time of training up to each entry.
        stopped: of `fit_full_batch`, a sentence that says why it ended; empty after `fit`.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stopped: str = ""


def fit(
    objective: nn.Module,
    batches: Iterable[Any],
    steps: int = 2000,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    callback: Callable[[int, History], None] | None = None,
    log_every: int = 50,
    first_step: int = 0,
    progress: bool = True,
) -> History:
    """Minimise `objective(batch)` by stochastic gradient steps.

    Args:
        objective: a module whose forward pass on a batch is the scalar to minimise.
        batches: at least `steps` batches, already on the device of the objective's parameters.
        steps: the step to stop at; the budget of the whole run.
        optimizer: None means fused Adam with learning rate 1e-3 on all parameters.
        scheduler: a learning-rate schedule of that optimiser, advanced once a step.
        callback: called as `callback(step, history)` after each logged step.
        log_every: steps between logs. The loss stays on the device in between.
        first_step: steps already taken, where a run is resumed.
        progress: show a progress bar on stderr (the environment variable COURSE_PROGRESS=0 hides all).

    Returns:
        the history of this call.

    Raises:
        ValueError: a budget or interval that makes no sense, or batches that end too early.
        FloatingPointError: the loss became NaN or infinite; says between which steps.
    """
    if not 0 <= first_step <= steps or log_every < 1:
        raise ValueError(
            f"need 0 ≤ first_step ≤ steps and log_every ≥ 1, got first_step={first_step}, steps={steps}, "
            f"log_every={log_every}"
        )
    if scheduler is not None and optimizer is None:
        raise ValueError("a scheduler belongs to an optimizer: pass that optimizer too")
    optimizer = optimizer or torch.optim.Adam(objective.parameters(), lr=1e-3, fused=True)
    objective.train()
    stream = iter(batches)
    history, start, logged_step = History(), time.perf_counter(), first_step
    total = torch.zeros((), dtype=torch.float64)
    with progress_bar(steps, "step", progress, first_step) as bar:
        for step in range(first_step + 1, steps + 1):
            try:
                batch = next(stream)
            except StopIteration:
                raise ValueError(
                    f"batches ended after step {step - 1} of {steps}: ask for fewer steps, or pass an "
                    "endless stream such as Batches(…), or itertools.cycle(…) of a list"
                ) from None
            loss = objective(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            total = loss.detach().double() if step == logged_step + 1 else total + loss.detach()
            if step % log_every == 0 or step == steps:
                mean_loss = float(total) / (step - logged_step)  # the only wait for the device
                if not math.isfinite(mean_loss):
                    raise FloatingPointError(
                        f"the loss became {mean_loss} between steps {logged_step + 1} and {step}. Lower the "
                        "learning rate, and check the data and any log, division or exp of the objective."
                    )
                history.steps.append(step)
                history.losses.append(mean_loss)
                history.seconds.append(time.perf_counter() - start)
                bar.update(step - logged_step)
                bar.set_postfix(loss=f"{mean_loss:.4g}", refresh=False)
                logged_step = step
                if callback is not None:
                    callback(step, history)
    return history


def fit_full_batch(
    objective: nn.Module,
    x: Tensor,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
    callback: Callable[[int, History], None] | None = None,
    log_every: int = 10,
    progress: bool = True,
) -> History:
    r"""Minimise `objective(x)` on all the data at once by L-BFGS with a strong Wolfe line search.

    A quasi-Newton method learns the curvature from successive gradients, so near a minimum it converges
    faster than any fixed learning rate allows. It needs an objective without noise, and a gradient of the
    whole data set per evaluation: for small problems whose minimum matters to many digits, in float64.

    Args:
        objective: a module whose forward pass on x is the scalar to minimise; equal calls give equal values.
        x: all the data, on the device of the objective's parameters and of their floating-point type.
        max_iterations: the most iterations; each costs one to a few evaluations of loss and gradient.
        tolerance: stop when no entry of the gradient is larger than this. It also stops where the loss falls
            no further, even after the memory of the curvature was cleared once.
        callback: called as `callback(iteration, history)` after each logged iteration.
        log_every: iterations between logs.
        progress: show a progress bar on stderr (the environment variable COURSE_PROGRESS=0 hides all).

    Returns:
        the history: iterations as `steps`, and in `losses` the loss *at* that iteration, from iteration 0 on;
        `stopped` says why it ended.

    Raises:
        ValueError: a budget that makes no sense, or an objective that is random.
        FloatingPointError: the loss became NaN or infinite, at an iterate or inside a line search.

    Warns:
        RuntimeWarning: it ended above the tolerance, because max_iterations did not suffice, or because the
            loss fell no further while the gradient was larger than rounding explains.

    Source:
        Nocedal and Wright (2006), algorithms 7.5, 3.5 and 3.6, in torch's implementation.
    """
    if max_iterations < 1 or log_every < 1 or not tolerance >= 0:
        raise ValueError(
            f"need max_iterations ≥ 1, log_every ≥ 1 and tolerance ≥ 0, got max_iterations={max_iterations}, "
            f"log_every={log_every}, tolerance={tolerance}"
        )
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.LBFGS(
        parameters,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=tolerance,
        tolerance_change=0.0,
    )
    objective.train()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(x)
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value.item()} at iteration {iteration} or in a line search after it. Check "
                "the data and any log, division or exp of the objective."
            )
        value.backward()
        return value

    history, start, iteration, stalled = History(), time.perf_counter(), 0, False

    def log() -> float:
        """Record the present loss; the largest entry of its gradient."""
        history.losses.append(float(closure().detach()))
        history.steps.append(iteration)
        history.seconds.append(time.perf_counter() - start)
        return max(float(p.grad.abs().max()) for p in parameters if p.grad is not None)

    gradient, repeated = log(), float(closure().detach())
    if not math.isclose(repeated, history.losses[0], rel_tol=1e-5, abs_tol=1e-12):
        raise ValueError(
            f"the objective is random: two evaluations gave {history.losses[0]} and {repeated}. A line "
            "search cannot compare such values; use fit, or switch the noise off (dropout, corruption)."
        )
    with progress_bar(max_iterations, "iteration", progress) as bar:
        while gradient > tolerance and iteration < max_iterations:
            chunk = min(log_every, max_iterations - iteration)
            # max_eval counts line-search evaluations, of which torch allows 25 an iteration.
            optimizer.param_groups[0].update(max_iter=chunk, max_eval=30 * chunk)
            before = optimizer.state[parameters[0]].get("n_iter", 0)
            optimizer.step(closure)
            taken = optimizer.state[parameters[0]]["n_iter"] - before  # it may end early
            iteration += taken
            gradient = log()
            bar.update(taken)
            bar.set_postfix(loss=f"{history.losses[-1]:.4g}", gradient=f"{gradient:.1e}", refresh=False)
            if callback is not None:
                callback(iteration, history)
            if history.losses[-1] < history.losses[-2]:
                stalled = False
            elif stalled:
                break
            else:
                stalled = True
                optimizer.state.clear()  # the next iteration is a step of steepest descent
    # A gradient g promises a fall of about g²/curvature. Up to a curvature of 10⁴ such a g is rounding.
    size = max(1.0, abs(history.losses[-1]))
    rounding = 100 * size * math.sqrt(torch.finfo(parameters[0].dtype).eps)
    if gradient <= tolerance:
        history.stopped = f"the gradient, {gradient:.2g}, is within the tolerance={tolerance:g}"
    elif iteration >= max_iterations:
        history.stopped = (
            f"stopped after max_iterations={max_iterations} with a gradient of {gradient:.2g}, above the "
            f"tolerance={tolerance:g}. Allow more iterations, or a larger tolerance."
        )
    else:
        history.stopped = (
            f"the loss falls no further after iteration {iteration}, with a gradient of {gradient:.2g}, "
            f"above the tolerance={tolerance:g}"
        )
    if gradient > tolerance and (iteration >= max_iterations or gradient > rounding):
        warnings.warn(history.stopped, RuntimeWarning, stacklevel=2)
    return history
