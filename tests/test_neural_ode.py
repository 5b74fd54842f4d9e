"""Solutions against closed forms, gradients against other people's, memory against the allocator."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from allocations import peak_allocated
from torch import nn
from torch.autograd.gradcheck import GradcheckError
from torchdiffeq import odeint, odeint_adjoint

from course_lib.neural_ode import CountedField, NeuralODE, solve
from course_lib.ode_solvers import ADAPTIVE_METHODS, FIXED_METHODS

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


class Formula(nn.Module):
    """A field without parameters."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, t, state):
        return self.formula(t, state)


class Network(nn.Module):
    """A small field that depends on state and time."""

    def __init__(self, n=3, width=8, scale=1.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n + 1, width), nn.Tanh(), nn.Linear(width, n))
        self.scale = scale

    def forward(self, t, state):
        return self.scale * self.layers(torch.cat([state, t.expand(*state.shape[:-1], 1)], -1))


class Stiff(nn.Module):
    """Relaxes to cos t at a fast rate: the rate is the parameter."""

    def __init__(self, rate=100.0):
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(math.log(rate)))

    def forward(self, t, state):
        return -self.log_rate.exp() * (state - torch.cos(t))


def exact_problems():
    """Name, field, state at 0.3, and the state at any later time."""
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    start = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return [
        ("constant", lambda t, z: torch.full_like(z, 0.7), start, lambda t: start + 0.7 * t),
        (
            "sine",
            lambda t, z: torch.sin(t + 0.3).expand_as(z),
            start,
            lambda t: start + math.cos(0.3) - torch.cos(t + 0.3),
        ),
        ("exponential", lambda t, z: -1.5 * z, start, lambda t: start * torch.exp(-1.5 * t)),
        ("linear system", lambda t, z: z @ A.T, start, lambda t: start @ torch.matrix_exp(A * t).T),
    ]


@pytest.mark.parametrize(
    ("name", "formula", "start", "exact"), exact_problems(), ids=lambda p: p if isinstance(p, str) else ""
)
@pytest.mark.parametrize(
    "options",
    [TIGHT, {"method": "rk4", "step_size": 1 / 256}, {"method": "dopri8", **TIGHT}],
    ids=["dopri5", "rk4", "dopri8"],
)
def test_closed_forms(name, formula, start, exact, options, device):
    formula_on_device = (
        (lambda t, z: formula(t.cpu(), z.cpu()).to(device)) if device.type == "cuda" else formula
    )
    times = torch.tensor([0.0, 0.37, 1.0, 1.6], dtype=torch.float64)
    states = solve(Formula(formula_on_device), start.to(device), times.to(device), **options).cpu()
    for t, state in zip(times, states, strict=True):
        assert torch.allclose(state, exact(t), rtol=0, atol=2e-8)
    back = solve(Formula(formula_on_device), states[-1].to(device), times.flip(0).to(device), **options).cpu()
    assert torch.allclose(back[-1], start, rtol=0, atol=2e-8)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_order_of_convergence(method, order):
    field = Formula(lambda t, z: torch.cos(t) * z)  # z = exp(sin t)
    start = torch.ones(1, dtype=torch.float64)
    errors = []
    for n_steps in (32, 64, 128):
        states = solve(field, start, [0.0, 0.75, 2.0], method=method, step_size=2 / n_steps)
        errors.append(float((states - torch.tensor([[0.0], [0.75], [2.0]]).double().sin().exp()).abs().max()))
    for coarse, fine in itertools.pairwise(errors):
        assert abs(math.log2(coarse / fine) - order) < 0.25


def test_outputs_between_steps_are_steps():
    """torchdiffeq would interpolate linearly there: its own solution is the control."""
    start, times = torch.ones(1, dtype=torch.float64), torch.tensor([0.0, 0.7, 2.0], dtype=torch.float64)
    field = Formula(lambda t, z: torch.cos(t) * z)
    ours = solve(field, start, times, method="rk4", step_size=0.5)[1]
    theirs = odeint(field, start, times, method="rk4", options={"step_size": 0.5})[1]
    assert abs(float(ours) - math.exp(math.sin(0.7))) < 1e-4
    assert abs(float(theirs) - math.exp(math.sin(0.7))) > 5e-3


