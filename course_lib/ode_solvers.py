"""torchdiffeq's solvers behind one call: what they refuse said beforehand, where they fail said in words."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchdiffeq import odeint

from course_lib.checks import check_whole

__all__ = [
    "ADAPTIVE_METHODS",
    "FIXED_METHODS",
    "SolverSettings",
    "check_derivative",
    "checked_times",
    "integrate",
]

Field = Callable[[Tensor, Tensor], Tensor]

ADAPTIVE_METHODS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""Solvers that choose their steps by the tolerances."""

FIXED_METHODS = ("euler", "midpoint", "heun2", "heun3", "rk4")
"""Solvers that take steps of the given size."""


class SolverSettings(NamedTuple):
    """How to solve: a method, its tolerances or its step size, and the most steps between two times."""

    method: str
    rtol: float
    atol: float
    step_size: float | None
    max_steps: int

    def check(self) -> None:
        """Refuse what no solver could make sense of, with a ValueError."""
        if self.method not in ADAPTIVE_METHODS + FIXED_METHODS:
            raise ValueError(f"method must be one of {ADAPTIVE_METHODS + FIXED_METHODS}, got {self.method!r}")
        if not (0 < self.rtol < math.inf and 0 < self.atol < math.inf):
            raise ValueError(f"rtol and atol must be > 0, got rtol={self.rtol} and atol={self.atol}")
        fixed = self.method in FIXED_METHODS
        if fixed and not (self.step_size is not None and 0 < self.step_size < math.inf):
            raise ValueError(
                f"{self.method!r} takes fixed steps and needs step_size > 0, got {self.step_size}"
            )
        if not fixed and self.step_size is not None:
            raise ValueError(f"{self.method!r} chooses its steps by rtol and atol; leave step_size out")
        check_whole("max_steps", self.max_steps, 1)


class _Watched:
    """Remembers the time at which the solver asked last."""

    def __init__(self, field: Field) -> None:
        self.field, self.t = field, math.nan

    def __call__(self, t: Tensor, state: Tensor) -> Tensor:
        self.t = t  # type: ignore[assignment]  # turned into a number only where an error is raised
        return self.field(t, state)


def integrate(
    field: Field,
    state: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """torchdiffeq's solver, with its assertions turned into errors that say where and what to do."""
    if not state.numel():  # an empty batch has no error by which to choose a step
        return (state + field(times[0].to(state), state)).expand(len(times), *state.shape)
    watched = _Watched(field)
    options: dict[str, Any] = {"max_num_steps": settings.max_steps}
    if settings.method in FIXED_METHODS:
        options = {"grid_constructor": lambda _field, _state, t: _grid(t, settings)}
    elif norm is not None:
        options["norm"] = norm
    if settings.method == "dopri8":  # between its long steps torchdiffeq would interpolate at low order
        options["step_t"] = times[1:].detach()
    try:
        states: Tensor = odeint(
            watched,
            state,
            times,
            rtol=settings.rtol,
            atol=settings.atol,
            method=settings.method,
            options=options,
        )
    except AssertionError as error:
        raise _explained(str(error), float(watched.t), settings) from error
    if not torch.isfinite(states).all():
        raise FloatingPointError(
            f"the solution became infinite or NaN on the way to t = {float(times[-1]):g}. {CURE}"
        )
    return states


CURE = (
    "Either the dynamics explode (shrink the field's weights, bound its output, or shorten the time), or "
    "they are stiff (loosen rtol and atol, or use a smaller fixed step)."
)


def _explained(message: str, t: float, settings: SolverSettings) -> Exception:
    """torchdiffeq's assertion in our words; any other as it was."""
    where = f"at t = {t:g} with {settings.method}, rtol={settings.rtol:g}, atol={settings.atol:g}"
    if message.startswith(("underflow in dt", "non-finite values")):
        return FloatingPointError(f"the solver's step shrank to nothing {where}. {CURE}")
    if message.startswith("max_num_steps"):
        return RuntimeError(f"more than max_steps={settings.max_steps} steps {where}. Allow more, or: {CURE}")
    return AssertionError(message)


def _grid(times: Tensor, settings: SolverSettings) -> Tensor:
    """All steps of a fixed method, in equal parts between each two times."""
    points = [times[:1]]
    for start, end in itertools.pairwise(times):
        length = float((end - start).abs().detach())
        n_steps = max(1, math.ceil(length / (settings.step_size or length) - 1e-6))
        if n_steps > settings.max_steps:
            raise RuntimeError(
                f"{n_steps} steps after t = {float(start):g}, above max_steps={settings.max_steps}"
            )
        share = torch.arange(1, n_steps, dtype=times.dtype, device=times.device) / n_steps
        points += [start + (end - start) * share, end[None]]
    return torch.cat(points)


def checked_times(times: Tensor | Sequence[float], state: Tensor) -> Tensor:
    """The times as a tensor beside the state; refuses what is no grid, and what is no state."""
    if not isinstance(state, Tensor) or state.dtype not in (torch.float32, torch.float64):
        seen = state.dtype if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(
            f"state must be a tensor of float32 or float64, got {seen}; a whole number cannot move, and half "
            "precision has fewer digits than the tolerances ask for"
        )
    if not torch.isfinite(state).all():
        raise ValueError("state must be finite, got NaN or infinity; look for it in the data")
    if not isinstance(times, Tensor):
        times = torch.tensor(times, dtype=state.dtype, device=state.device)
    grid = times.detach()
    if times.ndim != 1 or len(times) < 2 or not times.is_floating_point() or not torch.isfinite(grid).all():
        raise ValueError(f"times must be two or more finite floats in one row, got {grid.tolist()}")
    steps = grid.diff()
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"times must strictly rise or strictly fall, got {grid.tolist()}; sort, drop repeats"
        )
    return times.to(state.device)


def check_derivative(
    field: Field, state: Tensor, start: Tensor, parameters: tuple[Tensor, ...] | None
) -> None:
    """Evaluate once, where an error can still be explained; with parameters given, look for strangers."""
    state = state.detach().requires_grad_()
    v = field(start.detach().to(state), state)
    if not isinstance(v, Tensor) or v.shape != state.shape or v.dtype != state.dtype:
        seen = f"{v.dtype} of shape {tuple(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(
            f"field(t, state) must return {state.dtype} of the state's shape {tuple(state.shape)}, got {seen}"
        )
    if not torch.isfinite(v.detach()).all():
        raise FloatingPointError(f"field(t, state) is infinite or NaN at the start, t = {float(start):g}")
    nodes, seen_nodes, known = [v.grad_fn], set(), {id(p) for p in (state, *(parameters or ()))}
    while parameters is not None and nodes:
        node = nodes.pop()
        if node is None or node in seen_nodes:
            continue
        seen_nodes.add(node)
        nodes += [following for following, _ in node.next_functions]
        stranger = getattr(node, "variable", None)
        if stranger is not None and id(stranger) not in known:
            raise ValueError(
                f"field uses a tensor of shape {tuple(stranger.shape)} that requires gradients and is none "
                "of field.parameters(): the adjoint would not reach it. Register it, make it a part of the "
                'state, or solve with gradient="backprop".'
            )
