"""Continuous normalizing flows: a bijection that solves a differential equation, and its log-determinant."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.bijections import Bijection
from course_lib.checks import check_last_axis, check_whole
from course_lib.networks import mlp
from course_lib.neural_ode import solve

__all__ = ["ContinuousFlow", "VelocityNetwork", "draw_probes", "exact_divergence", "hutchinson_divergence"]

NOISES = ("rademacher", "gaussian")


class VelocityNetwork(nn.Module):
    r"""A field v(z, t): a network on the state with the time appended, :math:`v = \mathrm{mlp}([z, t])`.

    The last layer starts at zero, so that a flow begins as the identity.

    Args:
        n_features: D.
        hidden: widths of the hidden layers.
        activation: a smooth one; a solver of high order needs derivatives.
    """

    def __init__(
        self, n_features: int, hidden: Sequence[int] = (64, 64), activation: type[nn.Module] = nn.Tanh
    ) -> None:
        super().__init__()
        check_whole("n_features", n_features, 1)
        self.n_features = n_features
        self.layers = mlp(n_features + 1, hidden, activation)
        last = nn.Linear([n_features + 1, *hidden][-1], n_features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers.append(last)

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        r"""Time a scalar or (\*batch, 1), state of shape (\*batch, D); the velocity, of the state's shape."""
        check_last_axis("state", state, "n_features", self.n_features)
        velocity: Tensor = self.layers(torch.cat([state, t.expand(*state.shape[:-1], 1)], -1))
        return velocity