def gradients(field, start, times, weights, solver):
    """Gradients of a loss that looks at every state, with respect to state, times and parameters."""
    start, times = start.clone().requires_grad_(), times.clone().requires_grad_()
    states = solver(field, start, times)
    loss = (weights * states).sum() + states.square().sum()
    return torch.autograd.grad(loss, (start, times, *field.parameters()))


CASES = {
    "dopri5": ("network", TIGHT),
    "rk4": ("network", {"method": "rk4", "step_size": 1 / 128}),
    "stiff": ("stiff", {"rtol": 1e-9, "atol": 1e-11}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rising", [True, False])
def test_adjoint_equals_backprop_and_torchdiffeq(case, rising, double_precision, device):
    kind, options = CASES[case]
    field = (Network() if kind == "network" else Stiff(30.0)).to(device)
    # Backwards in time a stiff field explodes: only a little of it.
    times = torch.tensor([0.2, 0.5, 1.1] if kind == "network" else [0.0, 0.05, 0.1], device=device)
    times = times if rising else times.flip(0)
    start = torch.randn(4, 3, device=device)
    weights = torch.randn(3, 4, 3, device=device)
    ours = gradients(field, start, times, weights, lambda *a: solve(*a, **options))
    through = gradients(field, start, times, weights, lambda *a: solve(*a, gradient="backprop", **options))
    # With fixed steps torchdiffeq interpolates its outputs linearly, so it is asked for its adaptive best.
    peer = gradients(field, start, times, weights, lambda *a: odeint_adjoint(*a, **TIGHT))
    for mine, theirs, recorded in zip(ours, peer, through, strict=True):
        scale = theirs.abs().max().clamp(min=1)
        assert (mine - theirs).abs().max() / scale < 1e-6
        assert (mine - recorded).abs().max() / scale < 1e-6
    # Negative control: at a loose tolerance they are not equal.
    if case == "dopri5":
        loose = gradients(field, start, times, weights, lambda *a: solve(*a, rtol=1e-2, atol=1e-2))
        assert max(float((a - b).abs().max()) for a, b in zip(loose, peer, strict=True)) > 1e-6


def test_gradient_of_a_linear_system_is_exact(double_precision):
    """Truth without any solver: z(t) = exp(At) z₀, differentiated by autograd through matrix_exp."""
    linear = nn.Linear(3, 3, bias=False)
    field = Formula(lambda t, z: linear(z))
    field.linear = linear
    start, t1, c = torch.randn(3).requires_grad_(), torch.tensor(0.8, requires_grad=True), torch.randn(3)
    exact = torch.autograd.grad(c @ torch.matrix_exp(linear.weight * t1) @ start, (start, t1, linear.weight))
    times = torch.stack([torch.zeros(()), t1])
    ours = torch.autograd.grad(c @ solve(field, start, times, **TIGHT)[-1], (start, t1, linear.weight))
    for mine, truth in zip(ours, exact, strict=True):
        assert torch.allclose(mine, truth, rtol=0, atol=1e-8)


@pytest.mark.parametrize("options", [TIGHT, {"method": "rk4", "step_size": 1 / 64}], ids=["dopri5", "rk4"])
def test_gradcheck(options, double_precision):
    field = Network(n=2, width=3)
    start, times = torch.randn(2, 2, requires_grad=True), torch.tensor([0.1, 0.6, 1.0], requires_grad=True)

    def states(start, times, *parameters):
        return solve(field, start, times, **options)

    assert torch.autograd.gradcheck(states, (start, times, *field.parameters()), atol=1e-6, rtol=1e-5)


def test_gradcheck_notices_a_wrong_sign(double_precision):
    field = Network(n=2, width=3)
    start = torch.randn(2, 2, requires_grad=True)

    class Flipped(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, grad):
            return -grad

    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(lambda z: Flipped.apply(solve(field, z, [0.0, 1.0], **TIGHT)), (start,))


def peak_of(gradient, n_steps, device):
    """Bytes that one gradient needs at its peak, with this number of fixed steps."""
    field = Network(n=16, width=32).to(device)
    start = torch.randn(256, 16, device=device)

    def once():
        states = solve(field, start, [0.0, 1.0], method="rk4", step_size=1 / n_steps, gradient=gradient)
        states[-1].square().sum().backward()

    once()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once()
        return torch.cuda.max_memory_allocated() - before
    return peak_allocated(once)


def test_memory_does_not_grow_with_the_steps(device):
    assert peak_of("adjoint", 80, device) < 1.02 * peak_of("adjoint", 8, device)
    assert peak_of("backprop", 80, device) > 8 * peak_of("backprop", 8, device)  # the control


def test_only_parameters_that_require_gradients_get_one():
    field = Network()
    field.layers[0].requires_grad_(False)
    solve(field, torch.randn(2, 3), [0.0, 1.0])[-1].sum().backward()
    assert field.layers[0].weight.grad is None
    assert field.layers[2].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3)])
