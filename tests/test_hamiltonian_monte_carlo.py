"""The leapfrog against exact motion, and the chains against exact moments."""

import math

import pytest
import torch
from oracles import standard_errors
from torch import nn

from course_lib.hamiltonian_monte_carlo import hamiltonian_monte_carlo, leapfrog

pytestmark = pytest.mark.usefixtures("double_precision")

MEAN, COVARIANCE = (0.5, -1.0), ((1.0, 0.6), (0.6, 0.8))


@pytest.fixture
def gaussian(device):
    """A correlated Gaussian: its log density up to a constant, and exact draws."""
    mean, covariance = torch.tensor(MEAN, device=device), torch.tensor(COVARIANCE, device=device)
    return torch.distributions.MultivariateNormal(mean, covariance)


def quartic(z):
    """Not Gaussian, and of no fixed period."""
    return -z.pow(4).sum(-1) / 4 + z.cumsum(-1).sin().sum(-1)


def harmonic(z):
    """A standard normal: its exact motion is a rotation in (z, m)."""
    return -0.5 * z.square().sum(-1)


# The leapfrog.


def test_leapfrog_can_be_reversed(device):
    z, momentum = torch.randn(2, 50, 3, device=device)
    z_end, momentum_end = leapfrog(quartic, z, momentum, 0.1, 15)
    assert (z_end - z).abs().mean() > 0.3
    z_back, momentum_back = leapfrog(quartic, z_end, -momentum_end, 0.1, 15)
    torch.testing.assert_close((z_back, -momentum_back), (z, momentum))


def test_leapfrog_keeps_volume(device):
    """The Jacobian by central differences has determinant 1; that of a plain Euler step has not."""

    def determinant(move):
        state, h = torch.tensor([0.3, -0.8, 0.5, 1.1], device=device), 1e-5
        steps = h * torch.eye(4, device=device)
        ends = [torch.cat(move(*(state + sign * steps).split(2, -1)), -1) for sign in (1, -1)]
        return float(torch.linalg.det((ends[0] - ends[1]) / (2 * h)))

    def euler(z, momentum):
        gradient = torch.func.grad(lambda z: quartic(z).sum())(z)
        return z + 0.3 * momentum, momentum + 0.3 * gradient

    assert determinant(lambda z, m: leapfrog(quartic, z, m, 0.3, 4)) == pytest.approx(1, abs=1e-7)
    assert abs(determinant(euler) - 1) > 0.01


def test_leapfrog_is_of_second_order(device):
    """Half the step, a quarter of the error: of the position, against the rotation, and of the energy."""
    z, momentum = torch.randn(2, 200, 1, device=device)
    time = 2.0
    exact = z * math.cos(time) + momentum * math.sin(time)
    position_errors, energy_errors = [], []
    for n_leapfrog in (20, 40, 80):
        z_end, m_end = leapfrog(harmonic, z, momentum, time / n_leapfrog, n_leapfrog)
        position_errors.append(float((z_end - exact).norm()))
        energy_errors.append(float((z_end**2 + m_end**2 - z**2 - momentum**2).norm()))
    for errors in (position_errors, energy_errors):
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)
        assert errors[1] / errors[2] == pytest.approx(4, rel=0.02)


def test_one_leapfrog_step_is_the_langevin_proposal(device):
    """And e^−ΔH is its ratio in Metropolis and Hastings' rule, with both Gaussian proposal densities."""
    z, noise = torch.randn(2, 20, 3, device=device)
    step = 0.4

    def drift(z):
        return z + step**2 / 2 * torch.func.grad(lambda z: quartic(z).sum())(z)

    def log_proposal(to, start):
        return -(to - drift(start)).square().sum(-1) / (2 * step**2)

    proposal, momentum = leapfrog(quartic, z, noise, step, 1)
    torch.testing.assert_close(proposal, drift(z) + step * noise)
    hastings = quartic(proposal) + log_proposal(z, proposal) - quartic(z) - log_proposal(proposal, z)
    energy = [0.5 * m.square().sum(-1) - quartic(at) for at, m in ((z, noise), (proposal, momentum))]
    torch.testing.assert_close(energy[0] - energy[1], hastings)


# The chains. Each is an independent repeat, so the spread over chains gives the standard error.


def moments(samples):
    """First and second moments of each chain: from (n_samples, n_chains, 2) to (n_chains, 5)."""
    one, other = samples[..., 0], samples[..., 1]
    return torch.stack([one, other, one**2, one * other, other**2], -1).mean(0)


def exact_moments(gaussian):
    second = gaussian.covariance_matrix + gaussian.mean.outer(gaussian.mean)
    return torch.stack([*gaussian.mean, second[0, 0], second[0, 1], second[1, 1]])


def without_acceptance(log_density, z, n_samples, step_size, n_leapfrog):
    """The same chains, but every proposal is taken."""
    samples = []
    for _ in range(n_samples):
        z, _ = leapfrog(log_density, z, torch.randn_like(z), step_size, n_leapfrog)
        samples.append(z)
    return torch.stack(samples)


