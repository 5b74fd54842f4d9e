"""What vouches for a bijection: autograd's Jacobian, quadrature over the plane, and random parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.affine_flows import AffineCoupling, MaskedAutoregressive
from course_lib.bijections import ActNorm, Bijection, Composition, Inverse, Permutation
from course_lib.dequantisation import Logit
from course_lib.planar import Planar


def randomised(module: Any, scale: float = 0.5) -> Any:
    """The module with every parameter moved by Gaussian noise: fresh affine flows are the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def autograd_log_det(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """log|det| of the Jacobian of a function of vectors, at each row of x, shape (N, D)."""
    jacobians = torch.stack([torch.autograd.functional.jacobian(function, row) for row in x])
    return torch.linalg.slogdet(jacobians).logabsdet


def integral_over_the_plane(density: Callable[[Tensor], Tensor], half_width: float, n: int) -> float:
    """The integral of a density on the square [−h, h]² by the midpoint rule with n² points."""
    step = 2 * half_width / n
    points = (torch.arange(n, dtype=torch.float64) + 0.5) * step - half_width
    grid = torch.cartesian_prod(points, points)
    return float(sum(density(piece).sum() for piece in grid.split(50_000)) * step**2)


MAKERS: dict[str, Callable[[int], Bijection]] = {
    "permutation": lambda n: Permutation(torch.randperm(n)),
    "actnorm": ActNorm,
    "logit": lambda n: Logit(0.05),
    "planar": Planar,
    "coupling": lambda n: AffineCoupling(n, [16, 16]),
    "coupling of a mask": lambda n: AffineCoupling(n, [16], torch.arange(n) % 2 == 1),
    "autoregressive": lambda n: MaskedAutoregressive(n, [16, 16]),
    "inverse autoregressive": lambda n: Inverse(MaskedAutoregressive(n, [16, 16])),
    "inverse planar": lambda n: Inverse(Planar(n)),
    "composition": lambda n: Composition(
        [ActNorm(n), Planar(n), Permutation.reversing(n), AffineCoupling(n, [8]), Inverse(ActNorm(n))]
    ),
}


def bijection(name: str, n_features: int, device: Any = "cpu", scale: float = 0.5) -> Bijection:
    """The bijection of that name with random parameters."""
    made: nn.Module = randomised(MAKERS[name](n_features), scale)
    return made.to(device)  # type: ignore[return-value]


def inputs(name: str, n_features: int, n: int = 50, device: Any = "cpu") -> Tensor:
    """Points of the bijection's domain."""
    x = torch.rand(n, n_features) if name == "logit" else torch.randn(n, n_features)
    return x.to(device)