def test_any_shape_and_unused_parameters(shape):
    field = Formula(lambda t, z: -z)
    field.unused = nn.Parameter(torch.ones(2))
    start = torch.ones(shape, requires_grad=True)
    states = solve(field, start, [0.0, 1.0, 2.0])
    assert states.shape == (3, *shape)
    states[-1].sum().backward()
    assert torch.allclose(start.grad, torch.full(shape, math.exp(-2)), atol=1e-4)
    assert torch.equal(field.unused.grad, torch.zeros(2))


def test_a_field_that_depends_on_nothing():
    start = torch.ones(2, requires_grad=True)
    states = solve(Formula(lambda t, z: torch.ones_like(z)), start, [0.0, 1.0])
    states[-1].sum().backward()
    assert torch.equal(start.grad, torch.ones(2))


@pytest.mark.parametrize("gradient", ["adjoint", "backprop"])
@pytest.mark.parametrize("options", [{}, {"method": "rk4", "step_size": 0.5}], ids=["dopri5", "rk4"])
def test_an_empty_batch_stays_empty(gradient, options):
    field, start = Network(), torch.zeros(0, 3, requires_grad=True)
    states = solve(field, start, [0.0, 0.5, 1.0], gradient=gradient, **options)
    assert states.shape == (3, 0, 3)
    states.sum().backward()
    assert start.grad.shape == (0, 3)
    assert torch.equal(field.layers[0].weight.grad, torch.zeros(8, 4))


def test_several_solves_in_one_graph(double_precision):
    """There and half the way back, and a third solve from the same start; a frozen layer and a buffer too."""
    field = Network()
    field.layers[0].requires_grad_(False)
    field.register_buffer("tilt", torch.randn(3))
    field.layers[2].register_forward_hook(lambda module, given, out: out + field.tilt * given[0][..., :3])
    start, grads = torch.randn(4, 3, requires_grad=True), {}
    inputs = [start, *(p for p in field.parameters() if p.requires_grad)]
    for gradient in ("adjoint", "backprop"):
        there = solve(field, start, [0.0, 1.0], gradient=gradient, **TIGHT)[-1]
        back = solve(field, there, [1.0, 0.4], gradient=gradient, **TIGHT)[-1]
        third = solve(field, 2 * start, [0.0, 0.5], gradient=gradient, **TIGHT)
        grads[gradient] = torch.autograd.grad((there * back).sum() + third.square().sum(), inputs)
    for ours, theirs in zip(*grads.values(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-7)


def test_gradient_of_the_times_alone():
    """Nothing else requires one, the times are of another precision, and the middle look sees only itself."""
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    states = solve(Formula(lambda t, z: -z), torch.tensor([2.0]), times, rtol=1e-6)
    assert states.dtype == torch.float32
    states[1].backward()
    slope = 2 * math.exp(-0.5)  # z(s) = 2 exp(−(s − t₀))
    assert torch.allclose(times.grad, torch.tensor([slope, -slope, 0.0], dtype=torch.float64), atol=1e-5)


class Decay(nn.Module):
    """Two states that decay at their own rates, and many parameters that do almost nothing."""

    def __init__(self, n_idle):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([1.0, 6.0]))
        self.idle = nn.Parameter(torch.zeros(n_idle))

    def forward(self, t, state):
        return -self.rates * state + 1e-12 * self.idle.sum()


