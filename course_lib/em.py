r"""Expectation maximisation: one loop for every model that offers an E-step and an M-step."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from course_lib.checks import check_examples, check_whole
from course_lib.progress import progress_bar

__all__ = ["EMModel", "EMResult", "fit_em"]


class EMModel(Protocol):
    """What `fit_em` asks of a model, which is also a torch module: PPCA, FactorAnalysis, GaussianMixture."""

    def initialise(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Forget everything and start anew, at random, for x of shape (N, D)."""

    def e_step(self, x: Tensor) -> Any:
        """The posterior's expectations at the present parameters, with ``.log_likelihood`` of shape (N,)."""

    def m_step(self, x: Tensor, expectations: Any) -> float | None:
        """Maximise the expected log p(x, z) in place.

        Returns how far the mean log-likelihood may fall where the maximum is not exact, in nats; None is 0.
        """

    def at_floor(self) -> list[int]:
        """How many variances are at the model's floor."""

    def state_dict(self) -> dict[str, Any]:
        """The parameters, as every torch module gives them."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put them back."""


@dataclass
class EMResult:
    """What a run of EM did; with several starts, what the best of them did.

    Attributes:
        log_likelihoods: the mean log p(x) over the examples, in nats: at the start, then after each
            iteration, so that `log_likelihoods[i]` belongs to i iterations.
        stopped: why it stopped, a sentence that begins with "converged" or with "max_iterations".
        at_floor: how many variances ended at the model's floor, as the model's own `at_floor` counts them;
            one number a component for a mixture.
        all_starts: the final mean log-likelihood of every start.
        best_start: which of them is in the model.
    """

    log_likelihoods: list[float]
    stopped: str
    at_floor: list[int]
    all_starts: list[float] = field(default_factory=list)
    best_start: int = 0

    @property
    def n_iterations(self) -> int:
        """Iterations, each an M-step after an E-step."""
        return len(self.log_likelihoods) - 1

    @property
    def converged(self) -> bool:
        """Whether the log-likelihood had stopped rising."""
        return self.stopped.startswith("converged")


@torch.no_grad()
def fit_em(
    model: EMModel,
    x: Tensor,
    n_starts: int | None = None,
    max_iterations: int = 200,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
    callback: Callable[[int, Any], None] | None = None,
    progress: bool = True,
) -> EMResult:
    r"""Maximise the likelihood by coordinate ascent on the bound :math:`\mathcal L(q, \theta)`.

    .. math::
        q_n \leftarrow p_\theta(z \mid x_n), \qquad
        \theta \leftarrow \arg\max_\theta \sum_n \mathrm E_{q_n} \log p_\theta(x_n, z)

    The E-step makes the bound touch log p(x) and the M-step raises it, so no iteration lowers the
    likelihood; this is asserted in every one, up to a rounding of √eps (1 + \|ℓ\|) nats (at ℓ = 60 that is
    1e-6 in float64, but 0.02 in float32: test a model of your own in float64). A floor under the variances
    may make an M-step inexact: then it says how much of a fall that explains (`GaussianMixture.m_step`), and
    no more than that is accepted.

    Args:
        model: has the methods of `EMModel`; changed in place.
        x: shape (N, D), of the model's type and on its device.
        n_starts: None continues from the model's present parameters; a number initialises the model that
            often and leaves the best end in it.
        max_iterations: the budget of each start.
        tolerance: a start has converged when an iteration changes the mean log-likelihood by less, in nats.
        generator: for `initialise`, on the CPU; None draws from torch's global one.
        callback: called as `callback(iteration, model)` after each iteration; before the first of each start
            with iteration 0, so a 0 says that another start begins.
        progress: show a progress bar on stderr (the environment variable COURSE_PROGRESS=0 hides all).

    Returns:
        an `EMResult`.

    Raises:
        ValueError: arguments that make no sense; NaN or infinite values in x, with the first such row; a
            model of another type or device than x.
        FloatingPointError: the log-likelihood fell by more than rounding, or is NaN or infinite. The model
            then holds the best finished start; if there is none, what it held before.

    Source:
        Dempster, Laird and Rubin (1977); as coordinate ascent, Neal and Hinton (1998).
    """
    check_examples(x)
    _check_same(model, x)
    check_whole("max_iterations", max_iterations, 1)
    if n_starts is not None:
        check_whole("n_starts", n_starts, 1)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    results: list[EMResult] = []
    best, best_state = 0, copy.deepcopy(model.state_dict())
    try:
        with progress_bar((n_starts or 1) * max_iterations, "iteration", progress) as bar:
            for start in range(n_starts or 1):
                if n_starts is not None:
                    model.initialise(x, generator)
                result = _run(model, x, max_iterations, tolerance, callback, bar)
                if not results or result.log_likelihoods[-1] > results[best].log_likelihoods[-1]:
                    best, best_state = start, copy.deepcopy(model.state_dict())
                results.append(result)
                bar.update(max_iterations - result.n_iterations)  # what convergence saved
    finally:  # also when a start has failed
        model.load_state_dict(best_state)
    results[best].all_starts = [result.log_likelihoods[-1] for result in results]
    results[best].best_start = best
    return results[best]


def _check_same(model: EMModel, x: Tensor) -> None:
    """Refuse a model of another floating-point type, or on another device, than its data."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point():
            if (value.dtype, value.device) != (x.dtype, x.device):
                raise ValueError(
                    f"x is {x.dtype} on {x.device}, but the model's {name} {value.dtype} on {value.device}; "
                    f"convert one of them, for instance by model.to(x)"
                )
            return


def _run(
    model: EMModel,
    x: Tensor,
    max_iterations: int,
    tolerance: float,
    callback: Callable[[int, Any], None] | None,
    bar: Any,
) -> EMResult:
    """EM from the model's present parameters."""
    expectations = model.e_step(x)
    log_likelihoods = [_mean(expectations, 0)]
    if callback is not None:
        callback(0, model)
    stopped = ""
    while not stopped:
        allowed_fall = model.m_step(x, expectations) or 0.0
        expectations = model.e_step(x)
        iteration, before = len(log_likelihoods), log_likelihoods[-1]
        log_likelihoods.append(_mean(expectations, iteration))
        rise = log_likelihoods[-1] - before
        rounding = torch.finfo(x.dtype).eps ** 0.5 * (1 + abs(before))
        if rise < -allowed_fall - rounding:
            raise FloatingPointError(
                f"iteration {iteration} lowered the mean log-likelihood by {-rise:.3g} nats, from {before}: "
                "exact E- and M-steps cannot do that, so one of the two is not exact"
            )
        bar.update(1)
        bar.set_postfix(log_likelihood=f"{log_likelihoods[-1]:.6g}", refresh=False)
        if callback is not None:
            callback(iteration, model)
        if abs(rise) < tolerance:
            stopped = f"converged: iteration {iteration} changed the mean log-likelihood by {rise:.1e} nats, "
            stopped += f"less than tolerance={tolerance:g}"
        elif iteration >= max_iterations:
            stopped = f"max_iterations={max_iterations} reached: the last one still changed the mean "
            stopped += f"log-likelihood by {rise:.1e} nats"
    return EMResult(log_likelihoods, stopped, model.at_floor())


def _mean(expectations: Any, iteration: int) -> float:
    mean = float(expectations.log_likelihood.double().mean())
    if not math.isfinite(mean):
        raise FloatingPointError(
            f"the mean log-likelihood is {mean} after {iteration} iterations. Check the scale of the data (a "
            "standard deviation near 1 is safe), and raise the model's variance_floor."
        )
    return mean
