r"""Mixtures of Gaussians: the latent-variable model whose latent is a class, with exact EM steps."""

import math
from typing import Literal, NamedTuple, cast

import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal
from torch.nn.functional import one_hot

from course_lib.checks import check_examples, check_floor, check_last_axis
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
        variance_floor: ε > 0, in the squared unit of x; it acts in the M-step, and on no given covariance.
    """

    CHUNK = 2**18  # numbers in a block of whitened data: it stays in the processor's cache

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, variance_floor: float = 1e-6
    ) -> None:
        super().__init__()
        check_floor(variance_floor)
        if means.ndim != 2 or weights.shape != means.shape[:1]:
            raise ValueError(
                f"weights must have shape (C,) and means (C, D); got {tuple(weights.shape)} and "
                f"{tuple(means.shape)}"
            )
        if covariances.shape not in (means.shape, (*means.shape, means.shape[1])):
            raise ValueError(
                "covariances must have shape (C, D, D) or, where they are diagonal, (C, D); got "
                f"{tuple(covariances.shape)} with means of {tuple(means.shape)}"
            )
        if not (weights >= 0).all() or abs(float(weights.sum()) - 1) > 1e-4:
            raise ValueError(f"weights must be ≥ 0 and sum to 1, got {weights.tolist()}")
        if bad := _not_positive(covariances):
            raise ValueError(
                f"the covariances of components {bad} are not positive definite; they must be variances > 0, or "
                "symmetric matrices with eigenvalues > 0"
            )
        self.weights = nn.Parameter(weights.detach().clone())
        self.means = nn.Parameter(means.detach().clone())
        self.covariances = nn.Parameter(covariances.detach().clone())
        self.variance_floor = variance_floor

    @classmethod
    def start(
        cls,
        x: Tensor,
        n_components: int,
        covariance: Literal["full", "diagonal"] = "full",
        variance_floor: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> "GaussianMixture":
        """A k-means++ start for x: see `initialise`.

        Args:
            x: shape (N, D).
            n_components: C, with 1 ≤ C ≤ N.
            covariance: "full" or "diagonal".
            variance_floor: ε > 0.
            generator: on the CPU; None draws from torch's global one.
        """
        check_examples(x)
        if covariance not in ("full", "diagonal"):
            raise ValueError(f'covariance must be "full" or "diagonal", got {covariance!r}')
        if n_components < 1:
            raise ValueError(f"n_components must be at least 1, got {n_components}")
        means = x.new_zeros(n_components, x.shape[1])
        ones = torch.ones_like(means)
        variances = ones if covariance == "diagonal" else torch.diag_embed(ones)
        model = cls(ones[:, 0] / n_components, means, variances, variance_floor)
        model.initialise(x, generator)
        return model

    @property
    def n_components(self) -> int:
        """C."""
        return len(self.means)

    def prior(self) -> Categorical:
        """p(z), event ()."""
        return Categorical(probs=self.weights, validate_args=False)

    def likelihood(self, z: Tensor) -> Distribution:
        r"""The Gaussian of component z, integers of shape (\*batch,); event (D,)."""
        if (
            z.is_floating_point()
            or z.is_complex()
            or (z.numel() and not 0 <= z.min() <= z.max() < len(self.means))
        ):
            raise ValueError(
                f"z must hold component numbers, integers from 0 to {self.n_components - 1}; got {z.dtype} "
                f"from {z.min().item()} to {z.max().item()}"
            )
        return self._gaussians(self.means[z], self.covariances[z])

    def posterior(self, x: Tensor) -> Categorical:
        r"""The exact p(z | x), the responsibilities; x of shape (\*batch, D), event ()."""
        return Categorical(logits=self.log_joint(x), validate_args=False)

    def marginal(self) -> MixtureSameFamily:
        """The exact p(x), event (D,)."""
        components = self._gaussians(self.means, self.covariances)
        return MixtureSameFamily(self.prior(), components, validate_args=False)

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
        rows = x.reshape(-1, x.shape[-1]).split(self._chunk())
        blocks = [constant - 0.5 * self._squared_distances(block, whiten) for block in rows]
        return torch.cat(blocks).reshape(*x.shape[:-1], self.n_components)

    def log_likelihood(self, x: Tensor) -> Tensor:
        r"""The exact log p(x) in nats; x of shape (\*batch, D), result (\*batch,)."""
        return self.log_joint(x).logsumexp(-1)

    @torch.no_grad()
    def initialise(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """A k-means++ start: each example belongs to the nearest of C well-spread examples; then an M-step.

        Args:
            x: shape (N, D) with N ≥ C.
            generator: on the CPU; None draws from torch's global one.

        Raises:
            ValueError: fewer different examples than components; NaN.
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
            raise ValueError(
                f"x has fewer different examples than the {self.n_components} components, {empty} of which "
                "got none; take fewer components"
            )
        self.m_step(x, MixtureExpectations(x[:, 0], responsibilities))

    @torch.no_grad()
    def e_step(self, x: Tensor) -> MixtureExpectations:
        """The responsibilities for every example, x of shape (N, D)."""
        log_joint = self.log_joint(x)
        log_likelihood = log_joint.logsumexp(-1)
        return MixtureExpectations(log_likelihood, log_joint.sub_(log_likelihood.unsqueeze(-1)).exp_())

    @torch.no_grad()
    def m_step(self, x: Tensor, expectations: MixtureExpectations) -> float:
        r"""The weighted proportions, means and covariances, in place.

        .. math::
            N_c = \sum_n r_{nc}, \qquad \pi_c = \frac{N_c}{N}, \qquad
            \mu_c = \frac1{N_c} \sum_n r_{nc}\, x_n, \qquad
            \Sigma_c = \frac1{N_c} \sum_n r_{nc}\, (x_n - \mu_c)(x_n - \mu_c)^\top + \varepsilon I

        A component without any responsibility keeps its place, with the weight 0.

        Returns:
            the most by which the mean log-likelihood may have fallen because of the floor, in nats. Without
            the floor it cannot fall; with it,
            :math:`\log p(x) - \tfrac\varepsilon2 \sum_c \pi_c \operatorname{tr} \Sigma_c^{-1}` cannot, where
            π is the new one on both sides.
        """
        r = expectations.responsibilities
        counts = r.sum(0)
        used = counts > 0
        safe = counts.clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1)
        old_precision = self._precision_traces()
        self.weights.copy_(counts / len(x))
        self.means.copy_(torch.where(used.unsqueeze(-1), r.T @ x / safe, self.means))
        scatter = torch.zeros_like(self.covariances)
        for rows, weights in zip(x.split(self._chunk()), r.split(self._chunk()), strict=True):
            weighted = (rows - self.means.unsqueeze(1)).mul_(weights.T.sqrt().unsqueeze(-1))  # (C, n, D)
            scatter += weighted.mT @ weighted if scatter.ndim == 3 else weighted.square_().sum(1)
        floor = torch.full_like(self.means, self.variance_floor)
        if scatter.ndim == 3:
            used, safe, floor = used.unsqueeze(-1), safe.unsqueeze(-1), torch.diag_embed(floor)
        self.covariances.copy_(torch.where(used.unsqueeze(-1), scatter / safe + floor, self.covariances))
        if bad := _not_positive(self.covariances):
            raise FloatingPointError(
                f"the covariances of components {bad} are singular: in the rounding of these data, "
                f"variance_floor={self.variance_floor} is lost. Standardise them, use float64, or raise the floor."
            )
        excess = self.weights @ (old_precision - self._precision_traces())
        return max(0.0, 0.5 * self.variance_floor * float(excess))

    @torch.no_grad()
    def at_floor(self) -> list[int]:
        """In how many directions each component is flat: a variance of at most twice the floor."""
        full = self.covariances.ndim == 3
        variances = torch.linalg.eigvalsh(self.covariances) if full else self.covariances
        return cast(list[int], (variances <= 2 * self.variance_floor).sum(-1).tolist())

    def _gaussians(self, means: Tensor, covariances: Tensor) -> Distribution:
        if self.covariances.ndim == 2:
            return diagonal_normal(means, covariances.sqrt())
        return MultivariateNormal(means, scale_tril=torch.linalg.cholesky(covariances), validate_args=False)

    def _chunk(self) -> int:
        """Examples in a block of whitened data."""
        return max(1, self.CHUNK // self.means.numel())

    def _whitening(self) -> tuple[Tensor, Tensor]:
        """P with Σ⁻¹ = P Pᵀ, shape (C, D, D), or its diagonal, (C, D); and log |det P|, shape (C,)."""
        if self.covariances.ndim == 2:
            return self.covariances.rsqrt(), -0.5 * self.covariances.log().sum(-1)
        cholesky = torch.linalg.cholesky(self.covariances)
        identity = torch.eye(cholesky.shape[-1], dtype=cholesky.dtype, device=cholesky.device)
        whiten = torch.linalg.solve_triangular(cholesky, identity, upper=False).mT
        return whiten, -cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _squared_distances(self, x: Tensor, whiten: Tensor) -> Tensor:
        """‖Pᵀ(x − μ)‖² for x of shape (n, D): shape (n, C)."""
        centred = x - self.means.unsqueeze(1)  # (C, n, D)
        whitened = centred @ whiten if whiten.ndim == 3 else centred * whiten.unsqueeze(1)
        return whitened.square().sum(-1).T

    def _precision_traces(self) -> Tensor:
        """The trace of each Σ⁻¹, shape (C,)."""
        return self._whitening()[0].square().flatten(1).sum(1)


def _not_positive(covariances: Tensor) -> list[int]:
    """Which covariances are not positive definite, by number."""
    if covariances.ndim == 2:
        return (~(covariances > 0).all(-1)).nonzero().flatten().tolist()
    return torch.linalg.cholesky_ex(covariances).info.nonzero().flatten().tolist()
