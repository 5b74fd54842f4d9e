"""Continuous flows against matrix exponentials, Jacobians by autograd, quadrature, closed-form variances."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from course_lib.continuous_flow import (
    ContinuousFlow,
    VelocityNetwork,
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
)
from course_lib.neural_ode import CountedField

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


class Linear(nn.Module):
    """The field v(z) = A z."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, t, state):
        return state @ self.matrix.T


def bent(n_features=2, scale=1.0, seed=1):
    """A network field whose last layer is not zero."""
    torch.manual_seed(seed)
    field = VelocityNetwork(n_features, (16,))
    nn.init.normal_(field.layers[-1].weight, std=scale / 4)
    return field


@pytest.mark.parametrize("n_probes", [0, 3])
def test_linear_field_is_solved_exactly(n_probes, double_precision, device):
    matrix = torch.randn(3, 3)
    if n_probes:  # signs see a diagonal matrix exactly
        matrix = torch.diag(torch.randn(3))
    flow = ContinuousFlow(Linear(matrix), t_end=0.7, n_probes=n_probes, **TIGHT).to(device)
    x = torch.randn(5, 3)
    z, log_det = flow.forward_and_log_det(x.to(device))
    assert torch.allclose(z.cpu(), x @ torch.matrix_exp(0.7 * matrix).T, rtol=0, atol=1e-9)
    assert torch.allclose(log_det.cpu(), (0.7 * matrix.trace()).expand(5), rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [TIGHT, {"method": "rk4", "step_size": 1 / 64}], ids=["dopri5", "rk4"])
def test_log_det_and_inverse(options, double_precision, device):
    flow = ContinuousFlow(bent(3), **options).to(device)
    x = torch.randn(2, 4, 3, device=device)
    z, log_det = flow.forward_and_log_det(x)
    back, minus = flow.inverse_and_log_det(z)
    assert torch.allclose(back, x, rtol=0, atol=1e-8)
    assert torch.allclose(minus, -log_det, rtol=0, atol=1e-8)
    for index in ((0, 0), (1, 3)):
        through = ContinuousFlow(flow.field, gradient="backprop", **options)
        jacobian = torch.autograd.functional.jacobian(through, x[index])
        sign, truth = torch.linalg.slogdet(jacobian)
        assert sign > 0
        assert abs(float(truth - log_det[index].detach())) < 1e-8
    assert log_det.abs().max() > 0.05  # the claim is not about zeros


def test_float32_inverse(device):
    flow = ContinuousFlow(bent()).to(device)
    x = torch.randn(50, 2, device=device)
    assert (flow.inv(flow(x)) - x).abs().max() < 1e-4


def test_density_integrates_to_one(double_precision):
    flow = ContinuousFlow(bent(scale=3.0), rtol=1e-6, atol=1e-6)
    axis = torch.linspace(-9, 9, 181)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        z, log_det = flow.forward_and_log_det(grid)
        log_p = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
        cell = float(axis[1] - axis[0]) ** 2
        assert abs(float((log_p + log_det).exp().sum()) * cell - 1) < 1e-3
        assert abs(float((log_p - log_det).exp().sum()) * cell - 1) > 1e-2  # the wrong sign is no density


def test_torchs_contract(double_precision):
    flow = ContinuousFlow(bent(), **TIGHT)
    base = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1)
    density = torch.distributions.TransformedDistribution(base, [flow.inv])
    x = density.sample((3,))
    z, log_det = flow.forward_and_log_det(x)
    assert torch.allclose(density.log_prob(x), base.log_prob(z) + log_det)
    assert torch.equal(flow.log_abs_det_jacobian(x, z), log_det)


def test_divergence_is_autograds(double_precision, device):
    field, x = bent(4).to(device), torch.randn(6, 4, device=device)
    t = torch.tensor(0.3, device=device)
    velocity, divergence = exact_divergence(field, t, x)
    assert torch.allclose(velocity, field(t, x))
    for row, value in zip(x, divergence, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: field(t, z), row)
        assert torch.allclose(jacobian.trace(), value, rtol=0, atol=1e-12)


