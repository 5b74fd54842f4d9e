"""Small models whose every quantity is known exactly, and the yardstick of the stochastic tests."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from course_lib.distributions import diagonal_normal
from course_lib.latent_variable_model import PPCA, LatentVariableModel


def standard_errors(samples: Tensor, truth: Tensor | float) -> float:
    """|mean − truth| in standard errors of the mean over the first axis; the largest entry's."""
    spread = samples.std(0) / math.sqrt(len(samples))
    return float(((samples.mean(0) - truth).abs() / spread).max())


def assert_bits_equal(one: Any, other: Any) -> None:
    """Two saved states, of tensors, numbers and strings in any nesting, are the same to the last bit."""
    assert type(one) is type(other), (one, other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_bits_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_bits_equal(left, right)
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    else:
        assert one == other


def random_ppca(n_pixels: int = 5, n_latents: int = 2, device: Any = "cpu") -> PPCA:
    """A PPCA with parameters drawn from the global generator."""
    weight, bias = torch.randn(n_pixels, n_latents), torch.randn(n_pixels)
    return PPCA(weight, bias, 0.7).to(device)


class OtherPosteriorPPCA(PPCA):
    """A PPCA whose q(z | x) is a diagonal Gaussian and not the exact posterior."""

    def posterior(self, x: Tensor) -> Independent:
        mean = torch.tanh((x - self.bias) @ self.weight / 4)
        return diagonal_normal(mean, torch.full_like(mean, 0.6))

    @classmethod
    def like(cls, ppca: PPCA) -> "OtherPosteriorPPCA":
        return cls(ppca.weight, ppca.bias, ppca.noise_std)


class MixturePriorModel(LatentVariableModel):
    """One latent with a bimodal prior, for which torch has no KL, and one pixel x ~ N(2z, 1).

    Each component's z ~ N(m, ½²) makes x ~ N(2m, 2), so p(x) is a mixture of two Gaussians.
    """

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([[-1.5], [1.0]]))
        self.register_buffer("probabilities", torch.tensor([0.3, 0.7]))

    probabilities: Tensor

    def prior(self) -> MixtureSameFamily:
        return self.mixture(self.means, torch.full_like(self.means, 0.5))

    def mixture(self, means: Tensor, stds: Tensor) -> MixtureSameFamily:
        weights = Categorical(probs=self.probabilities)
        return MixtureSameFamily(weights, diagonal_normal(means, stds), validate_args=False)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """The exact log p(x), shape (N,)."""
        return self.mixture(2 * self.means, torch.full_like(self.means, math.sqrt(2))).log_prob(x)

    def likelihood(self, z: Tensor) -> Independent:
        return diagonal_normal(2 * z, torch.ones_like(z))

    def posterior(self, x: Tensor) -> Independent:
        return diagonal_normal(0.4 * x, torch.full_like(x, 0.8))


class GaussianMixture(LatentVariableModel):
    """Three Gaussians in the plane: a discrete latent variable that can be summed over.

    `exact` makes q(z | x) Bayes' posterior; without it, q is another categorical.
    """

    def __init__(self, exact: bool = False) -> None:
        super().__init__()
        self.exact = exact
        self.register_buffer("probabilities", torch.tensor([0.5, 0.3, 0.2]))
        self.register_buffer("means", torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]]))

    probabilities: Tensor
    means: Tensor

    def prior(self) -> Categorical:
        return Categorical(probs=self.probabilities)

    def likelihood(self, z: Tensor) -> Independent:
        mean = self.means[z]
        return diagonal_normal(mean, torch.full_like(mean, 0.9))

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) of every z by enumeration: shape (N, 3)."""
        log_density = torch.stack([Normal(mean, 0.9).log_prob(x).sum(-1) for mean in self.means], -1)
        return self.probabilities.log() + log_density

    def posterior(self, x: Tensor) -> Categorical:
        return Categorical(logits=self.log_joint(x) if self.exact else 0.5 * x @ self.means.T)


def gaussian_expectation(function: Callable[[Tensor], Tensor], q: Distribution, n_nodes: int = 60) -> Tensor:
    """E_q f(z) by Gauss–Hermite quadrature; q a Gaussian vector of event (1,) and batch (N,).

    `function` maps z of shape (n_nodes, N, 1) to (n_nodes, N).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    z = q.mean + q.stddev * torch.as_tensor(nodes).to(q.mean).reshape(-1, 1, 1)
    return torch.as_tensor(weights / weights.sum()).to(q.mean) @ function(z)