@pytest.mark.parametrize(("n_leapfrog", "step_size"), [(1, 0.7), (3, 0.7), (12, 0.1)])
def test_chains_that_start_from_the_gaussian_keep_it(n_leapfrog, step_size, gaussian):
    z = gaussian.sample((4000,))
    chains = hamiltonian_monte_carlo(gaussian.log_prob, z, 25, step_size, n_leapfrog)
    assert chains.samples.shape == (25, 4000, 2)
    assert standard_errors(moments(chains.samples), exact_moments(gaussian)) < 4


@pytest.mark.parametrize("n_leapfrog", [1, 5])
def test_chains_from_afar_arrive_after_the_warm_up(n_leapfrog, gaussian):
    start = torch.full((4000, 2), 4.0, device=gaussian.mean.device)
    arguments = {"n_samples": 10, "step_size": 0.6, "n_leapfrog": n_leapfrog}
    chains = hamiltonian_monte_carlo(gaussian.log_prob, start, **arguments, n_warmup=100)
    assert standard_errors(moments(chains.samples), exact_moments(gaussian)) < 4
    early = hamiltonian_monte_carlo(gaussian.log_prob, start, **arguments)
    assert standard_errors(moments(early.samples), exact_moments(gaussian)) > 4


def test_at_a_large_step_the_accept_step_is_what_makes_it_right(device):
    """Without it the variance of a standard normal becomes 1/(1 − ε²/4), which the leapfrog keeps instead."""
    z, step = torch.randn(20_000, 1, device=device), 1.2
    right = hamiltonian_monte_carlo(harmonic, z, 20, step, 3)
    assert standard_errors(right.samples.square().mean(0), 1.0) < 4
    assert 0.5 < float(right.acceptance_rate.mean()) < 0.95
    shadow = 1 / (1 - step**2 / 4)
    wrong = without_acceptance(harmonic, shadow**0.5 * z, 20, step, 3)
    assert standard_errors(wrong.square().mean(0), shadow) < 4
    assert standard_errors(wrong.square().mean(0), 1.0) > 4


def test_a_density_that_is_not_gaussian(device):
    """p ∝ exp(−z⁴/4): E z² = 2 Γ(3/4)/Γ(1/4), E z⁴ = 1."""

    def log_density(z):
        return -z.pow(4).sum(-1) / 4

    z = torch.randn(5000, 1, device=device)
    samples = hamiltonian_monte_carlo(log_density, z, 20, 0.6, 4, n_warmup=30).samples
    assert standard_errors(samples.pow(2).mean(0), 2 * math.gamma(0.75) / math.gamma(0.25)) < 4
    assert standard_errors(samples.pow(4).mean(0), 1.0) < 4


def test_zero_density_is_never_entered(device):
    """z ~ Exponential(1): outside its support the density is zero, or NaN to a careless formula."""
    for outside in (-math.inf, math.nan):

        def log_density(z, outside=outside):
            return torch.where(z > 0, -z, outside).sum(-1)

        z = torch.ones(4000, 1, device=device)
        chains = hamiltonian_monte_carlo(log_density, z, 40, 0.5, 3, n_warmup=60)
        assert (chains.samples > 0).all()
        assert standard_errors(chains.samples.mean(0), 1.0) < 4
        assert standard_errors(chains.samples.square().mean(0), 2.0) < 4


def test_every_chain_may_have_a_density_and_a_step_of_its_own(device):
    """Three targets at two starts: chain axes (2000, 3)."""
    mean = torch.tensor([[-3.0], [0.0], [5.0]], device=device)
    std = torch.tensor([[0.1], [1.0], [10.0]], device=device)

    def log_density(z):
        return harmonic((z - mean) / std)

    z = mean + std * torch.randn(2000, 3, 1, device=device)
    chains = hamiltonian_monte_carlo(log_density, z, 15, 0.7 * std, 3)
    assert chains.acceptance_rate.shape == (2000, 3)
    assert standard_errors(chains.samples.mean(0), mean) < 4
    assert standard_errors((chains.samples - mean).square().mean(0), std**2) < 4
    assert float(chains.acceptance_rate.mean()) > 0.8


def test_the_acceptance_rate_is_the_share_of_moves(gaussian):
    z = gaussian.sample((30,))
    chains = hamiltonian_monte_carlo(gaussian.log_prob, z, 200, 1.0, 2)
    moved = (chains.samples != torch.cat([z[None], chains.samples[:-1]])).any(-1)
    torch.testing.assert_close(chains.acceptance_rate, moved.double().mean(0))
    assert 0.1 < float(chains.acceptance_rate.mean()) < 0.99
    tiny, huge = (hamiltonian_monte_carlo(gaussian.log_prob, z, 50, step, 2) for step in (1e-4, 100.0))
    assert (tiny.acceptance_rate > 0.99).all()
    assert (huge.acceptance_rate == 0).all()
    torch.testing.assert_close(huge.samples, z.expand(50, 30, 2))


