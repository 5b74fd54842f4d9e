r"""Mixtures of Gaussians: the latent-variable model whose latent is a class, with exact EM steps."""

import math
from typing import Literal, NamedTuple, cast

import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal
from torch.nn.functional import one_hot

from course_lib.checks import check_examples, check_floor, check_last_axis, check_whole
from course_lib.distributions import diagonal_normal
from course_lib.latent_variable_model import LatentVariableModel

__all__ = ["GaussianMixture", "MixtureExpectations"]


class MixtureExpectations(NamedTuple):
    """What the E-step of a mixture leaves for its M-step."""

    log_likelihood: Tensor
    """log p(x_n), shape (N,)"""
    responsibilities: Tensor
    """p(z = c | x_n), shape (N, C)"""


class GaussianMixture(LatentVariableModel):
    r"""A mixture of C Gaussians; z is the number of the component, an integer of event shape ().

    .. math::
        p(z = c) = \pi_c, \qquad x \mid z = c \sim \mathcal N(\mu_c, \Sigma_c), \qquad
        p(x) = \sum_{c=1}^C \pi_c\, \mathcal N(x; \mu_c, \Sigma_c)

    A component that shrinks to a point makes this likelihood infinite. So the M-step adds a floor ε to the
    variances, as scikit-learn's `reg_covar` does:

    .. math:: \Sigma_c = S_c + \varepsilon I, \qquad S_c \text{ the weighted covariance of the data.}

    Args:
        weights: π, shape (C,), ≥ 0 and of sum 1.
        means: μ, shape (C, D).
        covariances: Σ, full with shape (C, D, D), or the variances of diagonal ones with shape (C, D).
        variance_floor: ε > 0, in the squared unit of x (choose it for yours); it acts in the M-step only.

    Fit it with `fit_em`: an optimiser that follows gradients would leave the weights that sum to 1.
    """

    CHUNK = 2**17  # numbers in a block of whitened data: it stays in the processor's cache

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, variance_floor: float = 1e-6
    ) -> None:
        super().__init__()
        check_floor(variance_floor)
        if means.ndim != 2 or weights.shape != means.shape[:1]:
            got = f"{tuple(weights.shape)} and {tuple(means.shape)}"
            raise ValueError(f"weights must have shape (C,) and means (C, D); got {got}")
        if covariances.shape not in (means.shape, (*means.shape, means.shape[1])):
            got = f"{tuple(covariances.shape)} with means of {tuple(means.shape)}"
            raise ValueError(f"covariances must have shape (C, D, D), or (C, D) for diagonal ones; got {got}")
        for name, value in {"weights": weights, "means": means, "covariances": covariances}.items():
            if not value.is_floating_point() or (n_bad := int((~value.isfinite()).sum())):
                got = f"{n_bad} that are not finite" if value.is_floating_point() else str(value.dtype)
                raise ValueError(f"{name} must be finite floats, got {got}")
        if not (weights >= 0).all() or abs(float(weights.sum()) - 1) > 1e-4:
            raise ValueError(f"weights must be ≥ 0 and sum to 1, got {weights.tolist()}")
        if bad := _not_positive(covariances):
            kind = "variances > 0, or symmetric matrices with eigenvalues > 0"
            raise ValueError(f"covariances {bad} are not positive definite: they must be {kind}")
        self.weights = nn.Parameter(weights.detach().clone())
        self.means = nn.Parameter(means.detach().clone())
        self.covariances = nn.Parameter(covariances.detach().clone())
        self.variance_floor, self.full = variance_floor, covariances.ndim == 3

    @classmethod
    def start(
        cls,
        x: Tensor,
        n_components: int,
        covariance: Literal["full", "diagonal"] = "full",
        variance_floor: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> "GaussianMixture":
        """A mixture of C components for x of shape (N, D), N ≥ C: see `initialise`."""
        check_examples(x)
        if covariance not in ("full", "diagonal"):
            raise ValueError(f'covariance must be "full" or "diagonal", got {covariance!r}')
        check_whole("n_components", n_components, 1)
        means = x.new_zeros(n_components, x.shape[1])
        ones = torch.ones_like(means)
        variances = ones if covariance == "diagonal" else torch.diag_embed(ones)
        model = cls(ones[:, 0] / n_components, means, variances, variance_floor)
        model.initialise(x, generator)
        return model

    @property
    def n_components(self) -> int:
        """C, how many Gaussians there are."""
        return len(self.means)

    def prior(self) -> Categorical:
        """p(z), event ()."""
        return Categorical(logits=self.weights.log(), validate_args=False)

    def likelihood(self, z: Tensor) -> Distribution:
        r"""The Gaussian of component z, integers of shape (\*batch,); event (D,)."""
        if z.is_floating_point() or not ((z >= 0) & (z < self.n_components)).all():
            raise ValueError(f"z must hold integers from 0 to {self.n_components - 1}, got {z}")
        return self._gaussians(z)

    def posterior(self, x: Tensor) -> Categorical:
        r"""The exact p(z | x), the responsibilities; x of shape (\*batch, D), event ()."""
        return Categorical(logits=self.log_joint(x), validate_args=False)

    def marginal(self) -> MixtureSameFamily:
        """The exact p(x), event (D,)."""
        return MixtureSameFamily(self.prior(), self._gaussians(slice(None)), validate_args=False)

    def log_joint(self, x: Tensor) -> Tensor:
        r"""log p(x, z = c) of every c in nats; x of shape (\*batch, D), result (\*batch, C).

        With any square root of the precision, :math:`\Sigma_c^{-1} = P_c P_c^\top`,

        .. math::
            \log \pi_c + \log|\det P_c| - \tfrac D2 \log 2\pi
            - \tfrac12 \bigl\| P_c^\top (x - \mu_c) \bigr\|^2 .
        """
        check_last_axis("x", x, "n_pixels", self.means.shape[1])
        whiten, log_det = self._whitening()
        constant = self.weights.log() + log_det - 0.5 * self.means.shape[1] * math.log(2 * math.pi)
        blocks = []
        for rows in x.reshape(-1, x.shape[-1]).split(self._chunk()):
            centred = rows - self.means.unsqueeze(1)  # (C, n, D)
            whitened = centred @ whiten if self.full else centred * whiten.unsqueeze(1)
            blocks.append(constant - 0.5 * whitened.square().sum(-1).T)
        return torch.cat(blocks).reshape(*x.shape[:-1], self.n_components)

    def log_likelihood(self, x: Tensor) -> Tensor:
        r"""The exact log p(x) in nats; x of shape (\*batch, D), result (\*batch,)."""
        return self.log_joint(x).logsumexp(-1)

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """A k-means++ start: each example belongs to the nearest of C well-spread examples; then an M-step.

        The generator is one on the CPU; None draws from torch's global one.

        Raises:
            ValueError: fewer different examples than components; NaN or infinite values.
        """
        check_examples(x)
        check_last_axis("x", x, "n_pixels", self.means.shape[1])
        if len(x) < self.n_components:
            raise ValueError(f"{len(x)} examples cannot start {self.n_components} components; take fewer")
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        centres, _ = kmeans_plusplus(x.cpu().numpy(), self.n_components, random_state=seed)
        nearest = torch.cdist(x, torch.from_numpy(centres).to(x)).argmin(1)
        responsibilities = one_hot(nearest, self.n_components).to(x)
        if empty := int((responsibilities.sum(0) == 0).sum()):
            clash = f"fewer different examples than the {self.n_components} components"
            raise ValueError(f"x has {clash}, {empty} of which got none; take fewer")
        self.m_step(x, MixtureExpectations(x.new_empty(0), responsibilities))  # no likelihood so far

    @torch.no_grad()
    def e_step(self, x: Tensor) -> MixtureExpectations:
        """The responsibilities for every example, x of shape (N, D)."""
        log_joint = self.log_joint(x)
        responsibilities = log_joint.softmax(-1)
        # Bayes' rule at the most probable c, log p(x) = log p(x, c) − log p(c | x): faster than logsumexp.
        log_likelihood = log_joint.amax(-1) - responsibilities.amax(-1).log()
        return MixtureExpectations(log_likelihood, responsibilities)

    @torch.no_grad()
    def m_step(self, x: Tensor, expectations: MixtureExpectations) -> float:
        r"""The weighted proportions, means and covariances, in place.

        .. math::
            N_c = \sum_n r_{nc}, \qquad \pi_c = \frac{N_c}{N}, \qquad
            \mu_c = \frac1{N_c} \sum_n r_{nc}\, x_n, \qquad
            \Sigma_c = \frac1{N_c} \sum_n r_{nc}\, (x_n - \mu_c)(x_n - \mu_c)^\top + \varepsilon I

        A component without any responsibility keeps its mean, with the weight 0 and the covariance ε I.

        Returns:
            the most by which the mean log-likelihood may have fallen, in nats. It cannot fall for ε = 0; with
            a floor, what cannot is
            :math:`\overline{\log p(x)} - \tfrac\varepsilon2 \sum_c \pi_c \operatorname{tr} \Sigma_c^{-1}`
            with the new π before and after.
        """
        r = expectations.responsibilities
        totals = r.sum(0).unsqueeze(-1)  # (C, 1)
        counts = totals.clamp(min=torch.finfo(x.dtype).tiny)
        old_precision = self._precision_traces()
        self.weights.copy_(totals.squeeze(-1) / len(x))
        self.means.copy_(torch.where(totals > 0, r.T @ x / counts, self.means))
        scatter = torch.zeros_like(self.covariances)
        for rows, weights in zip(x.split(self._chunk()), r.split(self._chunk()), strict=True):
            weighted = (rows - self.means.unsqueeze(1)).mul_(weights.T.sqrt().unsqueeze(-1))  # (C, n, D)
            scatter += weighted.mT @ weighted if self.full else weighted.square_().sum(1)
        floor = torch.full_like(self.means, self.variance_floor)
        if self.full:
            counts, floor = counts.unsqueeze(-1), torch.diag_embed(floor)
        self.covariances.copy_(scatter / counts + floor)
        if bad := _not_positive(self.covariances):
            raise FloatingPointError(
                f"covariances {bad} are singular: variance_floor={self.variance_floor} is lost in rounding. "
                "Standardise the data, use float64, or raise the floor."
            )
        rise_of_precision = self._precision_traces() - old_precision
        return max(0.0, -0.5 * self.variance_floor * float(self.weights @ rise_of_precision))

    @torch.no_grad()
    def at_floor(self) -> list[int]:
        """In how many directions each component is flat: ε is at least half of the variance there."""
        variances = torch.linalg.eigvalsh(self.covariances) if self.full else self.covariances
        return cast(list[int], (variances <= 2 * self.variance_floor).sum(-1).tolist())

    def _gaussians(self, z: Tensor | slice) -> Distribution:
        if not self.full:
            return diagonal_normal(self.means[z], self.covariances[z].sqrt())
        scale_tril = torch.linalg.cholesky(self.covariances)[z]
        return MultivariateNormal(self.means[z], scale_tril=scale_tril, validate_args=False)

    def _chunk(self) -> int:
        """Examples in a block: few enough for the cache, but enough to pay for a block's scatter matrices."""
        return max(self.CHUNK // self.means.numel(), self.means.shape[1])

    def _whitening(self) -> tuple[Tensor, Tensor]:
        """P with Σ⁻¹ = P Pᵀ, shape (C, D, D), or its diagonal, (C, D); and log |det P|, shape (C,)."""
        if not self.full:
            return self.covariances.rsqrt(), -0.5 * self.covariances.log().sum(-1)
        cholesky = torch.linalg.cholesky(self.covariances)
        identity = torch.eye(cholesky.shape[-1], dtype=cholesky.dtype, device=cholesky.device)
        whiten = torch.linalg.solve_triangular(cholesky, identity, upper=False).mT
        return whiten, -cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _precision_traces(self) -> Tensor:
        """The trace of each Σ⁻¹, shape (C,)."""
        return self._whitening()[0].square().flatten(1).sum(1)


def _not_positive(covariances: Tensor) -> list[int]:
    """The numbers of the covariances that are not symmetric and positive definite."""
    if covariances.ndim == 2:
        bad = ~(covariances > 0).all(-1)
    else:
        skew = (covariances - covariances.mT).abs().amax((-2, -1)) > 1e-4 * covariances.abs().amax()
        bad = skew | (torch.linalg.cholesky_ex(covariances).info > 0)
    return cast(list[int], bad.nonzero().flatten().tolist())
