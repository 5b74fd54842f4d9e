"""Flows: densities against quadrature, remembered samples, priors and posteriors of a VAE, bits."""

import copy
import pickle

import pytest
import torch
from flow_oracles import integral_over_the_plane, randomised
from oracles import standard_errors
from torch import nn
from torch.distributions import Normal

from course_lib.affine_flows import MaskedAutoregressive
from course_lib.batches import Batches
from course_lib.bijections import ActNorm, Bijection, Composition, Inverse, Permutation
from course_lib.bounds import elbo, log_importance_weights
from course_lib.data import load_images
from course_lib.dequantisation import Logit
from course_lib.flow import (
    Flow,
    FlowDistribution,
    FlowEncoder,
    NegativeLogLikelihood,
    autoregressive_layers,
    coupling_layers,
    planar_layers,
)
from course_lib.networks import BernoulliNetwork
from course_lib.planar import Planar
from course_lib.training import fit
from course_lib.vae import VAE, BernoulliVAE

float64 = pytest.mark.usefixtures("double_precision")

FLOWS = {
    "coupling": lambda: coupling_layers(2, 3, [8]),
    "autoregressive": lambda: autoregressive_layers(2, 3, [8]),
    "inverse autoregressive": lambda: [Inverse(layer) for layer in autoregressive_layers(2, 2, [8])],
    "planar": lambda: planar_layers(2, 4),
    "inverse planar": lambda: [Inverse(Planar(2)), Inverse(Planar(2))],
}


@pytest.mark.parametrize("name", FLOWS)
@float64
def test_the_density_integrates_to_one(name):
    flow = Flow(2, randomised(Composition(FLOWS[name]()), 0.3).bijections)
    with torch.no_grad():
        total = integral_over_the_plane(lambda x: flow.log_prob(x).exp(), 15, 600)
        assert total == pytest.approx(1, abs=1e-3)
        if name not in ("inverse autoregressive",):  # the control: the volume forgotten, or turned round
            base = flow.base()
            wrong = integral_over_the_plane(lambda x: base.log_prob(flow.bijection(x)).exp(), 15, 600)
            assert abs(wrong - 1) > 1e-2


@float64
def test_samples_have_the_density():
    """E[h(x)] under samples against the same expectation by quadrature."""
    flow = Flow(2, randomised(Composition(coupling_layers(2, 3, [8])), 0.3).bijections)
    sample = flow.sample(20_000)
    for moment in (lambda x: x[:, 0], lambda x: x[:, 0] * x[:, 1], lambda x: (x[:, 1] > 0.3).double()):
        truth = integral_over_the_plane(lambda x, m=moment: m(x) * flow.log_prob(x).exp().detach(), 15, 1000)
        assert standard_errors(moment(sample), truth) < 4
    assert standard_errors(sample[:, 0], float(sample[:, 0].mean()) + 0.1) > 4  # what a wrong mean looks like


@float64
def test_a_sample_is_remembered_with_its_log_density(device):
    layer = randomised(MaskedAutoregressive(3, [8])).to(device)
    base = torch.distributions.Independent(Normal(torch.zeros(4, 3, device=device), 1.0), 1)
    distribution = FlowDistribution(base, Inverse(layer))
    assert (distribution.batch_shape, distribution.event_shape) == ((4,), (3,))
    z = distribution.rsample((5,))
    remembered = distribution.log_prob(z)
    torch.testing.assert_close(remembered, distribution.log_prob(z.clone()))
    calls = []
    layer.network.register_forward_hook(lambda *_: calls.append(1))
    distribution.log_prob(z)
    assert not calls
    distribution.log_prob(z.clone())  # by the inverse, a pass a feature
    assert len(calls) == 3
    z = z.detach()
    with torch.no_grad():
        z = distribution.rsample((5,))
        z += 1
        torch.testing.assert_close(distribution.log_prob(z), distribution.log_prob(z.clone()))


@float64
def test_remembered_and_recomputed_densities_have_equal_gradients():
    encoder = randomised(FlowEncoder(4, [8], 2, MaskedAutoregressive(2, [8], n_context=3), n_context=3), 0.2)
    x = torch.randn(6, 4)

    def gradients(remember):
        torch.manual_seed(3)
        posterior = encoder(x)
        z = posterior.rsample((2,))
        posterior.log_prob(z if remember else z.clone()).sum().backward()
        found = [p.grad.clone() for p in encoder.parameters()]
        encoder.zero_grad()
        return found

    torch.testing.assert_close(gradients(True), gradients(False))


def test_a_sample_without_gradients_is_scored_with_them():
    """What the score-function estimator needs: z a constant, log q(z) a function of the parameters."""
    layer = randomised(MaskedAutoregressive(3, [8]))
    flow = Flow(3, [layer])
    distribution = flow()
    with torch.no_grad():
        x = distribution.rsample((4,))
        remembered = distribution.log_prob(x)
    log_prob = distribution.log_prob(x)
    torch.testing.assert_close(log_prob, remembered)
    log_prob.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    with torch.inference_mode():
        x = distribution.rsample((4,))
        torch.testing.assert_close(distribution.log_prob(x), distribution.log_prob(x.clone()))


def test_a_flow_takes_an_empty_batch_and_survives_copies(device):
    flow = Flow(2, randomised(Composition(coupling_layers(2, 2, [8])), 0.2).bijections).to(device)
    x = torch.randn(5, 3, 2, device=device)
    assert flow.log_prob(x[:0]).shape == (0, 3)
    assert flow.log_prob(x[0, 0]).shape == ()
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        torch.testing.assert_close(twin.log_prob(x), flow.log_prob(x))


