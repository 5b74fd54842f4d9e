r"""A latent-variable model is three distributions; PPCA is the one whose every quantity is exact."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, LowRankMultivariateNormal, MultivariateNormal

from course_lib.distributions import diagonal_normal

__all__ = ["PPCA", "LatentVariableModel"]


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


class PPCA(LatentVariableModel):
    r"""Probabilistic principal component analysis, with its exact posterior and exact likelihood.

    .. math::
        z \sim \mathcal N(0, I), \qquad x \mid z \sim \mathcal N(W z + b, \sigma^2 I)

    so that, with :math:`M = W^\top W + \sigma^2 I`,

    .. math::
        x \sim \mathcal N(b,\; W W^\top + \sigma^2 I), \qquad
        z \mid x \sim \mathcal N\bigl(M^{-1} W^\top (x - b),\; \sigma^2 M^{-1}\bigr).

    Args:
        weight: W, shape (D, L).
        bias: b, shape (D,).
        noise_std: σ > 0, the standard deviation of the pixel noise.

    Source:
        Tipping and Bishop (1999).
    """

    def __init__(self, weight: Tensor, bias: Tensor, noise_std: float | Tensor) -> None:
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"weight must have shape (D, L) and bias (D,); got {tuple(weight.shape)} and "
                f"{tuple(bias.shape)}"
            )
        noise_std = torch.as_tensor(noise_std, dtype=weight.dtype, device=weight.device)
        if not noise_std > 0:
            raise ValueError(f"noise_std must be > 0, got {float(noise_std)}")
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.log_noise_std = nn.Parameter(noise_std.detach().log())

    @classmethod
    def fit(cls, x: Tensor, n_latents: int) -> "PPCA":
        r"""The maximum-likelihood PPCA, in closed form.

        With eigenvalues :math:`\lambda_1 \ge \dots \ge \lambda_D` of the sample covariance (divided by N),
        σ² is the mean of the D − L smallest and :math:`W = U_L (\Lambda_L - \sigma^2 I)^{1/2}`.

        Args:
            x: shape (N, D).
            n_latents: L, with 1 ≤ L < D.

        Raises:
            ValueError: n_latents or N is too small or too large, or the examples vary in no more than L
                directions: then σ² is 0, and the likelihood has no maximum.
        """
        n, n_pixels = x.shape
        if not 1 <= n_latents < n_pixels:
            raise ValueError(f"n_latents must be between 1 and {n_pixels - 1}, got {n_latents}")
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

    @property
    def n_latents(self) -> int:
        """L, the dimension of z."""
        return self.weight.shape[1]

    @property
    def noise_std(self) -> Tensor:
        """σ, positive whatever the optimiser does to its logarithm."""
        return self.log_noise_std.exp()

    def prior(self) -> Independent:
        """N(0, I), event (L,)."""
        zeros = self.weight.new_zeros(self.n_latents)
        return diagonal_normal(zeros, torch.ones_like(zeros))

    def likelihood(self, z: Tensor) -> Independent:
        """N(W z + b, σ² I), event (D,).

        Raises:
            ValueError: z has another number of latents than the model.
        """
        _check_last_axis("z", z, "n_latents", self.n_latents)
        return diagonal_normal(z @ self.weight.T + self.bias, self.noise_std)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        """The exact p(z | x): N(M⁻¹ Wᵀ (x − b), σ² M⁻¹), event (L,).

        Raises:
            ValueError: x has another number of pixels than the model.
        """
        _check_last_axis("x", x, "n_pixels", len(self.bias))
        noise_variance = self.noise_std.square()
        identity = torch.eye(self.n_latents, dtype=x.dtype, device=x.device)
        precision = (self.weight.T @ self.weight + noise_variance * identity) / noise_variance
        shift = (x - self.bias) @ self.weight / noise_variance
        mean = torch.linalg.solve(precision, shift.unsqueeze(-1)).squeeze(-1)
        return MultivariateNormal(mean, precision_matrix=precision, validate_args=False)

    def marginal(self) -> LowRankMultivariateNormal:
        """The exact p(x): N(b, W Wᵀ + σ² I), event (D,)."""
        diagonal = self.noise_std.square().expand(self.bias.shape)
        return LowRankMultivariateNormal(self.bias, self.weight, diagonal, validate_args=False)

    def log_likelihood(self, x: Tensor) -> Tensor:
        r"""The exact log p(x) in nats; x of shape (\*batch, D), result (\*batch,).

        Raises:
            ValueError: x has another number of pixels than the model.
        """
        _check_last_axis("x", x, "n_pixels", len(self.bias))
        return cast(Tensor, self.marginal().log_prob(x))


def _check_last_axis(name: str, tensor: Tensor, size_name: str, size: int) -> None:
    """Refuse a last axis of another size, which broadcasting would stretch without complaint if it is 1."""
    if tensor.ndim == 0 or tensor.shape[-1] != size:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; its last axis must have this model's {size_name}={size}"
        )
