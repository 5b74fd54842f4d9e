r"""Estimates of an expectation under q whose backward pass estimates its gradient: one interface, many ways.

Every estimator maps (distribution, integrand) to a surrogate of the distribution's batch shape. Its value
estimates :math:`\mathrm E_q f(z)`; its gradient, after `backward()`, estimates the gradient of that with
respect to the parameters of q and to those of f. To change the estimator, change one line.

The integrand maps z of shape (n_samples, \*batch, \*event) to values of shape (n_samples, \*batch).
`n_samples` is K, a whole number. Whether values are finite is not read back from the device in every step;
`fit` reports a loss that is not. All samples come from torch's global generator.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical, RelaxedOneHotCategorical
from torch.distributions.constraints import Constraint

from course_lib.checks import check_stretches, check_whole
from course_lib.distributions import all_states, base_distribution

__all__ = [
    "LearnedBaseline",
    "enumeration",
    "gumbel_softmax",
    "leave_one_out",
    "pathwise",
    "score_function",
]

Integrand = Callable[[Tensor], Tensor]


class LearnedBaseline(nn.Module):
    r"""A baseline that follows the mean of f, whether f is to rise or to fall.

    Each use ends with one step of stochastic gradient descent on :math:`\tfrac12 (f - b)^2`:

    .. math:: b \leftarrow b + \eta\,(\bar f - b)

    The step comes after the use, so b depends on earlier samples only and the estimate stays unbiased. In
    `eval()` mode b rests.

    Args:
        learning_rate: η in (0, 1].
        initial: b before the first use; its distance from the mean of f is forgotten within a few times 1/η.

    Source:
        Mnih and Gregor (2014), without their regression on x.
    """

    value: Tensor

    def __init__(self, learning_rate: float = 0.1, initial: float = 0.0) -> None:
        super().__init__()
        if not 0 < learning_rate <= 1:
            raise ValueError(f"learning_rate must lie in (0, 1], got {learning_rate}")
        if not math.isfinite(initial):
            raise ValueError(f"initial must be finite, got {initial}")
        self.learning_rate = learning_rate
        self.register_buffer("value", torch.tensor(float(initial)))

    @torch.no_grad()
    def update(self, f: Tensor) -> None:
        """One step towards the mean of f, of any shape."""
        if self.training:
            self.value.lerp_(f.mean().to(self.value), self.learning_rate)


def score_function(
    distribution: Distribution,
    integrand: Integrand,
    n_samples: int = 1,
    baseline: float | Tensor | LearnedBaseline = 0.0,
) -> Tensor:
    r"""The score-function estimator (REINFORCE), for every smooth density on a support that stays.

    .. math::
        \nabla_\phi\, \mathrm E_{q_\phi} f(z) \approx \frac1K \sum_{k=1}^K
        \bigl(f(z_k) - b\bigr) \nabla_\phi \log q_\phi(z_k) + \nabla_\phi f(z_k), \qquad z_k \sim q_\phi

    Args:
        distribution: q, with a log-density differentiable in the parameters and a support that does not
            depend on them. (Uniform and Pareto are refused: their moving edges carry gradient too.)
        integrand: f; it need not be differentiable in z.
        n_samples: K ≥ 1.
        baseline: b, a number, a tensor that broadcasts to (n_samples, \*batch), or a `LearnedBaseline` on
            the samples' device. The estimate is unbiased if b does not depend on the samples it is used with.

    Returns:
        shape (\*batch,), with the baseline in the gradient only.

    Source:
        Williams (1992); for variational inference Ranganath, Gerrish and Blei (2014).
    """
    z = _sample(distribution, n_samples)
    f = _evaluate(integrand, z, distribution)
    surrogate = _score_surrogate(distribution, z, f, _baseline_tensor(baseline, f))
    if isinstance(baseline, LearnedBaseline):
        baseline.update(f)
    return surrogate


def leave_one_out(distribution: Distribution, integrand: Integrand, n_samples: int = 2) -> Tensor:
    r"""The score-function estimator whose baseline for each sample is the mean of f at the others.

    .. math::
        b_k = \frac1{K-1} \sum_{j \ne k} f(z_j), \qquad
        f(z_k) - b_k = \frac K{K-1} \Bigl(f(z_k) - \frac1K \sum_{j=1}^K f(z_j)\Bigr)

    Args:
        distribution: q, as for `score_function`.
        integrand: f; it need not be differentiable in z.
        n_samples: K ≥ 2.

    Source:
        Mnih and Rezende (2016); Kool, van Hoof and Welling (2019).
    """
    z = _sample(distribution, n_samples, least=2)
    f = _evaluate(integrand, z, distribution)
    return _score_surrogate(distribution, z, f, (f.sum(0) - f) / (n_samples - 1))


def pathwise(distribution: Distribution, integrand: Integrand, n_samples: int = 1) -> Tensor:
    r"""The pathwise estimator (reparametrisation): each sample moves with the parameters.

    .. math::
        \nabla_\phi\, \mathrm E_{q_\phi} f(z) \approx \frac1K \sum_{k=1}^K \nabla_\phi f(z_k),
        \qquad z_k = t_\phi(\varepsilon_k)

    Args:
        distribution: q, with a reparametrised sampler `rsample` and a continuous z.
        integrand: f, continuous, and differentiable almost everywhere.
        n_samples: K ≥ 1.

    Source:
        Kingma and Welling (2014); Rezende, Mohamed and Wierstra (2014).
    """
    # torch has discrete distributions with an rsample: straight-through ones, whose gradients are biased.
    if not distribution.has_rsample or getattr(_support(distribution), "is_discrete", False):
        raise ValueError(
            f"distribution must have a reparametrised sampler, {_name(distribution)} has none; "
            "estimate its gradient with score_function"
        )
    check_whole("n_samples", n_samples, 1)
    return _evaluate(integrand, distribution.rsample((n_samples,)), distribution).mean(0)


def gumbel_softmax(
    distribution: Distribution,
    integrand: Integrand,
    n_samples: int = 1,
    temperature: float = 1.0,
    straight_through: bool = False,
) -> Tensor:
    r"""Pathwise gradients for one-hot vectors by way of a continuous relaxation: biased in general.

    .. math:: y = \operatorname{softmax}\bigl((\ell + G)/\tau\bigr), \qquad G_c \sim \text{Gumbel}(0, 1)

    The one-hot vector z at y's largest entry is an exact sample of q. The soft estimator evaluates f and its
    gradient at y; the bias of both vanishes as τ → 0. The straight-through one evaluates them at z but passes
    the gradient on as if z were y: the value is unbiased, the bias of the gradient does not cool away.

    Args:
        distribution: a `OneHotCategorical` with logits ℓ, or several as the event of an `Independent`.
        integrand: f, differentiable between the one-hot vectors too.
        n_samples: K ≥ 1.
        temperature: τ > 0.
        straight_through: evaluate at the one-hot vectors.

    Source:
        Jang, Gu and Poole (2017); Maddison, Mnih and Teh (2017).
    """
    base = base_distribution(distribution)
    if not isinstance(base, OneHotCategorical):
        raise ValueError(f"distribution must be a OneHotCategorical, got {_name(distribution)}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    check_whole("n_samples", n_samples, 1)
    tau = base.logits.new_tensor(temperature)
    z = RelaxedOneHotCategorical(tau, logits=base.logits, validate_args=False).rsample((n_samples,))
    if straight_through:
        hard = torch.zeros_like(z).scatter(-1, z.argmax(-1, keepdim=True), 1)
        z = hard + (z - z.detach())
    return _evaluate(integrand, z, distribution).mean(0)


def enumeration(distribution: Distribution, integrand: Integrand) -> Tensor:
    r"""The expectation itself, where z has few states: no sample, no variance.

    .. math:: \mathrm E_{q_\phi} f(z) = \sum_z q_\phi(z)\, f(z)

    Args:
        distribution: q, discrete and small enough for `course_lib.distributions.all_states`.
        integrand: f; the states stand where samples would.
    """
    batch, event = distribution.batch_shape, distribution.event_shape
    z = all_states(distribution).reshape(-1, *[1] * len(batch), *event).expand(-1, *batch, *event)
    return (distribution.log_prob(z).exp() * _evaluate(integrand, z, distribution)).sum(0)


def _score_surrogate(distribution: Distribution, z: Tensor, f: Tensor, baseline: Tensor) -> Tensor:
    """The mean of f, with the gradient of (f − b) log q + f."""
    log_q = distribution.log_prob(z)
    return (f + (f - baseline).detach() * (log_q - log_q.detach())).mean(0)


def _baseline_tensor(baseline: float | Tensor | LearnedBaseline, f: Tensor) -> Tensor:
    """What is subtracted from f, on its device."""
    if isinstance(baseline, LearnedBaseline):
        if baseline.value.device != f.device:  # an update would wait for the device in every step
            raise ValueError(
                f"baseline is on {baseline.value.device}, the samples on {f.device}: move it, .to()"
            )
        return baseline.value.to(f)
    if not isinstance(baseline, Tensor) and not (
        isinstance(baseline, float | int) and math.isfinite(baseline)
    ):
        raise ValueError(f"baseline must be a finite number, a tensor or a LearnedBaseline, got {baseline!r}")
    b = torch.as_tensor(baseline).to(f)
    check_stretches("baseline", b.shape, f.shape)
    return b


def _sample(distribution: Distribution, n_samples: int, least: int = 1) -> Tensor:
    """Samples through which no gradient passes."""
    check_whole("n_samples", n_samples, least)
    # The bounds of a support that moves carry a gradient. Its edges belong to the gradient of E f too.
    support = _support(distribution)
    if support and any(isinstance(bound, Tensor) and bound.requires_grad for bound in vars(support).values()):
        raise ValueError(
            f"the support of {_name(distribution)} depends on its parameters, and a score function misses "
            "what its edges contribute; estimate the gradient with pathwise"
        )
    return distribution.sample((n_samples,)).detach()


def _evaluate(integrand: Integrand, z: Tensor, distribution: Distribution) -> Tensor:
    """The integrand's values, of the shape that the surrogate needs."""
    f = integrand(z)
    shape = z.shape[: z.ndim - len(distribution.event_shape)]
    if not isinstance(f, Tensor) or f.shape != shape or not f.is_floating_point():
        got = f"{f.dtype} of shape {tuple(f.shape)}" if isinstance(f, Tensor) else repr(f)
        raise ValueError(
            f"integrand must map z of shape {tuple(z.shape)} to real numbers of shape {tuple(shape)}, "
            f"one for each sample and batch element; got {got}"
        )
    return f


def _support(distribution: Distribution) -> Constraint | None:
    """The support of one coordinate, where the distribution declares any."""
    try:
        support: Any = distribution.support
    except NotImplementedError:  # what torch's base class answers
        return None
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _name(distribution: Distribution) -> str:
    base = base_distribution(distribution)
    name = type(base).__name__
    return name if base is distribution else f"Independent({name})"
