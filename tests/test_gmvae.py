"""The GMVAE against a linear decoder, which makes it exact, against quadrature, and against the plain VAE."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from oracles import standard_errors
from scipy.stats import multivariate_normal
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from course_lib.bounds import (
    NegativeElbo,
    elbo,
    estimate_log_likelihood,
    iwae_bound,
    log_importance_weights,
)
from course_lib.distributions import diagonal_normal
from course_lib.gmvae import GMVAE, MixturePrior
from course_lib.training import fit
from course_lib.vae import BernoulliVAE, GaussianVAE

pytestmark = pytest.mark.usefixtures("double_precision")

WEIGHTS = (0.5, 0.3, 0.2)


def three_components(device, n_latents: int = 2) -> MixturePrior:
    """Three components that overlap a little, with unequal weights."""
    prior = MixturePrior(n_latents, 3, learn_weights=True, spread=1.5)
    with torch.no_grad():
        prior.log_std.copy_(0.3 * torch.randn(3, n_latents))
        prior.logits.copy_(torch.tensor(WEIGHTS).log() + 0.7)  # up to a constant
    return prior.to(device)


class LinearGMVAE(GaussianVAE):
    """A linear Gaussian decoder under a mixture prior: p(x) is a mixture of Gaussians, p(z | x) another."""

    def __init__(self, prior: MixturePrior, n_pixels: int = 4, noise_std: float = 0.7) -> None:
        n_latents = prior.mean.shape[1]
        super().__init__(n_pixels, n_latents, hidden=(), min_std=0.0)
        self.prior_network, self.noise_std = prior, noise_std
        nn.init.zeros_(self.decoder.log_std.weight)
        nn.init.constant_(self.decoder.log_std.bias, math.log(noise_std))

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W, b, and the means and variances of the components."""
        prior = self.prior_network
        return self.decoder.mean.weight, self.decoder.mean.bias, prior.mean, (2 * prior.log_std).exp()

    def log_joint_of_components(self, x: Tensor) -> Tensor:
        """log π_c + log N(x; W m_c + b, W diag(s_c²) Wᵀ + σ² I) by SciPy, shape (N, 3)."""
        weight, bias, mean, variance = (part.detach().cpu().numpy() for part in self.parts())
        noise = self.noise_std**2 * np.eye(len(bias))
        columns = [
            math.log(w)
            + multivariate_normal(weight @ m + bias, weight * v @ weight.T + noise).logpdf(x.cpu())
            for w, m, v in zip(WEIGHTS, mean, variance, strict=True)
        ]
        return torch.as_tensor(np.stack(columns, -1)).to(x)


class ExactLinearGMVAE(LinearGMVAE):
    """The same with the exact posterior as q."""

    def posterior(self, x: Tensor) -> MixtureSameFamily:
        weight, bias, mean, variance = self.parts()
        precision = torch.diag_embed(1 / variance) + weight.T @ weight / self.noise_std**2
        shift = mean / variance + ((x - bias) @ weight / self.noise_std**2).unsqueeze(-2)
        centre = torch.linalg.solve(precision, shift.unsqueeze(-1)).squeeze(-1)
        each = MultivariateNormal(centre, precision_matrix=precision)
        return MixtureSameFamily(
            Categorical(logits=self.log_joint_of_components(x)), each, validate_args=False
        )


def plane(device, half_width: float = 10.0, n_points: int = 401) -> tuple[Tensor, float]:
    """A grid of the plane, shape (G, 2), and the area of a cell."""
    axis = torch.linspace(-half_width, half_width, n_points, device=device)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


@torch.no_grad()
def test_with_a_linear_decoder_and_the_exact_posterior_every_weight_is_the_evidence(device):
    model = ExactLinearGMVAE(three_components(device)).to(device)
    x = torch.randn(6, 4, device=device)
    truth = model.log_joint_of_components(x).logsumexp(-1)
    weights = log_importance_weights(model, x, 9)
    torch.testing.assert_close(weights, truth.expand(9, 6), rtol=0, atol=1e-9)


@torch.no_grad()
def test_with_a_linear_decoder_the_likelihood_estimate_is_exact_and_the_bounds_lie_below(device):
    model = LinearGMVAE(three_components(device)).to(device)
    nn.init.zeros_(model.encoder.log_std.weight)
    nn.init.constant_(model.encoder.log_std.bias, math.log(2))  # q wider than the posterior: light tails
    x = torch.randn(5, 4, device=device)
    truth = model.log_joint_of_components(x).logsumexp(-1)
    weights = (log_importance_weights(model, x, 40_000) - truth).exp()
    assert standard_errors(weights, 1.0) < 4
    error = estimate_log_likelihood(model, x, 40_000) - truth
    assert (error.abs() < 4 * weights.std(0) / 200).all()
    elbos = elbo(model, x.expand(4000, 5, 4)).value
    iwaes = iwae_bound(model, x.expand(4000, 5, 4), 8)
    assert standard_errors(elbos, truth) > 4
    assert (elbos.mean(0) < iwaes.mean(0)).all()
    assert (iwaes.mean(0) < truth + 4 * iwaes.std(0) / 4000**0.5).all()


