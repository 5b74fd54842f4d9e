r"""A latent-variable model is three distributions; PPCA and factor analysis are exact in all of them."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from course_lib.checks import check_examples, check_n_latents, check_whole
from course_lib.linear_gaussian import LinearGaussian

__all__ = ["PPCA", "FactorAnalysis", "LatentVariableModel", "draw_latents"]


class LatentVariableModel(nn.Module):
    r"""The interface that every explicit latent-variable model of the course implements.

    .. math:: p_\theta(x, z) = p_\theta(x \mid z)\, p(z), \qquad q_\phi(z \mid x) \approx p_\theta(z \mid x)

    The objectives and estimates of `course_lib.bounds` need these three methods and nothing else.
    Leading axes of z and x are batch axes and broadcast, so `likelihood(z).log_prob(x)` with z of shape
    (K, B, L) and x of shape (B, D) gives (K, B) without repeating any data.
    """

    def prior(self) -> Distribution:
        """p(z): event shape (L,), or () where z is discrete."""
        raise NotImplementedError(f"{type(self).__name__} must define prior()")

    def likelihood(self, z: Tensor) -> Distribution:
        r"""p(x | z): z of shape (\*batch, L); batch shape (\*batch,), event shape (D,)."""
        raise NotImplementedError(f"{type(self).__name__} must define likelihood(z)")

    def posterior(self, x: Tensor) -> Distribution:
        r"""q(z | x): x of shape (\*batch, D); batch shape (\*batch,), event shape (L,)."""
        raise NotImplementedError(f"{type(self).__name__} must define posterior(x)")

    @torch.no_grad()
    def sample(self, n_samples: int) -> Tensor:
        """Ancestral sampling, z ~ p(z) then x ~ p(x | z); shape (n_samples, D)."""
        return self.likelihood(self.prior().sample((n_samples,))).sample()


def draw_latents(posterior: Distribution, n_samples: int) -> Tensor:
    r"""K samples of the latents that carry gradients to the posterior's parameters.

    Args:
        posterior: what a model's `posterior(x)` returns.
        n_samples: K ≥ 1.

    Returns:
        shape (K, \*batch, \*event).

    Raises:
        ValueError: n_samples is no whole number ≥ 1, or gradients are recorded and the posterior has no
            reparametrised sampler.
    """
    check_whole("n_samples", n_samples, 1)
    if posterior.has_rsample:
        return posterior.rsample((n_samples,))
    if torch.is_grad_enabled():
        raise ValueError(
            f"{type(posterior).__name__} has no reparametrised sampler, so the gradient of this bound "
            "would silently lack a term. Evaluate under torch.no_grad(), or train with a score-function "
            "estimator."
        )
    return posterior.sample((n_samples,))


class FactorAnalysis(LinearGaussian, LatentVariableModel):
    r"""Factor analysis: `LinearGaussian` with a noise of its own for every pixel.

    .. math::
        z \sim \mathcal N(0, I), \qquad
        x \mid z \sim \mathcal N\bigl(W z + b,\; \operatorname{diag}(\sigma_1^2, \dots, \sigma_D^2)\bigr)

    Its maximum likelihood has no closed form: `fit_em` finds it.

    Args:
        weight: W, shape (D, L).
        bias: b, shape (D,).
        noise_std: σ, shape (D,), or one number for all; > 0.
        variance_floor: the least σ² that the M-step may set.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, noise_std: float | Tensor, variance_floor: float = 1e-6
    ) -> None:
        noise_std = torch.as_tensor(noise_std, dtype=bias.dtype, device=bias.device)
        if noise_std.shape not in ((), bias.shape):
            raise ValueError(
                f"noise_std must have shape (D,) = {tuple(bias.shape)}, got {tuple(noise_std.shape)}"
            )
        super().__init__(weight, bias, noise_std.expand(bias.shape), variance_floor)


class PPCA(LinearGaussian, LatentVariableModel):
    r"""Probabilistic principal component analysis: `LinearGaussian` with the same noise for all pixels.

    .. math::
        z \sim \mathcal N(0, I), \qquad x \mid z \sim \mathcal N(W z + b, \sigma^2 I)

    Args:
        weight: W, shape (D, L).
        bias: b, shape (D,).
        noise_std: σ > 0, one number: the standard deviation of the pixel noise.
        variance_floor: the least σ² that the M-step may set.

    Source:
        Tipping and Bishop (1999).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, noise_std: float | Tensor, variance_floor: float = 1e-6
    ) -> None:
        shape = tuple(torch.as_tensor(noise_std).shape)
        if shape:
            raise ValueError(f"PPCA has one noise_std, got shape {shape}; FactorAnalysis has one a pixel")
        super().__init__(weight, bias, noise_std, variance_floor)

    @classmethod
    def fit(cls, x: Tensor, n_latents: int) -> Self:
        r"""The maximum-likelihood PPCA, in closed form.

        With eigenvalues :math:`\lambda_1 \ge \dots \ge \lambda_D` of the sample covariance (divided by N),
        σ² is the mean of the D − L smallest and :math:`W = U_L (E - \sigma^2 I)^{1/2}`, where :math:`E` is
        diagonal with the L largest and the columns of :math:`U_L` are their eigenvectors.

        Args:
            x: shape (N, D).
            n_latents: L, with 1 ≤ L < D.

        Raises:
            ValueError: x is no matrix of finite floats; n_latents or N is too small or too large, or the
                examples vary in no more than L directions: then σ² is 0, and the likelihood has no maximum.
        """
        check_examples(x)
        n, n_pixels = x.shape
        check_n_latents(n_latents, n_pixels)
        if n < 2:
            raise ValueError(f"PPCA.fit needs at least 2 examples, got {n}")
        centred = x - x.mean(0)
        eigenvalues, eigenvectors = torch.linalg.eigh(centred.T @ centred / n)  # ascending
        noise_variance = eigenvalues[:-n_latents].mean()
        if not noise_variance > torch.finfo(x.dtype).eps * eigenvalues[-1]:  # what rounding makes of 0
            raise ValueError(
                f"the {n} examples vary in at most n_latents={n_latents} directions, so the noise variance "
                "of the maximum-likelihood PPCA is 0 and its density infinite. Ask for fewer n_latents, or "
                "take more or noisier examples (dequantised pixels, for instance)."
            )
        excess = (eigenvalues[-n_latents:] - noise_variance).clamp(min=0).flip(0)  # < 0 by rounding alone
        return cls(eigenvectors[:, -n_latents:].flip(1) * excess.sqrt(), x.mean(0), noise_variance.sqrt())
