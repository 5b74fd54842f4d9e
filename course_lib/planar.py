r"""The planar flow: a map that bends space along one direction, inverted by finding a root."""

import math

import torch
from torch import Tensor, nn

from course_lib.bijections import Bijection
from course_lib.checks import check_batches, check_last_axis, check_whole, looked_at

__all__ = ["Planar", "PlanarMap", "invertible_direction"]

MAX_STEPS = 200


def invertible_direction(u: Tensor, w: Tensor) -> Tensor:
    r"""The vector û = u + const · w for which the planar map is invertible, a smooth function of u and w.

    .. math:: \hat u = u + \bigl(m(w^\top u) - w^\top u\bigr) \frac{w}{\|w\|^2}, \qquad
              m(a) = -1 + \log\bigl(1 + (e - 1)\, e^a\bigr), \qquad w^\top \hat u = m(w^\top u) > -1

    The paper has m(a) = −1 + log(1 + eᵃ), with m(0) ≠ 0: its û grows without limit as w → 0. Ours is that
    function shifted so that m(0) = 0: û stays near u, and u = 0 is the identity. Where w = 0, û = u.

    Args:
        u: shape (\*batch, D).
        w: shape (\*batch, D).

    Source:
        Rezende and Mohamed (2015), appendix A.1, with another m.
    """
    product = (w * u).sum(-1, keepdim=True)
    # m(a) − a = log(1 + (e⁻ᵃ − 1)/e), which is exact where a is tiny; far on the negative side it overflows.
    small = (product.clamp(min=-10).neg().expm1() / math.e).log1p()
    change = torch.where(product > -10, small, _margin(product) - 1 - product)
    return u + change * w / w.square().sum(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)


def _margin(product: Tensor) -> Tensor:
    r"""1 + m(a) = 1 + w·û, as the positive number it is even where w·û rounds to −1."""
    return nn.functional.softplus(product + math.log(math.e - 1))


class PlanarMap(Bijection):
    r"""The planar map of given u, w and b.

    .. math::
        f(x) = x + \hat u \tanh(w^\top x + b), \qquad
        \det J = 1 + w^\top \hat u\, \bigl(1 - \tanh^2(w^\top x + b)\bigr)
                = \tanh^2 + (1 + w^\top \hat u)\, (1 - \tanh^2)

    The second form adds positive numbers only, so it keeps its digits where :math:`w^\top \hat u` is near −1.

    Its inverse has no formula. Along w, with :math:`a = w^\top x`, it is one increasing equation,
    :math:`a + w^\top \hat u \tanh(a + b) = w^\top z`, whose root lies within :math:`|w^\top \hat u|` of
    :math:`w^\top z`; then :math:`x = z - \hat u \tanh(a + b)`.

    Args:
        u: shape (\*batch, D).
        w: shape (\*batch, D).
        b: shape (\*batch,).

    Source:
        Rezende and Mohamed (2015), section 4.1.
    """

    def __init__(self, u: Tensor, w: Tensor, b: Tensor) -> None:
        super().__init__()
        if u.shape != w.shape or b.shape != w.shape[:-1]:
            got = f"{tuple(u.shape)}, {tuple(w.shape)} and {tuple(b.shape)}"
            raise ValueError(f"u and w must have shape (*batch, D) and b (*batch,), got {got}")
        self.u, self.w, self.b = invertible_direction(u, w), w, b
        self.margin = _margin((w * u).sum(-1))

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""X + û tanh(w·x + b), and log(1 + w·û (1 − tanh²))."""
        check_last_axis("x", x, "n_features", self.w.shape[-1])
        check_batches("the context, with (u, w, b)", self.w.shape, x.shape)
        tanh = ((x * self.w).sum(-1) + self.b).tanh()
        return x + self.u * tanh.unsqueeze(-1), self._determinant(tanh).log()

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""The root by bisection and Newton steps, to the last digits of the type; gradients pass.

        Raises:
            FloatingPointError: z or the parameters are not finite, so that there is no root.
        """
        check_last_axis("z", z, "n_features", self.w.shape[-1])
        check_batches("the context, with (u, w, b)", self.w.shape, z.shape)
        target, slope = (z * self.w).sum(-1), (self.w * self.u).sum(-1)
        with torch.no_grad():
            root = _root(target + self.b, slope)
        # One Newton step that is recorded turns the root into a function of z, u, w and b, with the gradient
        # of the implicit function theorem: the residual is 0, so only its own derivative remains.
        tanh = root.tanh()
        derivative = self._determinant(tanh).detach()
        root = root - (root + slope * tanh - target - self.b) / derivative
        x = z - self.u * root.tanh().unsqueeze(-1)
        return x, -self._determinant(root.tanh()).log()

    def _determinant(self, tanh: Tensor) -> Tensor:
        return tanh.square() + self.margin * (1 - tanh.square())


class Planar(Bijection):
    r"""A planar layer that learns u, w and b, or reads them off a context.

    Args:
        n_features: D.
        n_context: size C of the context h; 0 for none. With one, (u, w, b) are a linear function of h, and
            the layer must be used through `given(h)`.
    """

    def __init__(self, n_features: int, n_context: int = 0) -> None:
        super().__init__()
        check_whole("n_features", n_features, 1)
        check_whole("n_context", n_context, 0)
        self.n_features, self.n_context = n_features, n_context
        start = torch.randn(2 * n_features + 1) * n_features**-0.5
        start[:n_features] *= 0.1  # u: close to the identity, but not on it
        if n_context:
            self.parameters_of = nn.Linear(n_context, 2 * n_features + 1)
            with torch.no_grad():
                self.parameters_of.weight.mul_(0.1)
                self.parameters_of.bias.copy_(start)
        else:
            self.values = nn.Parameter(start)

    def given(self, context: Tensor) -> Bijection:
        r"""The planar map of a context of shape (\*batch, C)."""
        if not self.n_context:
            return self
        check_last_axis("context", context, "n_context", self.n_context)
        return self._map(self.parameters_of(context))

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `PlanarMap`."""
        return self._unconditional().forward_and_log_det(x)

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As `PlanarMap`."""
        return self._unconditional().inverse_and_log_det(z)

    def _unconditional(self) -> PlanarMap:
        if self.n_context:
            raise ValueError(f"this Planar depends on a context of size {self.n_context}: use given(context)")
        return self._map(self.values)

    def _map(self, values: Tensor) -> PlanarMap:
        u, w, b = values.split([self.n_features, self.n_features, 1], -1)
        return PlanarMap(u, w, b.squeeze(-1))


def _root(target: Tensor, slope: Tensor) -> Tensor:
    r"""The a with a + slope · tanh(a) = target, for slope > −1: Newton steps inside a shrinking bracket."""
    low, high = target - slope.abs(), target + slope.abs()
    look = looked_at(target) and looked_at(slope)  # not inside vmap: all steps then
    if look and not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise FloatingPointError(
            "a planar map cannot be inverted at z that are not finite, or with parameters that are not"
        )
    root = target
    for _ in range(MAX_STEPS):
        tanh = root.tanh()
        residual = root + slope * tanh - target
        high, low = torch.where(residual > 0, root, high), torch.where(residual > 0, low, root)
        newton = root - residual / (1 + slope * (1 - tanh.square()))
        inside = (newton > low) & (newton < high)
        step = torch.where(inside, newton, 0.5 * (low + high)) - root
        root = root + step
        if look and (step.abs() <= 2 * torch.finfo(root.dtype).eps * (1 + root.abs())).all():
            break
    return root