def test_the_acceptance_rate_of_langevin_steps_on_a_gaussian(device):
    """E min(1, e^−ΔH) of one leapfrog step: ΔH by its closed form, averaged over z, m ~ N(0, 1)."""
    step, (z, m) = 1.4, torch.randn(2, 200_000, device=device)
    z_end = (1 - step**2 / 2) * z + step * m
    energy_change = step**2 / 8 * (z_end**2 - z**2)  # as z² (1 − ε²/4) + m² does not change
    expected = (-energy_change).exp().clamp(max=1)
    chains = hamiltonian_monte_carlo(harmonic, z[:20_000, None], 5, step, 1)
    difference = chains.acceptance_rate.mean() - expected.mean()
    assert abs(float(difference)) < 4 * float(chains.acceptance_rate.std()) / math.sqrt(20_000)


def test_the_warm_up_is_the_head_of_a_longer_run_and_not_counted(gaussian):
    """The same seed, the same chains; a generator leaves torch's global one alone."""

    def run(**arguments):
        generator = torch.Generator(gaussian.mean.device).manual_seed(5)
        return hamiltonian_monte_carlo(
            gaussian.log_prob,
            torch.zeros(4, 2).to(gaussian.mean),
            step_size=0.5,
            generator=generator,
            **arguments,
        )

    state = torch.get_rng_state()
    long, late = run(n_samples=12), run(n_samples=5, n_warmup=7)
    torch.testing.assert_close(late.samples, long.samples[7:], rtol=0, atol=0)
    moved = (long.samples[7:] != long.samples[6:-1]).any(-1)
    torch.testing.assert_close(late.acceptance_rate, moved.double().mean(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_and_the_start_are_left_alone(device):
    """Under no_grad too, and in single precision."""
    network = nn.Linear(2, 3).to(device, torch.float32)
    initial = torch.zeros(5, 2, device=device, dtype=torch.float32, requires_grad=True)
    with torch.no_grad():
        chains = hamiltonian_monte_carlo(
            lambda z: -network(z).square().sum(-1) - z.square().sum(-1), initial, 4, torch.tensor(0.3), 2
        )
    assert chains.samples.dtype == chains.acceptance_rate.dtype == torch.float32
    assert not chains.samples.requires_grad
    assert all(p.grad is None for p in network.parameters())
    assert initial.grad is None
    assert not initial.any()


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples must be a whole number of at least 1, got 0"),
        ({"n_samples": 2.0}, "n_samples must be a whole number of at least 1, got 2.0"),
        ({"n_warmup": -1}, "n_warmup must be a whole number of at least 0, got -1"),
        ({"n_leapfrog": 0}, "n_leapfrog must be a whole number of at least 1, got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"step_size": -0.1}, "step_size must be positive and finite, got -0.1"),
        ({"step_size": math.nan}, "step_size must be positive and finite, got nan"),
        ({"step_size": torch.ones(3)}, r"step_size must broadcast to \(4, 2\), got \(3,\)"),
        ({"step_size": torch.ones(5, 4, 2)}, r"step_size must broadcast to \(4, 2\), got \(5, 4, 2\)"),
        ({"initial": [[0.0, 0.0]]}, r"initial must be a tensor of shape \(\*chains, L\), got list"),
        (
            {"log_density": lambda z: harmonic(z.detach())},
            "log_density must be differentiable .* no gradient; look for .detach",
        ),
        ({"initial": torch.zeros(4, 2, dtype=torch.long)}, "initial must be real numbers of shape"),
        ({"initial": torch.tensor(0.0)}, r"initial must be real numbers of shape \(\*chains, L\), got"),
        ({"initial": torch.full((4, 2), math.nan)}, "initial must have a finite log density .* got nan"),
        ({"initial": torch.full((4, 2), math.inf)}, "initial must have a finite log density .* got -inf"),
        ({"log_density": lambda z: z.sqrt().sum(-1)}, "initial must have a finite gradient .* got inf"),
        ({"log_density": lambda z: z}, r"log_density must map .* to shape \(4,\), got \(4, 2\)"),
        ({"log_density": lambda z: z.sum()}, r"log_density must map .* to shape \(4,\), got \(\)"),
        ({"generator": 3}, "generator must be a torch.Generator or None, got 3"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    valid = {"log_density": harmonic, "initial": torch.zeros(4, 2), "n_samples": 3, "step_size": 0.1}
    with pytest.raises(ValueError, match=message):
        hamiltonian_monte_carlo(**valid | arguments)


def test_leapfrog_refuses_a_momentum_of_another_shape():
    with pytest.raises(ValueError, match=r"momentum must have shape \(4, 2\), got \(2,\)"):
        leapfrog(harmonic, torch.zeros(4, 2), torch.zeros(2), 0.1, 3)