def exact_divergence(field: nn.Module, t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    r"""The velocity and its divergence, the trace of ∂v/∂z; the price is D passes backwards.

    .. math:: \operatorname{tr}\frac{\partial \mathbf v}{\partial \mathbf z}
              = \sum_d \mathbf e_d^\top \frac{\partial \mathbf v}{\partial \mathbf z} \mathbf e_d

    Args:
        field: called as `field(t, state)`.
        t: a scalar.
        state: shape (\*batch, D).

    Returns:
        the velocity of shape (\*batch, D), and the divergence of shape (\*batch,).
    """
    unit = torch.eye(state.shape[-1], dtype=state.dtype, device=state.device)
    return _velocity_and_quadratic_forms(field, t, state, [e.expand_as(state) for e in unit])


def hutchinson_divergence(
    field: nn.Module, t: Tensor, state: Tensor, probes: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The velocity, and an unbiased estimate of its divergence from K random directions: K passes.

    .. math:: \frac1K \sum_k \boldsymbol\varepsilon_k^\top
              \frac{\partial \mathbf v}{\partial \mathbf z} \boldsymbol\varepsilon_k,
              \qquad \mathbb E[\boldsymbol\varepsilon\boldsymbol\varepsilon^\top] = \mathbf I

    Args:
        field, t, state: as for :func:`exact_divergence`.
        probes: the directions, shape (K, \*batch, D).

    Returns:
        the velocity of shape (\*batch, D), and the estimate of shape (\*batch,).

    Raises:
        ValueError: no probes, or probes of another shape.

    Source:
        Hutchinson (1990); Grathwohl et al. (2019), equation 8.
    """
    if not len(probes) or probes.shape[1:] != state.shape:
        raise ValueError(
            f"probes must have shape (K, *state.shape) with K >= 1, got {tuple(probes.shape)} for a state of "
            f"shape {tuple(state.shape)}: draw_probes(K, state) makes them"
        )
    velocity, total = _velocity_and_quadratic_forms(field, t, state, list(probes))
    return velocity, total / len(probes)


def _velocity_and_quadratic_forms(
    field: nn.Module, t: Tensor, state: Tensor, directions: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The velocity, and the sum of eᵀ (∂v/∂z) e over the directions, recorded where gradients are."""
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        if not (recorded and state.requires_grad):
            state = state.detach().requires_grad_()
        velocity = field(t, state)
        total = torch.zeros_like(velocity[..., 0])
        for e in directions:
            if not velocity.requires_grad:
                break
            (pulled,) = torch.autograd.grad(
                velocity, state, e, create_graph=recorded, retain_graph=True, materialize_grads=True
            )
            total = total + (pulled * e).sum(-1)
    return (velocity, total) if recorded else (velocity.detach(), total.detach())


def draw_probes(n_probes: int, state: Tensor, noise: str = "rademacher") -> Tensor:
    r"""Random directions of mean 0 and covariance I, shape (n_probes, \*state.shape): signs, or normal."""
    check_whole("n_probes", n_probes, 1)
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {NOISES}, got {noise!r}")
    probes = torch.randn(n_probes, *state.shape, dtype=state.dtype, device=state.device)
    return probes.sign() if noise == "rademacher" else probes


class _StateAndLogDet(nn.Module):
    """The field of (z, log|det|): velocity and divergence, side by side in the last axis."""

    def __init__(self, field: nn.Module, probes: Tensor | None) -> None:
        super().__init__()
        self.field, self.probes = field, probes

    def forward(self, t: Tensor, joint: Tensor) -> Tensor:
        state = joint[..., :-1]
        if self.probes is None:
            velocity, divergence = exact_divergence(self.field, t, state)
        else:
            velocity, divergence = hutchinson_divergence(self.field, t, state, self.probes)
        return torch.cat([velocity, divergence[..., None]], -1)


class ContinuousFlow(Bijection):
    r"""The bijection that follows a velocity field from the data at time 0 to the base at time `t_end`.

    .. math:: \frac{\mathrm d\mathbf z}{\mathrm dt} = \mathbf v_\theta(\mathbf z, t), \qquad
              \frac{\mathrm d}{\mathrm dt}
              \log\left|\det\frac{\partial \mathbf z(t)}{\partial \mathbf x}\right|
              = \operatorname{tr}\frac{\partial \mathbf v_\theta}{\partial \mathbf z}

    The inverse solves the same equation in the other direction. Any smooth field will do.

    Args:
        field: a module called as `field(t, state)`, state of shape (\*batch, D): a :class:`VelocityNetwork`.
        t_end: the time at which the base is reached.
        n_probes: of Hutchinson's estimate of the trace, drawn once a solve and held fixed while it lasts;
            0 means the exact trace. The attribute may be changed, say to 0 after training.
        noise: "rademacher" or "gaussian".
        options: the other arguments of :func:`course_lib.neural_ode.solve`: solver, tolerances, gradient.

    Raises:
        ValueError: a setting that makes no sense; what `solve` raises, on use.

    Source:
        Chen et al. (2018), theorem 1; Grathwohl et al. (2019).
    """

    def __init__(
        self,
        field: nn.Module,
        t_end: float = 1.0,
        n_probes: int = 0,
        noise: str = "rademacher",
        **options: Any,
    ) -> None:
        super().__init__()
        if not 0 < t_end < float("inf"):
            raise ValueError(f"t_end must be > 0 and finite, got {t_end}")
        check_whole("n_probes", n_probes, 0)
        if noise not in NOISES:
            raise ValueError(f"noise must be one of {NOISES}, got {noise!r}")
        self.field, self.t_end, self.options = field, t_end, options
        self.n_probes, self.noise = n_probes, noise

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""From the data to the base, with the integral of the trace; shapes (\*batch, D) and (\*batch,)."""
        return self._follow(x, [0.0, self.t_end])

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""From the base to the data; the integral runs backwards, and so its sign changes."""
        return self._follow(z, [self.t_end, 0.0])

    @torch.no_grad()
    def trajectory(self, state: Tensor, times: Tensor | Sequence[float]) -> Tensor:
        r"""The states at the given times, from `state` at the first: shape (len(times), \*batch, D)."""
        return solve(self.field, state, times, **self.options)

    def _follow(self, state: Tensor, times: Sequence[float]) -> tuple[Tensor, Tensor]:
        probes = draw_probes(self.n_probes, state, self.noise) if self.n_probes else None
        joint = torch.cat([state, torch.zeros_like(state[..., :1])], -1)
        joint = solve(_StateAndLogDet(self.field, probes), joint, times, **self.options)[-1]
        return joint[..., :-1], joint[..., -1]