def test_divergence_of_a_constant_field():
    class Constant(nn.Module):
        def forward(self, t, state):
            return torch.ones_like(state)

    x = torch.zeros(3, 2)
    assert torch.equal(exact_divergence(Constant(), torch.tensor(0.0), x)[1], torch.zeros(3))
    z, log_det = ContinuousFlow(Constant()).forward_and_log_det(x)
    assert torch.allclose(z, torch.ones(3, 2))
    assert torch.equal(log_det, torch.zeros(3))


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_variance_is_known(noise, double_precision):
    """Variance of εᵀAε with S = (A + Aᵀ)/2: Gaussian 2‖S‖², signs 2(‖S‖² − Σ S_ii²)."""
    matrix = torch.randn(5, 5)
    symmetric = (matrix + matrix.T) / 2
    n = 40_000
    probes = draw_probes(1, torch.zeros(n, 5), noise)
    _, estimates = hutchinson_divergence(Linear(matrix), torch.tensor(0.0), torch.zeros(n, 5), probes)
    error = estimates.std() / math.sqrt(n)
    assert abs(estimates.mean() - matrix.trace()) < 4 * error
    truth = 2 * symmetric.square().sum()
    if noise == "rademacher":
        truth = truth - 2 * symmetric.diagonal().square().sum()
    # the standard error of a variance, from the fourth moment
    fourth = (estimates - estimates.mean()).pow(4).mean()
    assert abs(estimates.var() - truth) < 4 * ((fourth - estimates.var() ** 2) / n).sqrt()
    # Negative control: uniform noise on [−1, 1] has variance 1/3, and the estimate a third of the mean.
    uniform = 2 * torch.rand(1, n, 5) - 1
    _, wrong = hutchinson_divergence(Linear(matrix), torch.tensor(0.0), torch.zeros(n, 5), uniform)
    assert abs(wrong.mean() - matrix.trace()) > 4 * wrong.std() / math.sqrt(n)


def test_more_probes_less_variance(double_precision):
    matrix, x, t = torch.randn(4, 4), torch.zeros(20_000, 4), torch.tensor(0.0)
    one, four = (
        hutchinson_divergence(Linear(matrix), t, x, draw_probes(k, x))[1].var().detach() for k in (1, 4)
    )
    assert abs(float(one / four) - 4) < 0.3


def test_log_det_with_probes_is_unbiased(double_precision):
    field, x = bent(3), torch.randn(3)
    exact = ContinuousFlow(field, rtol=1e-6, atol=1e-8).forward_and_log_det(x)[1].detach()
    flow = ContinuousFlow(field, n_probes=1, rtol=1e-6, atol=1e-8)
    estimates = flow.forward_and_log_det(x.expand(4000, 3))[1]
    error = estimates.std() / math.sqrt(4000)
    assert abs(estimates.mean() - exact) < 4 * error
    assert estimates.std() > 0.01
    flow.n_probes = 0
    assert torch.allclose(flow.forward_and_log_det(x)[1], exact, rtol=0, atol=1e-7)


def test_adjoint_trains_like_backprop(double_precision):
    x = torch.randn(20, 2)
    gradients = []
    for gradient in ("adjoint", "backprop"):
        flow = ContinuousFlow(bent(), n_probes=2, gradient=gradient, **TIGHT)
        torch.manual_seed(0)
        z, log_det = flow.forward_and_log_det(x)
        loss = (0.5 * z.square().sum(-1) - log_det).mean()
        gradients.append(torch.autograd.grad(loss, tuple(flow.parameters())))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-8)