def test_the_component_posterior_is_bayes_rule(device):
    model = GMVAE(6, 2, 3, (4,), learn_weights=True).to(device)
    model.prior_network = three_components(device)
    z = torch.randn(7, 5, 2, device=device)
    posterior = model.component_posterior(z)
    assert posterior.batch_shape == (7, 5)
    mean, std = model.prior_network.mean, model.prior_network.log_std.exp()
    densities = Normal(mean, std).log_prob(z.unsqueeze(-2)).sum(-1).exp()
    joint = torch.tensor(WEIGHTS, device=device) * densities
    torch.testing.assert_close(posterior.probs, joint / joint.sum(-1, keepdim=True), rtol=1e-9, atol=1e-12)


def gmvae_in_the_plane(device):
    model = GMVAE(6, 2, 3, (5,), learn_weights=True).to(device)
    model.prior_network = three_components(device)
    return model, torch.rand(4, 6, device=device).round()


def kl_by_quadrature(model, x):
    z, cell = plane(device=x.device)
    log_q = model.posterior(x).log_prob(z.unsqueeze(1))
    return ((log_q.exp() * (log_q - model.prior().log_prob(z).unsqueeze(1))).sum(0)) * cell


def test_the_one_sample_kl_is_unbiased(device):
    model, x = gmvae_in_the_plane(device)
    with torch.no_grad():
        truth = kl_by_quadrature(model, x)
        terms = elbo(model, x.expand(30_000, 4, 6))
        assert not terms.closed_form_kl
        assert standard_errors(terms.kl, truth) < 4
        model.prior_network.logits.zero_()  # negative control: equal weights
        assert standard_errors(elbo(model, x.expand(30_000, 4, 6)).kl, truth) > 4


