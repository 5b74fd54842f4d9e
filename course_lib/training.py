"""The one loop that trains every model of the course."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_lib.progress import progress_bar

__all__ = ["History", "fit"]


@dataclass
class History:
    """What a training run did: at each logged step, the mean loss since the previous one.

    Attributes:
        steps: optimiser steps taken when each entry was logged.
        losses: mean loss over the steps since the previous entry, in the objective's unit.
        seconds: wall-clock time of training up to each entry.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


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
