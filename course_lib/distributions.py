r"""The Gaussian and Bernoulli vectors of the course, and the Gaussian KL divergences in closed form.

Every constructor returns a `torch.distributions` object whose last axis is the event, built without
argument validation: validation reads values back from the device and would stall every training step.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, MixtureSameFamily, Normal

from course_lib.elementwise import softplus

__all__ = [
    "BernoulliVector",
    "DiagonalNormalMixture",
    "all_states",
    "base_distribution",
    "bernoulli_vector",
    "diagonal_normal",
    "diagonal_normal_mixture",
    "kl_between_diagonal_normals",
    "kl_between_normals",
    "kl_to_standard_normal",
    "log_mean_exp",
    "sample_bits",
    "sample_bits_of_mean",
]

MAX_STATES = 2**20


def diagonal_normal(mean: Tensor, std: Tensor) -> Independent:
    r"""The Gaussian vector :math:`\mathcal N(\mu, \operatorname{diag} \sigma^2)`.

    Args:
        mean: shape (\*batch, L).
        std: the standard deviation σ (neither σ² nor log σ), shape broadcastable to `mean`; > 0.

    Returns:
        a distribution of batch shape (\*batch,) and event shape (L,).
    """
    return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


class BernoulliVector(Independent):
    r"""A vector of independent bits with :math:`p(x_d = 1) = \sigma(\ell_d)`.

    .. math:: \log p(x) = \sum_d \bigl(x_d\, \ell_d - \log(1 + e^{\ell_d})\bigr)

    computed from the logits, so no pixel's probability is ever rounded to 0 or 1. The values are those of
    torch's own Bernoulli, within D roundings of 1, in half the time on a CPU: see `course_lib.elementwise`.

    Args:
        base_distribution: a Bernoulli of batch shape (\*batch, D).
        reinterpreted_batch_ndims: 1, the pixels.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Σ_d (x_d ℓ_d − log(1 + exp ℓ_d)): value of shape (\*batch, D), result (\*batch,)."""
        logits = self.base_dist.logits
        return (value * logits - softplus(logits)).sum(-1)


def bernoulli_vector(logits: Tensor) -> BernoulliVector:
    r"""The `BernoulliVector` of log-odds ℓ.

    Args:
        logits: the log-odds ℓ, shape (\*batch, D).

    Returns:
        a distribution of batch shape (\*batch,) and event shape (D,).
    """
    return BernoulliVector(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


class DiagonalNormalMixture(MixtureSameFamily):
    r"""A mixture of Gaussian vectors with diagonal covariances, whose log-density costs one matrix product.

    .. math::
        \log \sum_c \pi_c \mathcal N(z; m_c, \operatorname{diag} s_c^2), \qquad
        \sum_l \frac{(z_l - m_{cl})^2}{s_{cl}^2}
        = \begin{pmatrix} z^2 & z \end{pmatrix}
          \begin{pmatrix} s_c^{-2} \\ -2\, m_c / s_c^2 \end{pmatrix} + \sum_l \frac{m_{cl}^2}{s_{cl}^2}

    The parent class would form every z − m_c, C · L numbers for each z. The expanded square cancels where a
    component is much narrower than its distance from 0: the error is about ε · max (z² + m²) / s², with ε the
    precision of the type.

    Make one with `diagonal_normal_mixture`.
    """

    def component_log_prob(self, value: Tensor) -> Tensor:
        r"""log π_c + log N(z; m_c, diag s_c²): value of shape (\*batch, L), result (\*batch, C).

        Raises:
            ValueError: value has another number of latents than the mixture.
        """
        if value.ndim == 0 or value.shape[-1] != self.event_shape[0]:
            latents = value.shape[-1] if value.ndim else "no"
            raise ValueError(
                f"value has {latents} latents on its last axis (shape {tuple(value.shape)}); "
                f"this mixture has {self.event_shape[0]}"
            )
        normal = base_distribution(self.component_distribution)
        mean, std = normal.mean, normal.stddev
        precision = std.square().reciprocal()
        products = (
            torch.cat([value.square(), value], -1) @ torch.cat([precision, -2 * mean * precision], -1).T
        )
        distance = products + (mean.square() * precision).sum(-1)
        log_scale = (std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        return self.mixture_distribution.logits - log_scale - 0.5 * distance

    def log_prob(self, value: Tensor) -> Tensor:
        r"""log of the density: value of shape (\*batch, L), result (\*batch,)."""
        return self.component_log_prob(value).logsumexp(-1)


def diagonal_normal_mixture(logits: Tensor, mean: Tensor, std: Tensor) -> DiagonalNormalMixture:
    r"""The mixture :math:`\sum_c \pi_c\, \mathcal N(m_c, \operatorname{diag} s_c^2)`.

    Args:
        logits: log π up to a constant, shape (C,).
        mean: m, shape (C, L).
        std: the standard deviations s, shape (C, L); > 0.

    Returns:
        a distribution of batch shape () and event shape (L,).

    Raises:
        ValueError: the shapes do not fit together.
    """
    if mean.ndim != 2 or std.shape != mean.shape or logits.shape != mean.shape[:1]:
        got = f"{tuple(logits.shape)}, {tuple(mean.shape)} and {tuple(std.shape)}"
        raise ValueError(f"logits must have shape (C,), mean and std (C, L); got {got}")
    weights, components = Categorical(logits=logits, validate_args=False), diagonal_normal(mean, std)
    return DiagonalNormalMixture(weights, components, validate_args=False)


@torch.no_grad()
def sample_bits(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Independent bits with :math:`p(x_d = 1) = \sigma(\ell_d)`; no gradient passes.

    Args:
        logits: the log-odds ℓ, any shape.
        generator: of the logits' device; None draws from torch's global one.

    Returns:
        zeros and ones in the shape and type of `logits`.
    """
    return sample_bits_of_mean(logits.sigmoid(), generator)