def test_the_gradient_of_the_one_sample_kl_is_unbiased(device):
    model, x = gmvae_in_the_plane(device)
    parameters = [model.encoder.mean.bias, model.encoder.log_std.bias, *model.prior_network.parameters()]

    def flat_gradient(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

    truth = flat_gradient(kl_by_quadrature(model, x).mean())
    draws = torch.stack([flat_gradient(elbo(model, x.expand(50, 4, 6)).kl.mean()) for _ in range(300)])
    assert standard_errors(draws, truth) < 4
    assert standard_errors(draws[:, :4], 1.2 * truth[:4]) > 4  # a fifth too much would be seen


@torch.no_grad()
def test_one_standard_component_is_the_plain_vae(device):
    plain = BernoulliVAE(6, 2, (5,)).to(device)
    mixture = GMVAE(6, 2, 1, (5,)).to(device)
    mixture.encoder, mixture.decoder = copy.deepcopy(plain.encoder), copy.deepcopy(plain.decoder)
    mixture.prior_network.mean.zero_()
    x = torch.rand(4, 6, device=device).round()
    estimates = []
    for model in (plain, mixture):
        torch.manual_seed(3)
        estimates.append(estimate_log_likelihood(model, x, 50))
    torch.testing.assert_close(*estimates, rtol=0, atol=1e-10)
    closed, sampled = (elbo(m, x.expand(20_000, 4, 6)) for m in (plain, mixture))
    assert (closed.closed_form_kl, sampled.closed_form_kl) == (True, False)
    assert standard_errors(sampled.kl, closed.kl[0]) < 4


def test_the_prior_is_torchs_mixture_and_starts_as_documented(device):
    torch.manual_seed(0)
    prior = MixturePrior(3, 500).to(device)
    assert torch.equal(prior.log_std, torch.zeros_like(prior.log_std))
    assert not prior.logits.requires_grad
    assert standard_errors(prior.mean.detach(), 0.0) < 4
    assert standard_errors(prior.mean.detach().square(), 1.0) < 4
    torch.manual_seed(0)
    torch.testing.assert_close(MixturePrior(3, 500, spread=2.0).mean, 2 * prior.mean.cpu())
    distribution, z = prior(), torch.randn(8, 4, 3, device=device)
    assert (distribution.batch_shape, distribution.event_shape) == ((), (3,))
    each = Independent(Normal(prior.mean, prior.log_std.exp()), 1)
    expected = MixtureSameFamily(Categorical(logits=prior.logits), each).log_prob(z)
    torch.testing.assert_close(distribution.log_prob(z), expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_samples_of_the_prior_have_the_moments_of_the_mixture(device):
    prior = three_components(device)
    z = prior().sample((40_000,))
    weights = torch.tensor(WEIGHTS, device=device)
    mean = weights @ prior.mean
    second = weights @ (prior.mean.square() + (2 * prior.log_std).exp())
    assert standard_errors(z, mean) < 4
    assert standard_errors(z.square(), second) < 4
    assert standard_errors(z, prior.mean.mean(0)) > 4  # the moment of equal weights


@pytest.mark.parametrize("learn_weights", [False, True])
def test_training_moves_the_weights_only_if_they_are_learned(learn_weights, device):
    model = GMVAE(6, 2, 4, (5,), learn_weights=learn_weights).to(device)
    before = copy.deepcopy(model.prior_network.state_dict())
    batch = torch.rand(20, 6, device=device).round()
    fit(NegativeElbo(model), [batch] * 5, steps=5, progress=False)
    moved = {
        name: not torch.equal(value, before[name]) for name, value in model.prior_network.state_dict().items()
    }
    assert moved == {"mean": True, "log_std": True, "logits": learn_weights}


def test_components_that_start_alike_stay_alike(device):
    model = GMVAE(6, 2, 3, (5,)).to(device)
    with torch.no_grad():
        model.prior_network.mean[1] = model.prior_network.mean[0]
    batch = torch.rand(20, 6, device=device).round()
    fit(NegativeElbo(model), [batch] * 50, steps=50, progress=False)
    mean = model.prior_network.mean.detach()
    torch.testing.assert_close(mean[1], mean[0], rtol=0, atol=1e-10)
    assert (mean[2] - mean[0]).abs().max() > 0.01


@pytest.mark.parametrize("n_components", [0, -1, 2.0, True])
def test_a_mixture_needs_a_whole_number_of_components(n_components):
    message = re.escape(f"n_components must be a whole number of at least 1, got {n_components!r}")
    with pytest.raises(ValueError, match=message):
        GMVAE(6, 2, n_components)
    with pytest.raises(ValueError, match=message):
        MixturePrior(2, n_components)


def test_latents_are_at_least_one():
    with pytest.raises(ValueError, match="n_latents must be a whole number of at least 1, got 0"):
        MixturePrior(0, 3)


@pytest.mark.parametrize(
    ("log_std", "seen"), [(-20.0, r"is 2\.06e-09, below 1\.49e-08"), (float("nan"), "is nan")]
)
def test_a_collapsed_component_is_refused_by_name(log_std, seen, device):
    model = GMVAE(6, 2, 5, (4,)).to(device)
    with torch.no_grad():
        model.prior_network.log_std[3, 1] = log_std
        message = rf"component 3 of the prior has collapsed.*along latent 1 {seen}.*Lower the learning rate"
        with pytest.raises(FloatingPointError, match=message):
            model.prior()
        with pytest.raises(FloatingPointError, match="component 3"):
            elbo(model, torch.zeros(2, 6, device=device))


def test_a_width_above_the_precision_of_its_type_is_accepted_and_one_below_is_not(device):
    prior = MixturePrior(2, 3).to(device)
    for dtype in (torch.float32, torch.float64):
        limit = 0.5 * math.log(torch.finfo(dtype).eps)
        prior.to(dtype)
        with torch.no_grad():
            prior.log_std[0, 0] = limit + 0.01
            prior()
            prior.log_std[0, 0] = limit - 0.01
            with pytest.raises(FloatingPointError, match="component 0"):
                prior()


def test_fit_reports_a_component_that_collapses_in_training(device):
    """On the CPU the prior says which; on an accelerator nothing is looked at, and `fit` refuses the loss."""
    model = GMVAE(6, 2, 5, (4,)).to(device)
    with torch.no_grad():
        model.prior_network.log_std[3, 1] = float("nan")
    message = "component 3" if device.type == "cpu" else "the loss became nan"
    with pytest.raises(FloatingPointError, match=message):
        fit(NegativeElbo(model), [torch.zeros(2, 6, device=device)] * 3, steps=3, progress=False)


def test_wrong_shapes_are_refused(device):
    model = GMVAE(6, 2, 5, (4,)).to(device)
    with pytest.raises(ValueError, match="x has 5 pixels"):
        elbo(model, torch.zeros(2, 5, device=device))
    with pytest.raises(ValueError, match=r"value has 3 latents.*mixture has 2"):
        model.component_posterior(torch.zeros(4, 3, device=device))
    with pytest.raises(ValueError, match=r"value has 1 latents.*mixture has 2"):
        model.prior().log_prob(torch.zeros(4, 1, device=device))


def test_on_an_accelerator_training_does_not_wait_for_the_widths_and_evaluation_looks_at_them():
    """Tensors on torch's meta device have no values: reading one back raises."""
    prior = MixturePrior(2, 3).to("meta")
    prior().log_prob(torch.empty(4, 2, device="meta")).sum().backward()
    with torch.no_grad(), pytest.raises((RuntimeError, NotImplementedError)):
        prior()


def test_a_compiled_training_step_is_one_graph(device):
    model = GMVAE(6, 2, 5, (4,)).to(device)
    compiled = torch.compile(NegativeElbo(model), backend="eager", fullgraph=True)
    x = torch.rand(3, 6, device=device).round()
    torch.manual_seed(2)
    value = compiled(x)
    torch.manual_seed(2)
    torch.testing.assert_close(value, NegativeElbo(model)(x))


def test_any_network_without_input_can_be_the_prior(device):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.ones(2))

        def forward(self):
            return diagonal_normal(self.mean, torch.ones_like(self.mean))

    vae = BernoulliVAE(6, 2, (4,), prior=Shifted()).to(device)
    assert torch.equal(vae.prior().mean, vae.prior_network.mean)
    assert elbo(vae, torch.zeros(3, 6, device=device)).closed_form_kl
