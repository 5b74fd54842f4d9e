r"""What importance weighting adds: a better gradient for the encoder, and what to measure of both."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_lib.bounds import _draw
from course_lib.checks import check_whole
from course_lib.distributions import log_mean_exp
from course_lib.latent_variable_model import LatentVariableModel

__all__ = ["DoublyReparametrisedBound", "active_units", "gradient_draws", "signal_to_noise"]


class DoublyReparametrisedBound(nn.Module):
    r"""The objective of `NegativeIwaeBound`, but the encoder's gradient does not drown in noise.

    With :math:`\tilde w_k = w_k / \sum_j w_j` and :math:`z_k = t_\phi(\varepsilon_k, x)`, the gradient of
    :math:`\mathcal L_K` is the mean of

    .. math::
        \nabla_\theta:\; \sum_k \tilde w_k\, \nabla_\theta \log p_\theta(x, z_k), \qquad
        \nabla_\phi:\; \sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k}\, \nabla_\phi z_k

    For K = 1 the second is the path derivative of Roeder et al. (2017), which leaves out the score.

    Args:
        model: a latent-variable model whose posterior has reparametrised samples, and whose posterior shares
            no parameters with prior and likelihood.
        n_samples: K, importance samples per example.

    Source:
        Tucker, Lawson, Gu and Maddison (2019), equation 7.
    """

    def __init__(self, model: LatentVariableModel, n_samples: int = 50) -> None:
        super().__init__()
        check_whole("n_samples", n_samples, 1)
        self.model, self.n_samples = model, n_samples

    def forward(self, x: Tensor) -> Tensor:
        """A batch of shape (B, D); the scalar to minimise."""
        z = _draw(self.model.posterior(x), self.n_samples)
        with torch.no_grad():
            frozen = self.model.posterior(x)  # a density that φ cannot move, only its argument
        log_weights = (
            self.model.likelihood(z).log_prob(x) + self.model.prior().log_prob(z) - frozen.log_prob(z)
        )
        shares = log_weights.detach().softmax(0)
        if z.requires_grad:
            z.register_hook(
                lambda gradient: shares.unsqueeze(-1) * gradient
            )  # w̃ a second time, towards φ only
        surrogate = (shares * log_weights).sum(0)
        bound = log_mean_exp(log_weights.detach(), dim=0)
        return -(bound + surrogate - surrogate.detach()).mean()


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

    Source:
        Burda, Grosse and Salakhutdinov (2016), section 4.1.
    """
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"x must hold at least two images in the shape (N, D), got {tuple(x.shape)}")
    return model.posterior(x).mean.var(0) > threshold


def gradient_draws(objective: nn.Module, batch: object, parameters: Sequence[Tensor], n_draws: int) -> Tensor:
    """Independent draws of a stochastic objective's gradient at one batch.

    Args:
        objective: a module whose forward pass on a batch is a random scalar.
        batch: the same for every draw.
        parameters: with respect to which; flattened, one after the other.
        n_draws: how many.

    Returns:
        shape (n_draws, number of entries).
    """
    check_whole("n_draws", n_draws, 2)
    draws = []
    for _ in range(n_draws):
        gradients = torch.autograd.grad(objective(batch), parameters)
        draws.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(draws)


def signal_to_noise(draws: Tensor) -> Tensor:
    r"""The signal-to-noise ratio :math:`|\mathrm E g| / \sqrt{\operatorname{Var} g}` of each gradient entry.

    Args:
        draws: shape (n_draws, \*entries).

    Returns:
        shape (\*entries); estimated from n draws, a ratio below 1/√n is indistinguishable from 0.

    Source:
        Rainforth et al. (2018), equation 5.
    """
    return draws.mean(0).abs() / draws.std(0)
