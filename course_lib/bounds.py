r"""Bounds on log p(x), and the objectives built from them: what turns a model into a method.

Everything here works on the three methods of `LatentVariableModel` and knows no model by name.
Values are per example and in nats; only the objectives average over the batch.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from course_lib.checks import check_last_axis, check_whole
from course_lib.distributions import log_mean_exp
from course_lib.latent_variable_model import LatentVariableModel, draw_latents

__all__ = [
    "Elbo",
    "NegativeElbo",
    "NegativeIwaeBound",
    "elbo",
    "estimate_log_likelihood",
    "iwae_bound",
    "log_importance_weights",
    "naive_log_likelihood",
]


class Elbo(NamedTuple):
    r"""An evidence lower bound and its two terms, each of shape (\*batch,), in nats."""

    value: Tensor
    """reconstruction − β · kl"""
    reconstruction: Tensor
    """the sampled average of log p(x | z)"""
    kl: Tensor
    """KL(q(z | x) ‖ p(z)), exact if `closed_form_kl`, else averaged over the same samples"""
    closed_form_kl: bool
    """whether torch knows this KL in closed form"""


def elbo(model: LatentVariableModel, x: Tensor, n_samples: int = 1, beta: float = 1.0) -> Elbo:
    r"""The evidence lower bound, as reconstruction minus KL.

    .. math::
        \mathcal L(x) = \frac1K \sum_{k=1}^K \log p_\theta(x \mid z_k)
        - \beta\, \mathrm{KL}\bigl(q_\phi(z \mid x) \,\|\, p(z)\bigr), \qquad z_k \sim q_\phi(z \mid x)

    Args:
        model: any latent-variable model.
        x: shape (\*batch, D).
        n_samples: K ≥ 1.
        beta: weight of the KL; 1 gives the bound, any other value the β-VAE's objective.

    Returns:
        an `Elbo`; every tensor has shape (\*batch,).

    Source:
        Kingma and Welling (2014), equation 3; β: Higgins et al. (2017).
    """
    posterior, prior = model.posterior(x), model.prior()
    z = draw_latents(posterior, n_samples)
    reconstruction = model.likelihood(z).log_prob(x).mean(0)
    try:
        kl, closed_form_kl = kl_divergence(posterior, prior), True
    except NotImplementedError:  # torch's answer for a pair it has no formula for
        kl, closed_form_kl = (posterior.log_prob(z) - prior.log_prob(z)).mean(0), False
    return Elbo(reconstruction - beta * kl, reconstruction, kl, closed_form_kl)


def log_importance_weights(model: LatentVariableModel, x: Tensor, n_samples: int) -> Tensor:
    r"""The log-weights of K posterior samples.

    .. math::
        \log w_k = \log p_\theta(x \mid z_k) + \log p(z_k) - \log q_\phi(z_k \mid x),
        \qquad z_k \sim q_\phi(z \mid x)

    Every term is evaluated at the sample: putting the closed-form KL here instead would give a number
    that is no longer a density ratio, and no longer a bound.

    Args:
        model: any latent-variable model.
        x: shape (\*batch, D).
        n_samples: K ≥ 1.

    Returns:
        shape (K, \*batch), in nats.
    """
    posterior = model.posterior(x)
    z = draw_latents(posterior, n_samples)
    return model.likelihood(z).log_prob(x) + model.prior().log_prob(z) - posterior.log_prob(z)


def iwae_bound(model: LatentVariableModel, x: Tensor, n_samples: int) -> Tensor:
    r"""The importance-weighted bound; K = 1 has the ELBO's mean.

    .. math:: \mathcal L_K(x) = \log \frac1K \sum_{k=1}^K w_k

    Args:
        model: any latent-variable model.
        x: shape (\*batch, D).
        n_samples: K ≥ 1.

    Returns:
        shape (\*batch,), in nats.

    Source:
        Burda, Grosse and Salakhutdinov (2016), equation 8.
    """
    return log_mean_exp(log_importance_weights(model, x, n_samples), dim=0)


@torch.no_grad()
def estimate_log_likelihood(
    model: LatentVariableModel, x: Tensor, n_samples: int, chunk: int = 4000
) -> Tensor:
    r"""The estimate of log p(x) by importance sampling with K samples, in bounded memory.

    It has the distribution of `iwae_bound`, whose weights it gathers a chunk at a time: at most `chunk`
    (sample, example) pairs exist at once, so memory does not grow with K or with the number of examples.

    The samples come from torch's global generator: `torch.manual_seed(0)` just before makes the estimate
    repeatable, for the same `chunk` and the same device.

    Where the weights have a finite second moment, :math:`\mathrm E_q w^2 < \infty`, the standard error of the
    estimate is about :math:`s / (\bar w \sqrt K)` with the mean and standard deviation of the weights (the
    delta method). For a posterior that is too narrow the moment may be infinite; then that number, computed
    from any sample, promises too much.

    Args:
        model: any latent-variable model.
        x: shape (N, D).
        n_samples: K ≥ 1.
        chunk: the most pairs held at once; each costs a few D-vectors.

    Returns:
        shape (N,), in nats; in expectation a lower bound of log p(x).

    Raises:
        ValueError: x has another shape or holds integers; n_samples or chunk is no whole number ≥ 1.
    """
    return _log_mean_in_chunks(lambda x, k: log_importance_weights(model, x, k), x, n_samples, chunk)


@torch.no_grad()
def naive_log_likelihood(model: LatentVariableModel, x: Tensor, n_samples: int, chunk: int = 4000) -> Tensor:
    r"""The estimate of log p(x) from K samples of the prior, in bounded memory: not for many latents.

    .. math:: \log \frac1K \sum_{k=1}^K p_\theta(x \mid z_k), \qquad z_k \sim p(z)

    Each example has samples of its own, so the errors of two examples are independent. The relative variance
    of the mean is :math:`\chi^2(p(z \mid x) \,\|\, p(z)) / K`, which grows exponentially with what x says
    about z. `estimate_log_likelihood` looks for z where the posterior is.

    Args:
        model: any latent-variable model; its posterior is not used.
        x: shape (N, D).
        n_samples: K ≥ 1.
        chunk: the most (sample, example) pairs held at once; each costs a few D-vectors.

    Returns:
        shape (N,), in nats; in expectation a lower bound of log p(x).

    Raises:
        ValueError: as `estimate_log_likelihood`; x has another number of pixels than the model.
    """
    prior = model.prior()

    def log_weights(x: Tensor, k: int) -> Tensor:
        likelihood = model.likelihood(prior.sample((k, len(x))))
        check_last_axis("x", x, "n_pixels", likelihood.event_shape.numel())
        return likelihood.log_prob(x)

    return _log_mean_in_chunks(log_weights, x, n_samples, chunk)


class NegativeElbo(nn.Module):
    r"""The objective :math:`-\frac1B \sum_b \mathcal L(x_b)` of a VAE, in nats per example.

    Args:
        model: the latent-variable model to train.
        beta: weight of the KL term.
        n_samples: posterior samples per example.
    """

    def __init__(self, model: LatentVariableModel, beta: float = 1.0, n_samples: int = 1) -> None:
        super().__init__()
        check_whole("n_samples", n_samples, 1)
        self.model, self.beta, self.n_samples = model, beta, n_samples

    def forward(self, x: Tensor) -> Tensor:
        """A batch of shape (B, D); the scalar to minimise."""
        return -elbo(self.model, x, self.n_samples, self.beta).value.mean()


class NegativeIwaeBound(nn.Module):
    r"""The objective :math:`-\frac1B \sum_b \mathcal L_K(x_b)` of an importance-weighted autoencoder.

    Args:
        model: the latent-variable model to train.
        n_samples: K, importance samples per example.
    """

    def __init__(self, model: LatentVariableModel, n_samples: int = 50) -> None:
        super().__init__()
        check_whole("n_samples", n_samples, 1)
        self.model, self.n_samples = model, n_samples

    def bound(self, x: Tensor) -> Tensor:
        r"""The bound of each example, x of shape (\*batch, D); a subclass may give it another gradient."""
        return iwae_bound(self.model, x, self.n_samples)

    def forward(self, x: Tensor) -> Tensor:
        """A batch of shape (B, D); the scalar to minimise."""
        return -self.bound(x).mean()


def _log_mean_in_chunks(
    log_weights: Callable[[Tensor, int], Tensor], x: Tensor, n_samples: int, chunk: int
) -> Tensor:
    """log of the mean weight of each example, with at most `chunk` (sample, example) pairs at once."""
    check_whole("n_samples", n_samples, 1)
    check_whole("chunk", chunk, 1)
    if x.ndim != 2 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(f"x must hold floats in the shape (N, D), N ≥ 1, got {x.dtype} of {tuple(x.shape)}")
    # One result tensor, filled piece by piece: thousands of small ones, kept while large temporaries come and
    # go between them, would fragment the heap into gigabytes.
    log_likelihood = x.new_empty(len(x))
    size = max(1, chunk // n_samples)
    for examples, result in zip(x.split(size), log_likelihood.split(size), strict=True):
        log_total = examples.new_full((len(examples),), -math.inf)
        for start in range(0, n_samples, chunk):
            log_sum = log_weights(examples, min(chunk, n_samples - start)).logsumexp(0)
            log_total = torch.logaddexp(log_total, log_sum)
        result.copy_(log_total - math.log(n_samples))
    return log_likelihood
