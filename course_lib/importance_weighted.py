r"""What importance weighting adds: a better gradient for the encoder, and what to measure of both."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from course_lib.bounds import NegativeIwaeBound
from course_lib.checks import check_examples, check_whole
from course_lib.distributions import log_mean_exp
from course_lib.latent_variable_model import LatentVariableModel, draw_latents

__all__ = [
    "DoublyReparametrisedBound",
    "active_units",
    "doubly_reparametrised_bound",
    "effective_sample_size",
    "gradient_draws",
    "signal_to_noise",
]


def doubly_reparametrised_bound(model: LatentVariableModel, x: Tensor, n_samples: int) -> Tensor:
    r"""The value of `iwae_bound`, with the doubly reparametrised gradient.

    With :math:`\tilde w_k = w_k / \sum_j w_j` and :math:`z_k = t_\phi(\varepsilon_k, x)`, the gradient of
    :math:`\mathcal L_K` is the mean of

    .. math::
        \nabla_\theta:\; \sum_k \tilde w_k\, \nabla_\theta \log p_\theta(x, z_k), \qquad
        \nabla_\phi:\; \sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k}\, \nabla_\phi z_k .

    For K = 1 the second is the path derivative of Roeder et al. (2017), which leaves out the score. A
    parameter that appears on both sides, as in PPCA with its exact posterior, gets the sum of the two.

    Args:
        model: any latent-variable model whose posterior has a reparametrised sampler.
        x: shape (\*batch, D).
        n_samples: K ≥ 1.

    Returns:
        shape (\*batch,), in nats.

    Raises:
        ValueError: as `draw_latents`.

    Source:
        Tucker, Lawson, Gu and Maddison (2019).
    """
    posterior = model.posterior(x)
    z = draw_latents(posterior, n_samples)
    log_joint = model.likelihood(z).log_prob(x) + model.prior().log_prob(z)
    log_weights = log_joint - _log_prob_along_the_path(posterior, z)
    shares = log_weights.detach().softmax(0)
    if z.requires_grad:  # w̃ a second time, on its way to φ and not to θ
        per_event = shares.reshape(*shares.shape, *(1,) * (z.ndim - shares.ndim))
        z.register_hook(lambda gradient: per_event * gradient)
    surrogate = (shares * log_weights).sum(0)  # its gradient is wanted, not its value
    return log_mean_exp(log_weights.detach()) + surrogate - surrogate.detach()


def _log_prob_along_the_path(posterior: Distribution, z: Tensor) -> Tensor:
    """log q(z), whose gradient passes through z alone and not through the parameters of q.

    To evaluate the posterior again under `torch.no_grad()` would not do: a parameter that appears in it as it
    is, without any operation, still collects its gradient.
    """
    if not z.requires_grad:
        return posterior.log_prob(z).detach()
    leaf = z.detach().requires_grad_()
    log_prob = posterior.log_prob(leaf)
    (slope,) = torch.autograd.grad(log_prob.sum(), leaf)
    step = slope * (z - leaf.detach())  # zero, with the slope as its gradient
    return log_prob.detach() + step.reshape(*log_prob.shape, -1).sum(-1)


class DoublyReparametrisedBound(NegativeIwaeBound):
    r"""The objective of `NegativeIwaeBound`, but the encoder's gradient does not drown in noise.

    Same arguments, same value for the same random numbers; see `doubly_reparametrised_bound`.
    """

    def bound(self, x: Tensor) -> Tensor:
        r"""The bound of each example, x of shape (\*batch, D)."""
        return doubly_reparametrised_bound(self.model, x, self.n_samples)


def effective_sample_size(log_weights: Tensor, dim: int = 0) -> Tensor:
    r"""How many equal weights would estimate a mean as well.

    .. math:: \frac{\bigl(\sum_k w_k\bigr)^2}{\sum_k w_k^2} \in [1, K]

    Args:
        log_weights: shape (K, \*batch), along `dim`; nats, any constant added.
        dim: the axis of the samples.

    Returns:
        shape (\*batch,).

    Source:
        Kong (1992).
    """
    return (2 * log_weights.logsumexp(dim) - (2 * log_weights).logsumexp(dim)).exp()


@torch.no_grad()
def active_units(model: LatentVariableModel, x: Tensor, threshold: float = 0.01) -> Tensor:
    r"""Which latents move with the image.

    .. math:: \operatorname{Var}_x\, \mathrm E_{q(z \mid x)}[z_l] > \text{threshold}

    Args:
        model: any latent-variable model with latent vectors.
        x: images, shape (N, D), N ≥ 2.
        threshold: of the variance, in units of z².

    Returns:
        booleans, shape (L,).

    Raises:
        ValueError: x has another shape, or holds a number that is not finite.

    Source:
        Burda, Grosse and Salakhutdinov (2016), section 5.2.
    """
    check_examples(x)
    if len(x) < 2:
        raise ValueError("x must hold at least 2 images: the variance is taken over them, got 1")
    return model.posterior(x).mean.var(0) > threshold


def gradient_draws(objective: nn.Module, batch: Any, parameters: Sequence[Tensor], n_draws: int) -> Tensor:
    """Independent draws of a stochastic objective's gradient at one batch.

    Args:
        objective: a module whose forward pass on a batch is a random scalar.
        batch: the same for every draw.
        parameters: with respect to which; flattened, one after the other. A parameter that the objective
            does not use has gradient 0.
        n_draws: how many, at least 2.

    Returns:
        shape (n_draws, number of entries).
    """
    check_whole("n_draws", n_draws, 2)
    if not parameters:
        raise ValueError("parameters must hold at least one tensor, got none")
    draws = []
    for _ in range(n_draws):
        gradients = torch.autograd.grad(objective(batch), parameters, materialize_grads=True)
        draws.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(draws)


def signal_to_noise(draws: Tensor) -> Tensor:
    r"""The signal-to-noise ratio :math:`|\mathrm E g| / \sqrt{\operatorname{Var} g}` of each gradient entry.

    Args:
        draws: shape (n_draws, \*entries), n_draws ≥ 2.

    Returns:
        shape (\*entries); from n draws a ratio below about 2/√n is indistinguishable from 0.

    Source:
        Rainforth et al. (2018).
    """
    if draws.ndim == 0 or len(draws) < 2:
        raise ValueError(f"draws must have at least 2 rows, got the shape {tuple(draws.shape)}")
    return draws.mean(0).abs() / draws.std(0)
