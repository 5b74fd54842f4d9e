r"""Hamiltonian Monte Carlo: samples from an unnormalised density by rolling over its landscape.

A position z is given a random momentum m and moved along the dynamics of the energy

.. math:: H(z, m) = -\log \tilde p(z) + \tfrac12 \lVert m \rVert^2

which leaves :math:`e^{-H}` unchanged. The leapfrog steps that approximate the dynamics keep volume and can be
reversed; accepting their end with probability :math:`\min(1, e^{-\Delta H})` removes the error they make.
With one step this is the Metropolis-adjusted Langevin algorithm (MALA).

Source: Duane, Kennedy, Pendleton and Roweth (1987); Neal (2011).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from course_lib.checks import check_stretches, check_whole

__all__ = ["HamiltonianSamples", "hamiltonian_monte_carlo", "leapfrog"]

LogDensity = Callable[[Tensor], Tensor]


class HamiltonianSamples(NamedTuple):
    """What the chains visited, and how often they moved."""

    samples: Tensor
    r"""shape (n_samples, \*chains, L)"""
    acceptance_rate: Tensor
    r"""the share of accepted trajectories after the warm-up, for each chain: shape (\*chains,)"""


class _Point(NamedTuple):
    """A position, and what the density is there."""

    z: Tensor
    log_density: Tensor
    gradient: Tensor


def hamiltonian_monte_carlo(
    log_density: LogDensity,
    initial: Tensor,
    n_samples: int,
    step_size: float | Tensor,
    n_leapfrog: int = 10,
    n_warmup: int = 0,
    generator: torch.Generator | None = None,
) -> HamiltonianSamples:
    r"""Run many independent chains at once, each with its own density if need be.

    A proposal whose density is zero or NaN is rejected. Nothing is tuned: choose ε for an acceptance rate of
    0.6 to 0.9, and the length ε · n_leapfrog near the width of the density (a fixed length of a whole period
    of the motion would return to its start).

    Args:
        log_density: log p̃ up to a constant, of positions (\*chains, L) to (\*chains,), differentiable; a
            chain's value may depend on its own position only: chains that see each other (through a mean over
            them, or batch normalisation) sample another density, and nothing here can notice.
        initial: where the chains start, shape (\*chains, L), of positive density.
        n_samples: how many positions of each chain are kept, all of them after the warm-up.
        step_size: ε > 0, a number or a tensor that broadcasts to `initial`, for scales that differ.
        n_leapfrog: leapfrog steps to each proposal; 1 is MALA, with Langevin time step ε².
        n_warmup: how many positions are passed through before.
        generator: the source of randomness, of the device of `initial`; None is torch's global one.

    Returns:
        `HamiltonianSamples`. Each costs `n_leapfrog` gradients for each chain.

    Source:
        Neal (2011).
    """
    step_size = _check_trajectory(initial, step_size, n_leapfrog, "initial")
    for name, number, least in (("n_samples", n_samples, 1), ("n_warmup", n_warmup, 0)):
        check_whole(name, number, least)
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator must be a torch.Generator or None, got {generator!r}")
    point = _evaluate(log_density, initial.detach())
    for name, values in (("log density", point.log_density), ("gradient", point.gradient)):
        if not values.isfinite().all():
            bad = float(values[~values.isfinite()][0])
            raise ValueError(f"initial must have a finite {name} in every chain, got {bad}")
    samples = initial.new_empty(n_samples, *initial.shape)
    n_accepted = torch.zeros(initial.shape[:-1], dtype=torch.long, device=initial.device)
    for step in range(-n_warmup, n_samples):
        momentum = _noise(torch.randn, initial.shape, generator, initial)
        proposal, end_momentum = _leapfrog(log_density, point, momentum, step_size, n_leapfrog)
        log_ratio = _negative_energy(proposal, end_momentum) - _negative_energy(point, momentum)
        u = _noise(torch.rand, log_ratio.shape, generator, initial)
        accept = u.log() < log_ratio  # false where the ratio is NaN
        point = _Point(
            torch.where(accept.unsqueeze(-1), proposal.z, point.z),
            torch.where(accept, proposal.log_density, point.log_density),
            torch.where(accept.unsqueeze(-1), proposal.gradient, point.gradient),
        )
        if step >= 0:
            samples[step] = point.z
            n_accepted += accept
    return HamiltonianSamples(samples, n_accepted.to(initial) / n_samples)


def leapfrog(
    log_density: LogDensity, position: Tensor, momentum: Tensor, step_size: float | Tensor, n_leapfrog: int
) -> tuple[Tensor, Tensor]:
    r"""Follow the dynamics of the energy; reversible, volume-preserving, and with an error in H of order ε².

    .. math::
        m \leftarrow m + \tfrac\varepsilon2 \nabla \log \tilde p(z), \qquad
        z \leftarrow z + \varepsilon m, \qquad
        m \leftarrow m + \tfrac\varepsilon2 \nabla \log \tilde p(z)

    Args:
        log_density: as in `hamiltonian_monte_carlo`.
        position: z, shape (\*chains, L).
        momentum: m, shape (\*chains, L).
        step_size: ε > 0.
        n_leapfrog: how many steps.

    Returns:
        z and m after the steps; from z and −m the same call leads back to the start.
    """
    step_size = _check_trajectory(position, step_size, n_leapfrog, "position")
    if momentum.shape != position.shape:
        raise ValueError(f"momentum must have shape {tuple(position.shape)}, got {tuple(momentum.shape)}")
    point, momentum = _leapfrog(
        log_density, _evaluate(log_density, position.detach()), momentum.detach(), step_size, n_leapfrog
    )
    return point.z, momentum


def _leapfrog(
    log_density: LogDensity, point: _Point, momentum: Tensor, step_size: Tensor, n_leapfrog: int
) -> tuple[_Point, Tensor]:
    for _ in range(n_leapfrog):
        momentum = momentum + step_size / 2 * point.gradient
        point = _evaluate(log_density, point.z + step_size * momentum)
        momentum = momentum + step_size / 2 * point.gradient
    return point, momentum


def _evaluate(log_density: LogDensity, z: Tensor) -> _Point:
    """The density and its gradient at z; the gradients of a model's own parameters stay as they are."""
    with torch.enable_grad():
        z = z.requires_grad_()
        values = log_density(z)
        if values.shape != z.shape[:-1]:
            raise ValueError(
                f"log_density must map positions of shape {tuple(z.shape)} to shape {tuple(z.shape[:-1])}, "
                f"got {tuple(values.shape)}"
            )
        if not values.requires_grad:
            raise ValueError(
                "log_density must be differentiable in the positions, but its values carry no gradient; look "
                "for .detach(), .item(), numpy or torch.no_grad inside it"
            )
        (gradient,) = torch.autograd.grad(values.sum(), z)
    return _Point(z.detach(), values.detach(), gradient)


def _negative_energy(point: _Point, momentum: Tensor) -> Tensor:
    return point.log_density - 0.5 * momentum.square().sum(-1)


def _noise(
    draw: Callable[..., Tensor], shape: torch.Size, generator: torch.Generator | None, like: Tensor
) -> Tensor:
    return draw(shape, generator=generator, dtype=like.dtype, device=like.device)


def _check_trajectory(z: Tensor, step_size: float | Tensor, n_leapfrog: int, name: str) -> Tensor:
    """The step size as a tensor, after the checks that both functions share."""
    check_whole("n_leapfrog", n_leapfrog, 1)
    if not isinstance(z, Tensor):
        raise ValueError(f"{name} must be a tensor of shape (*chains, L), got {type(z).__name__}")
    if not z.is_floating_point() or z.ndim < 1:
        raise ValueError(f"{name} must be real numbers of shape (*chains, L), got {z.dtype} {tuple(z.shape)}")
    step_size = torch.as_tensor(step_size, dtype=z.dtype, device=z.device)
    if not ((step_size > 0) & step_size.isfinite()).all():
        raise ValueError(f"step_size must be positive and finite, got {step_size.tolist()}")
    check_stretches("step_size", step_size.shape, z.shape)
    return step_size