def test_idle_weights_do_not_loosen_the_backward_solve(double_precision):
    """One root mean square over all parts would let a hundred thousand zeros hide the error."""
    errors = {}
    for n_idle in (0, 100_000):
        field = Decay(n_idle)
        z = solve(field, torch.ones(2), [0.0, 1.0], rtol=1e-5, atol=1e-5)[-1]
        (by_rates,) = torch.autograd.grad(z.sum(), (field.rates,))
        errors[n_idle] = float((by_rates + torch.exp(-field.rates.detach())).abs().max())
    assert errors[100_000] < 1.5 * errors[0]


def test_the_backward_pass_restarts_from_the_stored_states(double_precision):
    """ż₁ = −16 z₁, ż₂ = θ z₁: nothing can run it backwards, but eight looks on the way mend ∂z₂(1)/∂θ."""
    field = Formula(lambda t, z: torch.stack([-16 * z[0], field.theta * z[0]]))
    field.theta = nn.Parameter(torch.ones(()))
    errors = {}
    for n_times in (2, 9):
        times = torch.linspace(0, 1, n_times)
        z = solve(field, torch.tensor([1.0, 0.0]), times, rtol=1e-6, atol=1e-6)[-1]
        (by_theta,) = torch.autograd.grad(z[1], (field.theta,))
        errors[n_times] = abs(float(by_theta) * 16 - 1)
    assert errors[2] > 0.2  # the control
    assert errors[9] < 1e-3


@pytest.mark.parametrize(("end", "n_steps"), [(0.3, 3), (0.7, 7), (1.0, 10), (1.01, 11)])
def test_rounding_adds_no_step(end, n_steps):
    """0.3 in float32 is a little more than three times 0.1."""
    counted = CountedField(Network())
    solve(counted, torch.randn(3), [0.0, end], method="euler", step_size=0.1)
    assert counted.n_evaluations == n_steps + 1


def test_copies_and_pickles():
    module = NeuralODE(CountedField(Network()), method="rk4", step_size=0.5)
    x = torch.randn(2, 3)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x))


def test_second_derivatives_are_refused(double_precision):
    field, start = Network(), torch.randn(3, requires_grad=True)
    state = solve(field, start, [0.0, 1.0])[-1]
    with pytest.raises(RuntimeError, match='gradient="backprop"'):
        torch.autograd.grad(state.sum(), start, create_graph=True)
    recorded = solve(field, start, [0.0, 1.0], gradient="backprop")[-1]
    (first,) = torch.autograd.grad(recorded.sum(), start, create_graph=True)
    assert torch.autograd.grad(first.sum(), start)[0].abs().sum() > 0


def test_module_and_counter():
    counted = CountedField(Network())
    x = torch.randn(5, 3)
    z = NeuralODE(counted, method="rk4", step_size=0.25)(x)
    assert z.shape == x.shape
    assert counted.n_evaluations == 4 * 4 + 1  # and one look before
    assert torch.allclose(z, solve(counted.field, x, [0.0, 1.0], method="rk4", step_size=0.25)[-1])
    assert NeuralODE(counted, times=(0, 1, 2))(x).shape == (3, 5, 3)


@pytest.mark.parametrize("method", ADAPTIVE_METHODS + FIXED_METHODS)
def test_every_method_solves_and_differentiates(method, double_precision):
    options = {"step_size": 1e-3} if method in FIXED_METHODS else {"rtol": 1e-6, "atol": 1e-6}
    start = torch.ones(1, requires_grad=True)
    z = solve(Formula(lambda t, z: -z), start, [0.0, 1.0], method=method, **options)[-1]
    z.backward()
    assert abs(z.item() - math.exp(-1)) < 1e-3
    assert abs(float(start.grad) - math.exp(-1)) < 1e-3


class Closure(nn.Module):
    """Uses a tensor that it does not own."""

    def __init__(self, tensor):
        super().__init__()
        object.__setattr__(self, "tensor", tensor)

    def forward(self, t, state):
        return state * self.tensor


def test_strangers_in_the_field_are_refused():
    stranger = torch.ones(3, requires_grad=True)
    for tensor in (stranger, torch.sin(stranger)):
        with pytest.raises(ValueError, match="requires gradients and is none of"):
            solve(Closure(tensor), torch.ones(3), [0.0, 1.0])
        solve(Closure(tensor), torch.ones(3), [0.0, 1.0], gradient="backprop")[-1].sum().backward()
        with torch.no_grad():
            solve(Closure(tensor), torch.ones(3), [0.0, 1.0])
    assert stranger.grad.abs().sum() > 0
    solve(Closure(stranger.detach()), torch.ones(3), [0.0, 1.0])