def test_an_encoder_draws_in_one_pass():
    layer = MaskedAutoregressive(5, [8], n_context=3)
    encoder = FlowEncoder(4, [8], 5, layer, n_context=3)
    calls = []
    layer.network.register_forward_hook(lambda *_: calls.append(1))
    posterior = encoder(torch.randn(6, 4))
    posterior.log_prob(posterior.rsample((2,)))
    assert len(calls) == 1


class Squash(Bijection):
    """A map whose Jacobian vanishes where x is 0."""

    def forward_and_log_det(self, x):
        return x**3, (3 * x.square()).log().sum(-1)


def test_singular_and_overflowing_jacobians_are_named(device):
    flow = Flow(2, [Squash()]).to(device)
    with torch.no_grad():
        assert torch.isfinite(flow.log_prob(torch.ones(3, 2, device=device))).all()
        with pytest.raises(FloatingPointError, match=r"-inf in 1 of 2 places.*singular"):
            flow.log_prob(torch.tensor([[1.0, 0.0], [1.0, 1.0]], device=device))
        wild = Flow(2, [ActNorm(2)]).to(device)
        wild.bijection.bijections[0].log_scale.fill_(torch.inf)
        with pytest.raises(FloatingPointError, match="inf in 5 of 5 places"):
            wild.log_prob(torch.ones(5, 2, device=device))
        with pytest.raises(FloatingPointError, match="places"):
            wild().rsample((5,))


def test_a_flow_is_a_prior_and_its_gradients_reach_it(device):
    prior = Flow(3, coupling_layers(3, 2, [8]))
    model = BernoulliVAE(16, 3, [8], prior=prior).to(device)
    x = torch.randint(2, (5, 16), device=device).float()
    bound = elbo(model, x, n_samples=4)
    assert (bound.value.shape, bound.closed_form_kl) == ((5,), False)
    (-bound.value.mean()).backward()
    assert all(p.grad is not None for p in prior.parameters())
    assert model.sample(7).shape == (7, 16)


@pytest.mark.parametrize("kind", ["planar", "iaf", "plain"])
@float64
def test_the_posteriors_weights_average_to_the_exact_likelihood(kind):
    """One latent: log p(x) by quadrature, and the mean importance weight of a flow posterior beside it."""
    bijections = {
        "planar": [Planar(1, n_context=4), Planar(1, n_context=4)],
        "iaf": [MaskedAutoregressive(1, [4], n_context=4)],
        "plain": [ActNorm(1), Planar(1)],
    }[kind]
    n_context = 0 if kind == "plain" else 4
    encoder = FlowEncoder(6, [8], 1, Composition(bijections), n_context)
    model = randomised(VAE(encoder, BernoulliNetwork(1, [8], 6), 6, 1), 0.3)
    x = torch.randint(2, (3, 6)).double()
    with torch.no_grad():
        weights = log_importance_weights(model, x, 40_000).exp()
        grid = torch.linspace(-12, 12, 4001)[:, None, None]
        joint = (model.prior().log_prob(grid) + model.likelihood(grid).log_prob(x)).exp()
        exact = torch.trapezoid(joint, dx=24 / 4000, dim=0)
        assert standard_errors(weights, exact) < 4
        posterior = model.posterior(x)
        density = torch.stack([posterior.log_prob(z.expand(3, 1)).exp() for z in grid[::20, 0]])
        torch.testing.assert_close(
            torch.trapezoid(density, dx=24 / 200, dim=0), torch.ones(3), rtol=0, atol=1e-3
        )


def test_training_moves_a_flow_towards_the_data():
    """A Gaussian fitted exactly: one autoregressive layer can hold it, and its entropy is known."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 2.0]])
    data = torch.distributions.MultivariateNormal(torch.tensor([3.0, -1.0]), covariance)
    x, test = data.sample((5000,)), data.sample((5000,))
    flow = Flow(2, autoregressive_layers(2, 1, [16])).initialise(x)
    before = flow.log_prob(test).mean()
    fit(NegativeLogLikelihood(flow), Batches(x, batch_size=500), 300, progress=False)
    excess = data.log_prob(test) - flow.log_prob(test).detach()
    assert float(data.log_prob(test).mean() - before) > 0.1
    assert excess.mean() < 0.01


def test_images_start_finite_and_train(device):
    images = load_images("digits", device)
    flow = Flow(64, [Logit(1e-6), *autoregressive_layers(64, 2, [64])]).to(device)
    x = images.evaluation("dequantize", split="train")
    objective = NegativeLogLikelihood(flow.initialise(x))
    before = float(objective(x).detach())
    fit(objective, images.batches(100, "dequantize"), 200, progress=False)
    assert float(objective(x).detach()) < before - 10


def test_misuse_is_named():
    flow = Flow(2, coupling_layers(2, 1, [4]))
    for call in (flow.log_prob, flow.initialise):
        with pytest.raises(ValueError, match="n_features=2"):
            call(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="n_samples"):
        flow.sample(0)
    with pytest.raises(ValueError, match="n_layers"):
        coupling_layers(2, 0, [4])
    with pytest.raises(ValueError, match="at least one bijection"):
        Flow(2, [])
    with pytest.raises(ValueError, match=r"int64.*\.float\(\)"):
        flow.log_prob(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="n_context"):
        FlowEncoder(4, [8], 2, Planar(2), n_context=-1)
    assert isinstance(Flow(2, [Permutation.reversing(2)], nn.Identity()).base, nn.Identity)