def test_the_noise_is_held_fixed_while_one_solve_lasts():
    """With noise drawn anew at every evaluation no step is ever right, and a tight tolerance never ends."""
    field = CountedField(bent(scale=3.0))
    x = torch.randn(10, 2)
    flow = ContinuousFlow(field, n_probes=1, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        flow.forward_and_log_det(x)
        assert field.n_evaluations < 200
        first, second = (flow.forward_and_log_det(x)[1] for _ in range(2))
    assert not torch.equal(first, second)  # and drawn anew for the next solve


def test_plugs_into_a_flow():
    from course_lib.flow import Flow, NegativeLogLikelihood
    from course_lib.training import fit

    torch.manual_seed(0)
    flow = Flow(2, [ContinuousFlow(VelocityNetwork(2, (8,)), method="rk4", step_size=0.25, n_probes=1)])
    x = 0.5 * torch.randn(256, 2) + torch.tensor([1.0, -1.0])
    before = float(flow.log_prob(x).mean().detach())
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    fit(NegativeLogLikelihood(flow), [x] * 60, steps=60, optimizer=optimizer)
    after = float(flow.log_prob(x).mean().detach())
    best = float(torch.distributions.Normal(torch.tensor([1.0, -1.0]), 0.5).log_prob(x).sum(-1).mean())
    assert before < after - 0.5
    assert after < best + 0.1
    assert flow.sample(7).shape == (7, 2)


def test_a_new_flow_is_the_identity():
    z, log_det = ContinuousFlow(VelocityNetwork(3)).forward_and_log_det(torch.ones(2, 3))
    assert torch.equal(z, torch.ones(2, 3))
    assert torch.equal(log_det, torch.zeros(2))


def test_a_velocity_at_a_time_of_its_own_for_each_row(double_precision):
    field, x, times = bent(), torch.randn(4, 2), torch.rand(4, 1)
    rows = torch.stack([field(t[0], row) for t, row in zip(times, x, strict=True)])
    assert torch.allclose(field(times, x), rows)


def test_gradients_of_the_density_by_finite_differences(double_precision):
    """The trace is differentiated too: the field's second derivatives in the state count."""
    flow = ContinuousFlow(bent(scale=3.0), **TIGHT)
    inputs = (torch.randn(2, 2, requires_grad=True), *flow.parameters())
    assert torch.autograd.gradcheck(
        lambda x, *_: flow.forward_and_log_det(x), inputs, atol=1e-6, rtol=1e-5, fast_mode=True
    )


def test_empty_batch_and_copies():
    flow = ContinuousFlow(bent(), n_probes=1)
    z, log_det = flow.forward_and_log_det(torch.zeros(0, 2))
    assert (z.shape, log_det.shape) == ((0, 2), (0,))
    flow.n_probes = 0
    x = torch.randn(3, 2)
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(twin(x), flow(x))


def test_trajectory():
    flow = ContinuousFlow(bent())
    x = torch.randn(4, 2)
    path = flow.trajectory(x, torch.linspace(0, 1, 5))
    assert path.shape == (5, 4, 2)
    assert torch.allclose(path[-1], flow(x), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContinuousFlow(bent(), t_end=0.0), "t_end must be > 0"),
        (lambda: ContinuousFlow(bent(), t_end=math.inf), "t_end must be > 0"),
        (lambda: ContinuousFlow(bent(), n_probes=-1), "n_probes must be a whole number"),
        (lambda: ContinuousFlow(bent(), noise="uniform"), "noise must be one of"),
        (lambda: draw_probes(0, torch.zeros(2)), "n_probes must be a whole number"),
        (lambda: draw_probes(1, torch.zeros(2), "uniform"), "noise must be one of"),
        (
            lambda: hutchinson_divergence(bent(), torch.tensor(0.0), torch.zeros(4, 2), torch.ones(0, 4, 2)),
            r"probes must have shape .* got \(0, 4, 2\)",
        ),
        (
            lambda: hutchinson_divergence(bent(), torch.tensor(0.0), torch.zeros(4, 2), torch.ones(1, 2)),
            r"probes must have shape .* got \(1, 2\)",
        ),
        (lambda: VelocityNetwork(0), "n_features must be a whole number"),
        (lambda: ContinuousFlow(bent(2))(torch.zeros(4, 3)), "n_features=2"),
        (lambda: ContinuousFlow(bent(2), rtol=-1.0)(torch.zeros(4, 2)), "rtol and atol"),
        (
            lambda: ContinuousFlow(bent(2))(torch.full((4, 2), math.nan)),
            "state must be finite",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