@pytest.mark.parametrize(
    "times",
    [
        [0.0],
        [0.0, 0.0],
        [0.0, 1.0, 0.5],
        [1.0, 0.5, 0.7],
        [0.0, math.nan],
        [0.0, math.inf],
        [[0.0, 1.0]],
        torch.tensor([0, 1]),
    ],
    ids=str,
)
def test_bad_times(times):
    with pytest.raises(ValueError, match="times must"):
        solve(Network(), torch.randn(3), times)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dopri"}, "method must be one of"),
        ({"rtol": 0.0}, "rtol and atol must be > 0"),
        ({"atol": math.nan}, "rtol and atol must be > 0"),
        ({"method": "rk4"}, "needs step_size"),
        ({"method": "rk4", "step_size": -0.1}, "needs step_size"),
        ({"step_size": 0.1}, "leave step_size out"),
        ({"gradient": "adjoin"}, 'must be "adjoint" or "backprop"'),
        ({"max_steps": 0}, "max_steps must be a whole number"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        solve(Network(), torch.randn(3), [0.0, 1.0], **options)


@pytest.mark.parametrize(
    ("field", "state", "message"),
    [
        (lambda t, z: z, torch.ones(3), "field must be an nn.Module"),
        (
            Formula(lambda t, z: z[..., :1]),
            torch.ones(3),
            r"state's shape \(3,\), got torch.float32 of shape \(1,\)",
        ),
        (Formula(lambda t, z: z.double()), torch.ones(3), "must return torch.float32"),
        (Formula(lambda t, z: (z, z)), torch.ones(3), "got tuple"),
        (
            Formula(lambda t, z: z),
            torch.ones(3, dtype=torch.int64),
            "state must be a tensor of float32 or float64, got torch.int64",
        ),
        (
            Formula(lambda t, z: z),
            torch.ones(3, dtype=torch.float16),
            "float32 or float64, got torch.float16",
        ),
        (Formula(lambda t, z: z), torch.tensor([1.0, math.nan]), "state must be finite, got NaN"),
        (Formula(lambda t, z: z), [1.0], "state must be a tensor of float32 or float64, got list"),
    ],
)
def test_bad_fields_and_states(field, state, message):
    with pytest.raises(ValueError, match=message):
        solve(field, state, [0.0, 1.0])


def test_explosions_are_explained():
    start = torch.ones(2)
    explodes = Formula(lambda t, z: z**2)  # 1/(1 − t): infinite at t = 1
    with pytest.raises(FloatingPointError, match=r"step shrank to nothing at t = 1.*stiff"):
        solve(explodes, start, [0.0, 2.0])
    with pytest.raises(FloatingPointError, match="infinite or NaN on the way to t = 3"):
        solve(explodes, start, [0.0, 3.0], method="rk4", step_size=0.1)
    with pytest.raises(FloatingPointError, match="at the start, t = 0"):
        solve(Formula(lambda t, z: z / t), start, [0.0, 1.0])
    with pytest.raises(RuntimeError, match="more than max_steps=5 steps at t = "):
        solve(Formula(lambda t, z: torch.cos(50 * t) * z), start, [0.0, 9.0], max_steps=5)
    with pytest.raises(RuntimeError, match="above max_steps=5"):
        solve(explodes, start, [0.0, 0.5], method="euler", step_size=0.01, max_steps=5)


def test_explosions_backwards_are_explained():
    field = Formula(lambda t, z: -100 * z)  # contracts forwards, explodes backwards
    start = torch.ones(1, requires_grad=True)
    state = solve(field, start, [0.0, 4.0], max_steps=400)[-1]
    with pytest.raises((FloatingPointError, RuntimeError), match="at t = "):
        state.sum().backward()


def test_an_assertion_of_the_field_is_its_own():
    def formula(t, z):
        assert float(t) < 0.5, "mine"
        return z

    with pytest.raises(AssertionError, match="mine"):
        solve(Formula(formula), torch.ones(1), [0.0, 1.0])
