"""The theorem, run: the smoothed flow's identity and slope, and the naive encoder's predicted gap."""

import math

import numpy as np
import pytest
import torch
from flow_oracles import randomised
from oracles import standard_errors
from torch.distributions import Independent, Normal

from course_lib.bijections import Composition
from course_lib.bounds import elbo, log_importance_weights
from course_lib.flow import Flow, autoregressive_layers, coupling_layers, planar_layers
from course_lib.latent_variable_model import LatentVariableModel
from course_lib.smoothed_flow import SmoothedFlow

pytestmark = pytest.mark.usefixtures("double_precision")

LAYERS = {
    "coupling": lambda: coupling_layers(2, 3, [8]),
    "autoregressive": lambda: autoregressive_layers(2, 2, [8]),
    "planar": lambda: planar_layers(2, 3),
}


def random_flow(name="coupling", device="cpu"):
    return Flow(2, randomised(Composition(LAYERS[name]()), 0.3).bijections).to(device)


def hermite(n=24):
    """Nodes and weights of E f(η), η ~ N(0, I₂), by Gauss–Hermite quadrature."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(n))
    weights = weights / weights.sum()
    return torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(weights, weights).prod(-1)


def laplacian(function, x):
    """Δ f at each row of x, from autograd's Hessian."""
    hessians = torch.func.vmap(torch.func.hessian(function))(x)
    return hessians.diagonal(dim1=-2, dim2=-1).sum(-1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("noise_std", [0.01, 0.5])
def test_the_ratio_of_decoder_to_encoder_is_the_jacobian(name, noise_std, device):
    flow = random_flow(name, device)
    model = SmoothedFlow(flow, noise_std)
    x = torch.randn(20, 2, device=device)
    with torch.no_grad():
        posterior = model.posterior(x)
        z = posterior.rsample((7,))
        noisy, log_det_g = flow.bijection.inverse_and_log_det(z)
        ratio = model.likelihood(z).log_prob(x) - posterior.log_prob(z.clone())
        torch.testing.assert_close(ratio, flow.bijection.forward_and_log_det(noisy)[1], rtol=0, atol=1e-10)
        torch.testing.assert_close(ratio, -log_det_g, rtol=0, atol=1e-10)
        assert ratio.std() > 0.01  # no constant, which anything would equal


def test_every_log_weight_is_the_flows_log_density_at_the_noisy_point(device):
    flow = random_flow(device=device)
    model, x = SmoothedFlow(flow, 0.3), torch.randn(20, 2, device=device)
    with torch.no_grad():
        torch.manual_seed(1)
        weights = log_importance_weights(model, x, 7)
        torch.manual_seed(1)
        noisy = model._noisy(x).rsample((7,))
        torch.testing.assert_close(weights, flow.log_prob(noisy), rtol=0, atol=1e-10)


def test_the_bound_departs_with_half_the_laplacian():
    flow, x = random_flow(), torch.randn(12, 2)
    predicted = 0.5 * laplacian(flow.log_prob, x)
    nodes, weights = hermite()
    with torch.no_grad():
        log_prob = flow.log_prob(x)
        departures = {}
        for noise_std in (0.02, 0.04, 0.08):
            bound = torch.einsum("k,kn->n", weights, flow.log_prob(x + noise_std * nodes[:, None]))
            departures[noise_std] = bound - log_prob
    slope = departures[0.02] / 0.02**2
    assert (predicted.abs() > 0.05).all()
    torch.testing.assert_close(slope, predicted, rtol=0.05, atol=0)
    # O(σ⁴): twice the σ, sixteen times the rest.
    rest = {s: (departures[s] - s**2 * predicted).abs().mean() for s in (0.04, 0.08)}
    assert math.log2(rest[0.08] / rest[0.04]) == pytest.approx(4, abs=0.3)
    # The negative control: the Laplacian without its half is 100 % off.
    assert ((slope - 2 * predicted).abs() > 0.4 * predicted.abs()).all()


def test_the_sampled_bound_has_the_quadratures_mean():
    flow, x, noise_std = random_flow(), torch.randn(5, 2), 0.4
    nodes, weights = hermite(40)
    with torch.no_grad():
        exact = torch.einsum("k,kn->n", weights, flow.log_prob(x + noise_std * nodes[:, None]))
        samples = log_importance_weights(SmoothedFlow(flow, noise_std), x, 20_000)
        bound = elbo(SmoothedFlow(flow, noise_std), x, 20_000)
        assert standard_errors(samples, exact) < 4
        assert standard_errors(samples, flow.log_prob(x)) > 4  # at σ = 0.4 the difference shows
    assert not bound.closed_form_kl
    assert ((bound.value - exact).abs() < 4 * samples.std(0) / math.sqrt(20_000)).all()


class NaiveFlow(LatentVariableModel):
    """What one would write first: q(z | x) = N(f(x), ε² I) with the decoder N(g(z), ε² I)."""

    def __init__(self, flow, std):
        super().__init__()
        self.flow, self.std = flow, std

    def prior(self):
        return self.flow.base()

    def likelihood(self, z):
        return Independent(Normal(self.flow.bijection.inv(z), self.std), 1)

    def posterior(self, x):
        return Independent(Normal(self.flow.bijection(x), self.std), 1)


@pytest.mark.parametrize("std", [1e-2, 1e-3])
def test_the_naive_encoder_keeps_its_predicted_gap(std):
    flow, x = random_flow(), torch.randn(8, 2)
    jacobians = torch.func.vmap(torch.func.jacrev(flow.bijection.inv))(flow.bijection(x))
    singular = torch.linalg.svdvals(jacobians)
    predicted = 0.5 * (singular.square() - 1 - singular.square().log()).sum(-1)
    nodes, weights = hermite()
    model = NaiveFlow(flow, std)
    with torch.no_grad():
        posterior = model.posterior(x)
        z = posterior.mean + std * nodes[:, None]
        terms = model.prior().log_prob(z) + model.likelihood(z).log_prob(x) - posterior.log_prob(z)
        gap = flow.log_prob(x) - torch.einsum("k,kn->n", weights, terms)
        torch.testing.assert_close(gap, predicted.detach(), rtol=20 * std, atol=20 * std)
        assert (predicted > 0.01).all()
        smoothed = torch.einsum("k,kn->n", weights, flow.log_prob(x + std * nodes[:, None]))
        assert (flow.log_prob(x) - smoothed).abs().max() < 1e-2 * predicted.min()


def test_misuse_is_named():
    flow = random_flow()
    for std in (0, -1, torch.nan, torch.inf):
        with pytest.raises(ValueError, match="noise_std"):
            SmoothedFlow(flow, std)
    with pytest.raises(ValueError, match="n_features=2"):
        SmoothedFlow(flow, 0.1).posterior(torch.zeros(2, 3))
    assert SmoothedFlow(flow, 0.1).sample(4).shape == (4, 2)