@torch.no_grad()
def sample_bits_of_mean(mean: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Independent bits with :math:`p(x_d = 1) = \pi_d`, where the means π are known already.

    Like `torch.bernoulli`, which takes three times as long on a CPU. The uniform numbers of float32 are
    multiples of 2⁻²⁴, so each π is in effect rounded up to one.

    Args:
        mean: π in [0, 1], any shape.
        generator: of the means' device; None draws from torch's global one.

    Returns:
        zeros and ones in the shape and type of `mean`.
    """
    noise_type = torch.promote_types(mean.dtype, torch.float32)  # half precision is too coarse for noise
    if generator is None:
        noise = torch.rand_like(mean, dtype=noise_type)
    else:
        noise = torch.rand(mean.shape, generator=generator, dtype=noise_type, device=mean.device)
    return torch.lt(noise, mean, out=noise).to(mean.dtype)


def kl_to_standard_normal(mean: Tensor, std: Tensor) -> Tensor:
    r""":math:`\mathrm{KL}(\mathcal N(\mu, \operatorname{diag}\sigma^2) \,\|\, \mathcal N(0, I))` in nats.

    .. math:: \tfrac12 \sum_d \left(\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2\right)

    Args:
        mean: μ, shape (\*batch, L).
        std: σ > 0, shape (\*batch, L).

    Returns:
        shape (\*batch,).

    Source:
        Kingma and Welling (2014), appendix B.
    """
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).sum(-1)


def kl_between_diagonal_normals(mean_q: Tensor, std_q: Tensor, mean_p: Tensor, std_p: Tensor) -> Tensor:
    r"""KL(q ‖ p) between two Gaussians with diagonal covariances, in nats.

    .. math::
        \tfrac12 \sum_d \left(\frac{\sigma_{q,d}^2 + (\mu_{q,d} - \mu_{p,d})^2}{\sigma_{p,d}^2} - 1
        - \log\frac{\sigma_{q,d}^2}{\sigma_{p,d}^2}\right)

    Args:
        mean_q: shape (\*batch, L); likewise `std_q`, `mean_p` and `std_p`, with both std > 0.
        std_q: standard deviations of q.
        mean_p: means of p.
        std_p: standard deviations of p.

    Returns:
        shape (\*batch,).
    """
    ratio = (std_q / std_p).square()
    return 0.5 * (ratio + ((mean_q - mean_p) / std_p).square() - 1 - ratio.log()).sum(-1)


def kl_between_normals(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> Tensor:
    r"""KL(q ‖ p) between two Gaussians with full covariances, in nats.

    .. math::
        \tfrac12 \left(\operatorname{tr}(\Sigma_p^{-1}\Sigma_q)
        + (\mu_p - \mu_q)^\top \Sigma_p^{-1} (\mu_p - \mu_q) - L
        + \log\frac{\det\Sigma_p}{\det\Sigma_q}\right)

    Args:
        mean_q: shape (\*batch, L).
        cov_q: Σ_q, symmetric positive definite, shape (\*batch, L, L).
        mean_p: shape (\*batch, L).
        cov_p: Σ_p, symmetric positive definite, shape (\*batch, L, L).

    Returns:
        shape (\*batch,).

    Raises:
        torch.linalg.LinAlgError: a covariance is not positive definite.
    """
    chol_q, chol_p = torch.linalg.cholesky(cov_q), torch.linalg.cholesky(cov_p)
    whitened_chol = torch.linalg.solve_triangular(chol_p, chol_q, upper=False)
    whitened_mean = torch.linalg.solve_triangular(chol_p, (mean_p - mean_q).unsqueeze(-1), upper=False)
    trace, distance = whitened_chol.square().sum((-2, -1)), whitened_mean.square().sum((-2, -1))
    half_log_det_ratio = (_log_diagonal(chol_p) - _log_diagonal(chol_q)).sum(-1)
    return 0.5 * (trace + distance - mean_q.shape[-1]) + half_log_det_ratio


def _log_diagonal(chol: Tensor) -> Tensor:
    return chol.diagonal(dim1=-2, dim2=-1).log()


def log_mean_exp(log_values: Tensor, dim: int = 0) -> Tensor:
    r""":math:`\log \frac1K \sum_k e^{a_k}` along `dim`, without leaving log-space."""
    return log_values.logsumexp(dim) - math.log(log_values.shape[dim])


def base_distribution(distribution: Distribution) -> Distribution:
    """What an `Independent` is made of, or the distribution itself."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def all_states(distribution: Distribution) -> Tensor:
    r"""Every state of a discrete distribution, also of several independent variables: L bits have 2ᴸ.

    Args:
        distribution: with an `enumerate_support`, or an `Independent` of such, and no more than 2²⁰ states.

    Returns:
        shape (n_states, \*event).
    """
    base, event = base_distribution(distribution), distribution.event_shape
    if not base.has_enumerate_support:
        raise ValueError(f"distribution must have finitely many states, got {type(base).__name__}")
    states = base.enumerate_support(expand=False).reshape(-1, *base.event_shape)
    n_variables = math.prod(event) // math.prod(base.event_shape)
    if len(states) ** n_variables > MAX_STATES:
        raise ValueError(
            f"distribution has {len(states)}^{n_variables} states, more than the {MAX_STATES} that can be "
            "visited; sample instead"
        )
    rows = [torch.arange(len(states), device=states.device)] * n_variables
    return states[torch.cartesian_prod(*rows).reshape(-1, n_variables)].reshape(-1, *event)
