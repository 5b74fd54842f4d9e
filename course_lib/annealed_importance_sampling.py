r"""Annealed importance sampling: log Z of an RBM through a path of machines that begins at an easy one.

The machine at inverse temperature β has the weights βW and βc and the visible bias (1 − β)a + βb. At β = 0 it
is a product of independent bits, with :math:`\log Z_0 = \sum_i \operatorname{softplus}(a_i) + M \log 2`; at β
= 1 it is the machine itself. Every chain of an estimate moves at once.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.distributions import log_mean_exp, sample_bits
from course_lib.progress import progress_bar
from course_lib.rbm import RBM, check_bits, check_rows

__all__ = [
    "AnnealedEstimate",
    "annealed_importance_sampling",
    "linear_schedule",
    "raise_bound",
    "reverse_annealed_importance_sampling",
    "sigmoid_schedule",
]


@dataclass(frozen=True)
class AnnealedEstimate:
    """An estimate of log Z, and what is needed to judge it.

    Attributes:
        log_partition: the estimate, in nats.
        standard_error: of `log_partition`, by the delta method: the weights' standard deviation over their
            mean and √n. Meaningless where the effective sample size is a handful.
        effective_sample_size: (Σw)² / Σw², between 1 and the number of chains. It sees only the modes which
            the chains have found.
        log_weights: of each chain, shape (n_chains,), float64.
    """

    log_partition: float
    standard_error: float
    effective_sample_size: float
    log_weights: Tensor


def linear_schedule(n_temperatures: int) -> Tensor:
    """Inverse temperatures from 0 to 1 in equal steps, shape (n_temperatures + 1,)."""
    _check_at_least_1(n_temperatures, "n_temperatures")
    return torch.linspace(0, 1, n_temperatures + 1, dtype=torch.float64)


def sigmoid_schedule(n_temperatures: int, steepness: float = 4.0) -> Tensor:
    r"""Inverse temperatures from 0 to 1 whose steps are smallest at the ends, shape (n_temperatures + 1,).

    .. math:: \beta_k = \frac{\sigma(s(2k/K - 1)) - \sigma(-s)}{\sigma(s) - \sigma(-s)}

    Args:
        n_temperatures: the number K of steps.
        steepness: s > 0; the steps in the middle are about e^s / 4 times those at the ends.
    """
    _check_at_least_1(n_temperatures, "n_temperatures")
    if not steepness > 0:
        raise ValueError(f"steepness must be positive, got {steepness}; equal steps are linear_schedule's")
    curve = torch.sigmoid(steepness * torch.linspace(-1, 1, n_temperatures + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def annealed_importance_sampling(
    rbm: RBM,
    schedule: Tensor,
    n_chains: int = 500,
    base_bias: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AnnealedEstimate:
    r"""Estimate log Z by annealing from independent bits to the machine.

    .. math::
        \log w = \sum_{k=1}^K \log \frac{f_{\beta_k}(v_{k-1})}{f_{\beta_{k-1}}(v_{k-1})}, \qquad
        v_0 \sim p_0, \quad v_k \sim T_{\beta_k}(\cdot \mid v_{k-1}), \qquad
        \mathbb E[w] = \frac{Z}{Z_0}

    with f the unnormalised p(v) on the path and T a step of block Gibbs. The mean of w is exact, so the mean
    of its log is below log Z: too short a schedule makes log Z too small, and a test likelihood too good.

    Args:
        rbm: the machine.
        schedule: β_0 = 0 < β_1 < … < β_K = 1, such as `linear_schedule(10_000)`.
        n_chains: independent chains.
        base_bias: a, shape (D,), such as the logit of the data's mean; None takes the visible bias.
        generator: of the machine's device; None draws from torch's global one.
        progress: show a progress bar on stderr.

    Source:
        Neal (2001); Salakhutdinov and Murray (2008) for RBMs.
    """
    path = _Path(rbm, base_bias)
    _check_at_least_1(n_chains, "n_chains")
    v = sample_bits(path.base_bias.expand(n_chains, -1), generator)
    log_weights = _anneal(path, v, _check_schedule(schedule), generator, progress)
    return _estimate(log_weights, path.base_log_partition, sign=1)


def reverse_annealed_importance_sampling(
    rbm: RBM,
    samples: Tensor,
    schedule: Tensor,
    base_bias: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AnnealedEstimate:
    r"""Estimate log Z by annealing from exact samples of the machine to independent bits.

    The weights are those of the same path, walked backwards:

    .. math::
        \log w' = \sum_{k=K}^1 \log \frac{f_{\beta_{k-1}}(v_{k-1})}{f_{\beta_k}(v_{k-1})}, \qquad
        v_K \sim p, \quad v_{k-1} \sim T_{\beta_k}(\cdot \mid v_k), \qquad
        \mathbb E[w'] = \frac{Z_0}{Z}

    so the mean of the estimate :math:`\log Z_0 - \log \bar w'` is above log Z. With the forward estimate it
    makes a bracket.

    Args:
        rbm: the machine.
        samples: independent **exact** samples of p(v), shape (n_chains, D), such as `rbm.sample_exact(500)`.
            From the states of a Markov chain, or from data, the result bounds nothing.
        schedule: as in `annealed_importance_sampling`, from 0 to 1; it is walked backwards here.
        base_bias: as there.
        generator: as there.
        progress: show a progress bar on stderr.

    Source:
        Burda, Grosse and Salakhutdinov (2015); Grosse, Ghahramani and Adams (2015) for the bracket.
    """
    path = _Path(rbm, base_bias)
    check_rows(samples, "samples")
    check_bits(samples, "samples")
    backwards = _check_schedule(schedule).flip(0)
    start = path.step(samples.to(rbm.weight.dtype), 1.0, generator)
    log_weights = _anneal(path, start, backwards, generator, progress)
    return _estimate(log_weights, path.base_log_partition, sign=-1)


def raise_bound(
    rbm: RBM,
    v: Tensor,
    schedule: Tensor,
    n_chains: int = 1,
    base_bias: Tensor | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    r"""A conservative estimate of log p(v): on average a lower bound, of a model close to the machine.

    That model draws v as forward annealing does, from independent bits through all the temperatures. Its
    log-probability of v is bounded by chains annealed backwards **from v itself**:

    .. math::
        \log f_1(v) - \log Z_0 + \log \frac1R \sum_{r=1}^R
        \prod_{k=K}^1 \frac{f_{\beta_{k-1}}(v^r_{k-1})}{f_{\beta_k}(v^r_{k-1})}, \qquad
        v^r_K = v, \quad v^r_{k-1} \sim T_{\beta_k}(\cdot \mid v^r_k)

    It approaches log p(v) as the schedule grows. A mode that no chain ever finds is missing from that model,
    which may then give v more than p does: agreement with the forward estimate does not rule this out.

    Args:
        rbm: the machine.
        v: test bits, shape (N, D).
        schedule: as in `annealed_importance_sampling`.
        n_chains: R, chains for each example.
        base_bias: as there.
        generator: as there.
        progress: show a progress bar on stderr.

    Returns:
        shape (N,), float64, in nats.

    Source:
        Burda, Grosse and Salakhutdinov (2015).
    """
    path = _Path(rbm, base_bias)
    check_rows(v, "v")
    check_bits(v, "v")
    v = v.to(rbm.weight.dtype)
    _check_at_least_1(n_chains, "n_chains")
    backwards = _check_schedule(schedule).flip(0)
    start = path.step(v.repeat(n_chains, 1), 1.0, generator)
    log_weights = _anneal(path, start, backwards, generator, progress).view(n_chains, len(v))
    with torch.no_grad():
        log_unnormalised = -rbm.free_energy(v).double()
    return log_unnormalised - path.base_log_partition + log_mean_exp(log_weights, dim=0)


class _Path:
    """The machines between independent bits with bias a, at β = 0, and the RBM, at β = 1."""

    def __init__(self, rbm: RBM, base_bias: Tensor | None) -> None:
        self.rbm, self.visible_bias = rbm, rbm.visible_bias.detach()
        self.base_bias = self.visible_bias if base_bias is None else base_bias.detach().to(self.visible_bias)
        if not all(parameter.isfinite().all() for parameter in rbm.parameters()):
            raise FloatingPointError("the machine has parameters that are NaN or infinite; train it anew")
        if self.base_bias.shape != self.visible_bias.shape:
            raise ValueError(
                f"base_bias must have shape {tuple(self.visible_bias.shape)}, the machine's visible bits; "
                f"got {tuple(self.base_bias.shape)}"
            )
        if not self.base_bias.isfinite().all():
            raise ValueError(
                "base_bias must be finite, but has values that are not. Where a pixel's mean is 0 or 1, take "
                "torch.logit(mean, eps=1e-3)."
            )
        softplus = F.softplus(self.base_bias.double()).sum()
        self.base_log_partition = float(softplus) + rbm.n_hidden * math.log(2)

    @torch.no_grad()
    def step(self, v: Tensor, beta: float, generator: torch.Generator | None) -> Tensor:
        """Block Gibbs of the machine at β."""
        return self._visible(sample_bits(beta * self.rbm.hidden_logits(v), generator), beta, generator)

    @torch.no_grad()
    def log_ratio_and_step(
        self, v: Tensor, old: float, new: float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """log f_new(v) − log f_old(v), and a step of the machine at `new`; one product serves both."""
        logits = self.rbm.hidden_logits(v)
        at_new = new * logits
        hidden = (F.softplus(at_new) - F.softplus(old * logits)).sum(-1)
        visible = (new - old) * (v @ (self.visible_bias - self.base_bias))
        return hidden + visible, self._visible(sample_bits(at_new, generator), new, generator)

    def _visible(self, h: Tensor, beta: float, generator: torch.Generator | None) -> Tensor:
        logits = beta * self.rbm.visible_logits(h) + (1 - beta) * self.base_bias
        return sample_bits(logits, generator)


def _anneal(
    path: _Path, v: Tensor, betas: Tensor, generator: torch.Generator | None, progress: bool
) -> Tensor:
    """The log-weight of each chain along the temperatures in their order, shape (n_chains,), float64."""
    log_weights = v.new_zeros(len(v), dtype=torch.float64)
    temperatures = betas.tolist()
    with progress_bar(len(temperatures) - 1, "temperature", progress) as bar:
        for old, new in pairwise(temperatures):
            log_ratio, v = path.log_ratio_and_step(v, old, new, generator)
            log_weights += log_ratio
            bar.update()
    return log_weights


def _estimate(log_weights: Tensor, base_log_partition: float, sign: int) -> AnnealedEstimate:
    shares = log_weights.softmax(0)  # each weight over their sum
    n = len(shares)
    return AnnealedEstimate(
        log_partition=base_log_partition + sign * float(log_mean_exp(log_weights, dim=0)),
        standard_error=float((n * shares).std() / math.sqrt(n)) if n > 1 else math.nan,
        effective_sample_size=1 / float(shares.square().sum()),
        log_weights=log_weights,
    )


def _check_schedule(schedule: Tensor) -> Tensor:
    """A schedule as float64 on the CPU, after a look at it."""
    betas = torch.as_tensor(schedule, dtype=torch.float64).cpu()
    if betas.ndim != 1 or len(betas) < 2 or betas[0] != 0 or betas[-1] != 1:
        raise ValueError(
            "schedule must be one row of inverse temperatures that begins with 0 and ends with 1, got shape "
            f"{tuple(betas.shape)}"
            + (f" from {betas[0]:g} to {betas[-1]:g}" if betas.ndim == 1 < len(betas) else "")
        )
    if not (betas.diff() > 0).all():
        place = int((~(betas.diff() > 0)).nonzero()[0])
        raise ValueError(
            f"schedule must increase at every step, but β_{place} = {betas[place]:g} is followed by "
            f"β_{place + 1} = {betas[place + 1]:g}"
        )
    return betas


def _check_at_least_1(number: int, name: str) -> None:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
