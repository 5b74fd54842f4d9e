"""Differential equations whose field is a network, and the adjoint: their gradients at constant memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.ode_solvers import SolverSettings, check_derivative, checked_times, integrate

__all__ = ["CountedField", "NeuralODE", "solve"]


def solve(
    field: nn.Module,
    state: Tensor,
    times: Tensor | Sequence[float],
    method: str = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-6,
    step_size: float | None = None,
    gradient: str = "adjoint",
    max_steps: int = 10_000,
) -> Tensor:
    r"""The solution of an initial value problem at the given times.

    .. math:: \frac{\mathrm d \mathbf z(t)}{\mathrm d t} = \mathbf v_\theta(\mathbf z(t), t),
              \qquad \mathbf z(t_0) = \text{state}

    Gradients reach `state`, `times` and those parameters of `field` that require them. With
    `gradient="adjoint"` they come from solving a second equation backwards in time: memory does not grow with
    the solver's steps, and the gradient is as accurate as the tolerances. With `"backprop"` autograd records
    every step.

    Args:
        field: a module called as `field(t, state)`, t a scalar; returns dz/dt, shaped like the state.
        state: the initial state at `times[0]`, float32 or float64 of any shape; an empty batch stays empty.
        times: at least two times, strictly rising or strictly falling.
        method: one of :data:`course_lib.ode_solvers.ADAPTIVE_METHODS` or `FIXED_METHODS`; torchdiffeq's.
        rtol, atol: what an adaptive method lets the error of a step be, relative to the state and absolute.
        step_size: of a fixed method; each interval between two times is cut into equal steps of at most this.
        gradient: "adjoint" or "backprop". The adjoint cannot be differentiated a second time.
        max_steps: the most steps between two times.

    Returns:
        the states at all times, shape (len(times), \*state.shape); the first is `state`.

    Raises:
        ValueError: an argument that makes no sense; with the adjoint, also a field that uses a tensor which
            requires gradients and is none of its parameters, because the adjoint would not reach it.
        FloatingPointError: state or derivative became infinite or NaN, or an adaptive step shrank to nothing.
        RuntimeError: more than max_steps steps, or a second derivative through the adjoint.

    Source:
        Chen, Rubanova, Bettencourt and Duvenaud (2018), algorithm 1 and appendix C.
    """
    if gradient not in ("adjoint", "backprop"):
        raise ValueError(f'gradient must be "adjoint" or "backprop", got {gradient!r}')
    if not isinstance(field, nn.Module):
        raise ValueError(
            f"field must be an nn.Module called as field(t, state), got {type(field).__name__}; the gradient "
            "goes to field.parameters(), so put the function into a module's forward"
        )
    settings = SolverSettings(method, rtol, atol, step_size, max_steps)
    settings.check()
    times = checked_times(times, state)
    parameters = tuple(p for p in field.parameters() if p.requires_grad)
    check_derivative(field, state, times[0], parameters if gradient == "adjoint" else None)
    if gradient == "backprop":
        return integrate(field, state, times, settings)
    states: Tensor = _Adjoint.apply(settings, field, state, times, *parameters)
    return states


class _Adjoint(torch.autograd.Function):
    """Forwards: the solver, unrecorded. Backwards: state, adjoint and ∫ aᵀ ∂v/∂θ dt solved in reverse."""

    @staticmethod
    def forward(
        ctx: Any, settings: SolverSettings, field: nn.Module, state: Tensor, times: Tensor, *theta: Tensor
    ) -> Tensor:
        with torch.no_grad():
            states = integrate(field, state.detach(), times.detach(), settings)
        ctx.settings, ctx.field = settings, field
        ctx.save_for_backward(times, states, *theta)
        return states

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'the adjoint has no second derivative: solve with gradient="backprop" for those'
            )
        times, states, *theta = ctx.saved_tensors
        field, shape, n = ctx.field, states.shape[1:], states[0].numel()
        sizes = [n, n, sum(p.numel() for p in theta)]

        def backwards(t: Tensor, packed: Tensor) -> Tensor:
            """d/dt of (z, a, gθ): v, −aᵀ ∂v/∂z, −aᵀ ∂v/∂θ."""
            with torch.enable_grad():
                z = packed[:n].view(shape).detach().requires_grad_(True)
                v = field(t, z)
            minus_a = -packed[n : 2 * n].view(shape)
            pulled = _vector_jacobian(v, (z, *theta), minus_a)
            return torch.cat([v.detach().reshape(-1), *(p.reshape(-1) for p in pulled)])

        def norm(packed: Tensor) -> Tensor:
            """The largest root mean square of z, a and gθ, so that a thousand weights hide no bad state."""
            parts = [part.square().mean().sqrt() for part in packed.split(sizes) if len(part)]
            return torch.stack(parts).max()

        a, grad_theta = torch.zeros_like(states[0]), states.new_zeros(sizes[2])
        grad_times = torch.zeros_like(times)
        for i in range(len(times) - 1, 0, -1):
            a = a + grad_states[i]  # the loss looks at the state here: the adjoint jumps
            if ctx.needs_input_grad[3]:  # moving this look at the trajectory moves what it sees
                grad_times[i] = (grad_states[i] * field(times[i].to(states), states[i])).sum()
            packed = torch.cat([states[i].reshape(-1), a.reshape(-1), grad_theta])
            packed = integrate(backwards, packed, times[i - 1 : i + 1].flip(0), ctx.settings, norm)[-1]
            _, a, grad_theta = packed.split(sizes)  # the next interval starts from the stored state
            a = a.view(shape)
        if ctx.needs_input_grad[3]:  # minus the Hamiltonian at the start
            grad_times[0] = -(a * field(times[0].to(states), states[0])).sum()
        chunks = grad_theta.split([p.numel() for p in theta])
        grads = (chunk.view_as(p) for chunk, p in zip(chunks, theta, strict=True))
        return None, None, a + grad_states[0], grad_times, *grads


def _vector_jacobian(v: Tensor, inputs: tuple[Tensor, ...], vector: Tensor) -> list[Tensor]:
    """vectorᵀ ∂v/∂input for every input; zero where v does not depend on it."""
    if not v.requires_grad:
        return [torch.zeros_like(i) for i in inputs]
    pulled = torch.autograd.grad(v, inputs, vector, allow_unused=True)
    return [torch.zeros_like(i) if p is None else p for p, i in zip(pulled, inputs, strict=True)]


class NeuralODE(nn.Module):
    r"""The map z(t₀) ↦ z(t₁), or to the states at all times where there are more than two.

    Args:
        field: as for :func:`solve`.
        times: two or more times.
        options: the other arguments of :func:`solve`.
    """

    def __init__(self, field: nn.Module, times: Sequence[float] = (0.0, 1.0), **options: Any) -> None:
        super().__init__()
        self.field, self.times, self.options = field, tuple(times), options

    def forward(self, state: Tensor) -> Tensor:
        r"""State of any shape; the same shape, or (len(times), \*shape) if there are more than two times."""
        states = solve(self.field, state, self.times, **self.options)
        return states[-1] if len(self.times) == 2 else states


class CountedField(nn.Module):
    """A field that counts its evaluations in `n_evaluations`: the honest unit of a solver's cost."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.n_evaluations = field, 0

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        """The field, unchanged."""
        self.n_evaluations += 1
        derivative: Tensor = self.field(t, state)
        return derivative
