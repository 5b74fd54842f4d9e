r"""The mathematics that PPCA and factor analysis share: a linear map and independent noise, exactly."""

from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal

from course_lib.checks import (
    check_examples,
    check_floor,
    check_last_axis,
    check_n_latents,
)
from course_lib.distributions import diagonal_normal

__all__ = ["LinearExpectations", "LinearGaussian"]


class LinearExpectations(NamedTuple):
    """What the E-step of a linear Gaussian model leaves for its M-step."""

    log_likelihood: Tensor
    """log p(x_n), shape (N,)"""
    mean: Tensor
    """E[z | x_n], shape (N, L)"""
    covariance: Tensor
    """Cov[z | x_n], shape (L, L): the same for every example"""


class LinearGaussian(nn.Module):
    r"""What PPCA and factor analysis share: a linear map and independent noise, with exact inference.

    .. math::
        z \sim \mathcal N(0, I), \qquad x \mid z \sim \mathcal N(W z + b, \Psi), \qquad \Psi \text{ diagonal,}

    so that, with :math:`\Lambda = I + W^\top \Psi^{-1} W`, an L×L matrix,

    .. math::
        x \sim \mathcal N(b,\; W W^\top + \Psi), \qquad
        z \mid x \sim \mathcal N\bigl(\Lambda^{-1} W^\top \Psi^{-1} (x - b),\; \Lambda^{-1}\bigr).

    `initialise`, `e_step` and `m_step` are what `course_lib.em.fit_em` asks for.

    Args:
        weight: W, shape (D, L).
        bias: b, shape (D,).
        noise_std: the square roots of Ψ's diagonal, > 0.
        variance_floor: the least noise variance that the M-step may set, > 0, in the squared unit of x.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, noise_std: float | Tensor, variance_floor: float = 1e-6
    ) -> None:
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"weight must have shape (D, L) and bias (D,); got {tuple(weight.shape)} and "
                f"{tuple(bias.shape)}"
            )
        if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
            raise ValueError("weight and bias must be finite; they hold NaN or infinite values")
        noise_std = torch.as_tensor(noise_std, dtype=weight.dtype, device=weight.device)
        if not (noise_std > 0).all():
            raise ValueError(f"noise_std must be > 0, got {float(noise_std.min())}")
        check_floor(variance_floor)
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.log_noise_std = nn.Parameter(noise_std.detach().log())
        self.variance_floor = variance_floor

    @classmethod
    def start(
        cls,
        x: Tensor,
        n_latents: int,
        generator: torch.Generator | None = None,
        variance_floor: float = 1e-6,
    ) -> Self:
        """A random model to fit x with: see `initialise`.

        Args:
            x: shape (N, D).
            n_latents: L, with 1 ≤ L < D.
            generator: on the CPU; None draws from torch's global one.
            variance_floor: see the class.
        """
        check_examples(x)
        check_n_latents(n_latents, x.shape[1])
        weight = x.new_zeros(x.shape[1], n_latents)
        model = cls(weight, weight[:, 0], 1.0, variance_floor)
        model.initialise(x, generator)
        return model

    @property
    def n_latents(self) -> int:
        """L, the dimension of z."""
        return self.weight.shape[1]

    @property
    def noise_std(self) -> Tensor:
        """The standard deviation of the noise, positive whatever an optimiser does to its logarithm."""
        return self.log_noise_std.exp()

    def prior(self) -> Independent:
        """N(0, I), event (L,)."""
        zeros = self.weight.new_zeros(self.n_latents)
        return diagonal_normal(zeros, torch.ones_like(zeros))

    def likelihood(self, z: Tensor) -> Independent:
        """N(W z + b, Ψ), event (D,).

        Raises:
            ValueError: z has another number of latents than the model.
        """
        check_last_axis("z", z, "n_latents", self.n_latents)
        return diagonal_normal(z @ self.weight.T + self.bias, self.noise_std)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """The exact p(z | x): N(Λ⁻¹ Wᵀ Ψ⁻¹ (x − b), Λ⁻¹), event (L,).

        Raises:
            ValueError: x has another number of pixels than the model.
        """
        check_last_axis("x", x, "n_pixels", len(self.bias))
        precise_weight = self.weight / self._noise_variance().unsqueeze(-1)  # Ψ⁻¹ W
        identity = torch.eye(self.n_latents, dtype=x.dtype, device=x.device)
        precision = identity + self.weight.T @ precise_weight
        mean = (x - self.bias) @ precise_weight @ torch.linalg.inv(precision)
        return MultivariateNormal(mean, precision_matrix=precision, validate_args=False)

    def marginal(self) -> LowRankMultivariateNormal:
        """The exact p(x): N(b, W Wᵀ + Ψ), event (D,)."""
        return LowRankMultivariateNormal(self.bias, self.weight, self._noise_variance(), validate_args=False)

    def log_likelihood(self, x: Tensor) -> Tensor:
        r"""The exact log p(x) in nats; x of shape (\*batch, D), result (\*batch,).

        Raises:
            ValueError: x has another number of pixels than the model.
        """
        check_last_axis("x", x, "n_pixels", len(self.bias))
        return cast(Tensor, self.marginal().log_prob(x))

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start anew for x: its mean, random weights, and half of each pixel's variance as noise.

        Args:
            x: shape (N, D).
            generator: on the CPU; None draws from torch's global one.
        """
        check_examples(x)
        check_last_axis("x", x, "n_pixels", len(self.bias))
        half_variance = 0.5 * x.var(0, correction=0)
        noise = torch.randn(self.weight.shape, generator=generator, dtype=self.weight.dtype).to(x.device)
        self.bias.copy_(x.mean(0))
        self.weight.copy_((half_variance / self.n_latents).sqrt().unsqueeze(-1) * noise)
        self._set_noise_variance(half_variance)

    @torch.no_grad()
    def e_step(self, x: Tensor) -> LinearExpectations:
        """The posterior of every example, x of shape (N, D)."""
        if x.ndim != 2:
            raise ValueError(f"x must have shape (N, D), got {tuple(x.shape)}")
        posterior = self.posterior(x)
        return LinearExpectations(self.log_likelihood(x), posterior.mean, posterior.covariance_matrix[0])

    @torch.no_grad()
    def m_step(self, x: Tensor, expectations: LinearExpectations) -> None:
        r"""The linear regression of x on z, in expectation, in place.

        With :math:`m_n, V` the posterior's means and covariance, bars for averages over n, and
        :math:`C_{xz} = \overline{(x_n - \bar x)(m_n - \bar m)^\top}`,

        .. math::
            W = C_{xz} \bigl(V + \overline{(m_n - \bar m)(m_n - \bar m)^\top}\bigr)^{-1}, \qquad
            b = \bar x - W \bar m, \qquad
            \psi_d = \max\bigl(\overline{(x_{nd} - \bar x_d)^2} - (W C_{xz}^\top)_{dd},\ \text{floor}\bigr),

        for PPCA with the mean of the d in the last. Under the floor this is the exact maximum, so the
        likelihood cannot fall.

        Source:
            Rubin and Thayer (1982); for PPCA Tipping and Bishop (1999), appendix B.
        """
        z_centred = expectations.mean - expectations.mean.mean(0)
        x_centred = x - x.mean(0)
        second_moment = expectations.covariance + z_centred.T @ z_centred / len(x)
        cross = x_centred.T @ z_centred / len(x)
        self.weight.copy_(torch.linalg.solve(second_moment, cross.T).T)
        self.bias.copy_(x.mean(0) - self.weight @ expectations.mean.mean(0))
        self._set_noise_variance(x_centred.square().mean(0) - (self.weight * cross).sum(-1))

    @torch.no_grad()
    def at_floor(self) -> list[int]:
        """How many noise variances are at the floor, within a thousandth: a list of one number."""
        return [int((self.noise_std.square() <= self.variance_floor * 1.001).sum())]

    def _noise_variance(self) -> Tensor:
        """The diagonal of Ψ, shape (D,)."""
        return self.noise_std.square().expand(self.bias.shape)

    def _set_noise_variance(self, variance: Tensor) -> None:
        """Ψ from one variance a pixel; from their mean where the noise is the same for all."""
        variance = variance if self.log_noise_std.ndim else variance.mean()
        self.log_noise_std.copy_(0.5 * variance.clamp(min=self.variance_floor).log())
