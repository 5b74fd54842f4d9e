r"""Invertible maps with their log-determinants: the contract of every flow, and its smallest members.

A flow *normalises*: z = f(x) carries the data to the base distribution, and x = g(z) = f⁻¹(z) carries samples
back. Every bijection gives both maps together with the logarithm of the volume they stretch.
"""

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from course_lib.checks import check_last_axis, check_whole

__all__ = ["ActNorm", "Bijection", "Composition", "Inverse", "Permutation"]


class Bijection(Transform, nn.Module):
    r"""An invertible map f of vectors, as a module with parameters and as a `torch.distributions.Transform`.

    A subclass defines the two methods below; `f(x)`, `f.inv(z)` and `f.log_abs_det_jacobian(x, z)` of torch's
    contract then follow, so that `TransformedDistribution(base, [f.inv])` is the density of x.
    """

    bijective = True
    domain = codomain = constraints.real_vector

    __hash__, __repr__ = nn.Module.__hash__, nn.Module.__repr__  # Transform's == would drop the one

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""z = f(x) and log|det ∂f/∂x|, in one pass.

        Args:
            x: shape (\*batch, D).

        Returns:
            z of shape (\*batch, D), and the log-determinant of shape (\*batch,).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward_and_log_det(x)")

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""x = g(z) and log|det ∂g/∂z|, minus the log-determinant of f at x.

        Args:
            z: shape (\*batch, D).

        Returns:
            x of shape (\*batch, D), and the log-determinant of shape (\*batch,).
        """
        raise NotImplementedError(f"{type(self).__name__} must define inverse_and_log_det(z)")

    def given(self, context: Tensor) -> "Bijection":
        r"""The bijection for one context of shape (\*batch, C): itself, where it depends on none."""
        return self

    def initialise(self, x: Tensor) -> None:
        """Start from a batch of data, where a layer can; most cannot, and do nothing."""

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[0]

    def _inverse(self, z: Tensor) -> Tensor:
        return self.inverse_and_log_det(z)[0]

    def log_abs_det_jacobian(self, x: Tensor, z: Tensor) -> Tensor:
        r"""log|det ∂f/∂x| at x, shape (\*batch,); z is not looked at."""
        return self.forward_and_log_det(x)[1]


class Inverse(Bijection):
    """Another bijection with f and g exchanged.

    An inverse autoregressive flow, fast to sample, is the `Inverse` of a `MaskedAutoregressive`.

    Args:
        bijection: the one to turn round.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection
        self.domain, self.codomain = bijection.codomain, bijection.domain

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The other's inverse."""
        return self.bijection.inverse_and_log_det(x)

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The other's forward map."""
        return self.bijection.forward_and_log_det(z)

    def given(self, context: Tensor) -> "Inverse":
        """The inverse of the other for this context."""
        return Inverse(self.bijection.given(context))


class Composition(Bijection):
    r"""Bijections one after the other, :math:`f = f_M \circ \dots \circ f_1`; their log-determinants add.

    Args:
        bijections: f_1 (applied to the data) to f_M.
    """

    def __init__(self, bijections: Iterable[Bijection]) -> None:
        super().__init__()
        self.bijections: Sequence[Bijection] = nn.ModuleList(bijections)  # type: ignore[assignment]
        if not self.bijections:
            raise ValueError("Composition needs at least one bijection, got none")
        self.domain, self.codomain = self.bijections[0].domain, self.bijections[-1].codomain

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First to last."""
        total = x.new_zeros(x.shape[:-1])
        for bijection in self.bijections:
            x, log_det = bijection.forward_and_log_det(x)
            total = total + log_det
        return x, total

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Last to first."""
        total = z.new_zeros(z.shape[:-1])
        for bijection in reversed(self.bijections):
            z, log_det = bijection.inverse_and_log_det(z)
            total = total + log_det
        return z, total

    def given(self, context: Tensor) -> "Composition":
        """Each member for this context."""
        return Composition(bijection.given(context) for bijection in self.bijections)

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Each member from what its predecessors make of the batch."""
        for bijection in self.bijections:
            bijection.initialise(x)
            x = bijection(x)


class Permutation(Bijection):
    """Another order of the features, z_i = x_{order[i]}; no volume changes.

    Args:
        order: the numbers 0 … D − 1, each once.
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        counted = torch.arange(len(order), device=order.device) if order.ndim == 1 and len(order) else None
        if order.dtype != torch.int64 or counted is None or not torch.equal(order.sort().values, counted):
            raise ValueError(
                f"order must hold each of 0 … D − 1 once, as int64, got {order.tolist()} of {order.dtype}"
            )
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    @classmethod
    def reversing(cls, n_features: int) -> Self:
        """The permutation that reads the features backwards."""
        return cls(torch.arange(n_features).flip(0))

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reordered, and 0."""
        return self._reorder(x, self.order)

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Ordered back, and 0."""
        return self._reorder(z, self.inverse_order)

    def _reorder(self, x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        check_last_axis("x", x, "n_features", len(order))
        return x.index_select(-1, order), x.new_zeros(x.shape[:-1])


class ActNorm(Bijection):
    r"""A shift and a scale for every feature.

    .. math:: z_i = (x_i - b_i)\, e^{s_i}, \qquad \log|\det J| = \sum_i s_i

    `initialise` sets them so that the batch leaves with mean 0 and standard deviation 1 in every feature;
    afterwards they are parameters like any other. Without it the map begins as the identity.

    Args:
        n_features: D.

    Source:
        Kingma and Dhariwal (2018), section 3.1.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        check_whole("n_features", n_features, 1)
        self.shift = nn.Parameter(torch.zeros(n_features))
        self.log_scale = nn.Parameter(torch.zeros(n_features))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        r"""Centre and scale by this batch of shape (N, D).

        Raises:
            ValueError: a feature is the same in all examples, so that no scale can bring it to 1.
        """
        check_last_axis("x", x, "n_features", len(self.shift))
        std, mean = torch.std_mean(x.reshape(-1, len(self.shift)), dim=0, correction=0)
        if not (std > 0).all():  # also true of NaN
            constant = (~(std > 0)).nonzero().flatten().tolist()
            raise ValueError(
                f"features {constant[:5]} of {len(std)} do not vary in the batch of shape {tuple(x.shape)} "
                "(or are NaN), so ActNorm cannot scale them to 1. Dequantise the data, or pass more of them."
            )
        self.shift.copy_(mean)
        self.log_scale.copy_(-std.log())

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""(x − b) ⊙ exp(s), and Σ s."""
        check_last_axis("x", x, "n_features", len(self.shift))
        return (x - self.shift) * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[:-1])

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Z ⊙ exp(−s) + b, and −Σ s."""
        check_last_axis("z", z, "n_features", len(self.shift))
        return z * (-self.log_scale).exp() + self.shift, -self.log_scale.sum().expand(z.shape[:-1])
