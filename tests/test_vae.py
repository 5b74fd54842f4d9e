"""The VAEs against PPCA, which a linear VAE contains, and against quadrature over one latent."""

import copy
import math
from itertools import product

import pytest
import torch
from oracles import gaussian_expectation, random_ppca, standard_errors
from torch import nn

from course_lib.bounds import NegativeElbo, elbo, estimate_log_likelihood, log_importance_weights
from course_lib.distributions import diagonal_normal
from course_lib.latent_variable_model import PPCA
from course_lib.vae import VAE, BernoulliVAE, GaussianVAE

pytestmark = pytest.mark.usefixtures("double_precision")


@torch.no_grad()
def linear_vae(ppca: PPCA) -> GaussianVAE:
    """The GaussianVAE without hidden layers that is this PPCA; the columns of W must be orthogonal."""
    vae = GaussianVAE(ppca.weight.shape[0], ppca.n_latents, hidden=(), min_std=0.0)
    vae.decoder.mean.weight.copy_(ppca.weight)
    vae.decoder.mean.bias.copy_(ppca.bias)
    vae.decoder.log_std.weight.zero_()
    vae.decoder.log_std.bias.copy_(ppca.log_noise_std)
    precision = ppca.weight.square().sum(0) + ppca.noise_std.square()  # the diagonal of M
    vae.encoder.mean.weight.copy_(ppca.weight.T / precision.unsqueeze(1))
    vae.encoder.mean.bias.copy_(-vae.encoder.mean.weight @ ppca.bias)
    vae.encoder.log_std.weight.zero_()
    vae.encoder.log_std.bias.copy_(ppca.log_noise_std - precision.log() / 2)
    return vae


@torch.no_grad()
def test_a_linear_gaussian_vae_is_ppca(device):
    ppca = random_ppca()
    ppca.weight.copy_(torch.linalg.qr(ppca.weight).Q * torch.tensor([1.5, 0.5]))
    vae, x = linear_vae(ppca).to(device), torch.randn(4, 5, device=device)
    truth = ppca.to(device).log_likelihood(x)
    torch.testing.assert_close(log_importance_weights(vae, x, 9), truth.expand(9, 4), rtol=0, atol=1e-10)
    torch.testing.assert_close(vae.posterior(x).mean, ppca.posterior(x).mean)
    torch.testing.assert_close(vae.posterior(x).variance, ppca.posterior(x).variance)


def bernoulli_vae(device, n_pixels=4):
    """A VAE of bits whose one latent matters, with q wider than the prior: its weights have light tails."""
    vae = BernoulliVAE(n_pixels, n_latents=1, hidden=(3,))
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(2)
    nn.init.zeros_(vae.encoder.log_std.weight)
    nn.init.constant_(vae.encoder.log_std.bias, math.log(2))
    return vae.to(device)


@torch.no_grad()
def evidence(vae, x):
    """p(x) = ∫ p(x | z) N(z; 0, 1) dz by quadrature, shape (N,)."""
    prior = diagonal_normal(torch.zeros(len(x), 1).to(x), torch.ones(len(x), 1).to(x))
    return gaussian_expectation(lambda z: vae.likelihood(z).log_prob(x).exp(), prior, n_nodes=150)


def every_image(n_pixels, device):
    return torch.tensor(list(product([0.0, 1.0], repeat=n_pixels)), device=device)


def test_bernoulli_vae_is_a_distribution_over_every_binary_image(device):
    vae = bernoulli_vae(device)
    assert evidence(vae, every_image(4, device)).sum().item() == pytest.approx(1, abs=1e-12)


@torch.no_grad()
def test_bernoulli_vae_evidence_equals_quadrature_and_its_elbo_lies_below(device):
    vae, x = bernoulli_vae(device), every_image(4, device)
    truth = evidence(vae, x)
    weights = log_importance_weights(vae, x, 20_000).exp()
    assert standard_errors(weights, truth) < 4
    standard_error = weights.std(0) / (truth * 20_000**0.5)  # of the logarithm
    error = estimate_log_likelihood(vae, x, 20_000) - truth.log()
    assert (error.abs() < 4 * standard_error).all()
    mean_elbo = elbo(vae, x.expand(20_000, *x.shape)).value.mean(1, keepdim=True)
    assert mean_elbo.mean() < truth.log().mean()
    assert standard_errors(mean_elbo, truth.log().mean()) > 4


@torch.no_grad()
def test_ancestral_samples_have_the_frequencies_of_the_model(device):
    vae, images = bernoulli_vae(device), every_image(4, device)
    samples = vae.sample(20_000)
    is_image = (samples.unsqueeze(1) == images).all(-1).double()
    assert (is_image.sum(1) == 1).all()  # bits, and nothing else
    assert standard_errors(is_image, evidence(vae, images)) < 4
    assert standard_errors(is_image, torch.full((16,), 1 / 16, device=device)) > 4


@torch.no_grad()
def test_in_single_precision_the_likelihood_of_784_bits_is_exact_to_a_thousandth_of_a_nat(device):
    vae = BernoulliVAE(784, 10).to(device)
    for parameter in vae.decoder.parameters():
        parameter.mul_(2)
    z, x = torch.randn(20, 10, device=device), torch.rand(20, 784, device=device).round()
    truth = vae.likelihood(z).log_prob(x)
    value = vae.float().likelihood(z.float()).log_prob(x.float())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), truth, rtol=0, atol=0.001)


def test_prior_is_standard_normal_on_the_models_device(device):
    prior = BernoulliVAE(4, n_latents=3).to(device).prior()
    assert prior.mean.device.type == device.type
    assert prior.event_shape == (3,)
    assert torch.equal(prior.mean.cpu(), torch.zeros(3))
    assert torch.equal(prior.stddev.cpu(), torch.ones(3))


def test_a_given_prior_takes_the_place_of_the_standard_normal(device):
    prior = nn.Module()
    prior.centre = nn.Parameter(torch.tensor([1.0, -2.0]))
    prior.forward = lambda: diagonal_normal(prior.centre, torch.full_like(prior.centre, 0.5))
    vae = BernoulliVAE(4, n_latents=2, hidden=(3,), prior=prior).to(device)
    assert vae.prior().mean.tolist() == [1.0, -2.0]
    assert any(
        parameter is prior.centre for parameter in vae.parameters()
    )  # it is trained, and moved, with the rest
    x, q = torch.rand(5, 4, device=device).round(), vae.posterior(torch.zeros(4, device=device))
    by_formula = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.mean, q.stddev), torch.distributions.Normal(prior.centre, 0.5)
    ).sum()
    torch.testing.assert_close(elbo(vae, torch.zeros(4, device=device)).kl, by_formula)
    elbo(vae, x).value.sum().backward()
    assert prior.centre.grad.abs().min() > 0


def test_default_widths_are_mirrored_in_the_decoder():
    def widths(network):
        return [layer.out_features for layer in network.modules() if isinstance(layer, nn.Linear)]

    vae = BernoulliVAE(784, 10, hidden=(300, 200))
    assert widths(vae.encoder) == [300, 200, 10, 10]
    assert widths(vae.decoder) == [200, 300, 784]


def test_gaussian_decoder_keeps_the_floor_of_its_std(device):
    vae = GaussianVAE(4, 2, (3,), min_std=0.3).to(device)
    nn.init.constant_(vae.decoder.log_std.bias, -50.0)
    assert vae.likelihood(torch.randn(5, 2, device=device)).stddev.min().item() == pytest.approx(0.3)


@pytest.mark.parametrize("model", [BernoulliVAE, GaussianVAE])
def test_wrong_number_of_pixels_is_refused(model, device):
    message = r"x has 8 pixels.*shape \(2, 8, 8\).*n_pixels=64\. Flatten images with x\.flatten\(1\)"
    with pytest.raises(ValueError, match=message):
        elbo(model(64, 2, (3,)).to(device), torch.rand(2, 8, 8, device=device))


@pytest.mark.parametrize(
    ("pixel", "seen"),
    [(-0.1, r"\[-0\.1, 0\.5\]"), (255.0, r"\[0\.5, 255\]"), (float("nan"), r"\[nan, nan\]")],
)
def test_pixels_outside_the_unit_interval_are_refused(pixel, seen, device):
    vae, x = BernoulliVAE(4, 2, (3,)).to(device), torch.full((2, 4), 0.5, device=device)
    x[1, 2] = pixel
    message = (
        seen
        + r", outside \[0, 1\]\. Divide grey levels by the highest one \(255 .*, or .*transform='binarize'"
    )
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        elbo(vae, x)


def test_the_first_training_batch_is_checked_and_a_refused_one_does_not_count(device):
    objective = NegativeElbo(BernoulliVAE(4, 2, (3,)).to(device))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
            objective(torch.full((2, 4), 255.0, device=device))
    assert objective(torch.ones(2, 4, device=device)).isfinite()


def test_on_the_cpu_every_training_batch_is_checked():
    objective = NegativeElbo(BernoulliVAE(4, 2, (3,)))
    objective(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        objective(torch.full((2, 4), 255.0))


def test_a_compiled_training_step_is_one_graph_without_the_check(device):
    objective = NegativeElbo(BernoulliVAE(4, 2, (3,)).to(device))
    compiled = torch.compile(objective, backend="eager", fullgraph=True)
    assert compiled(torch.full((2, 4), 255.0, device=device)).isfinite()


def test_both_ends_of_the_unit_interval_are_pixels(device):
    vae = BernoulliVAE(2, 2, (3,)).to(device)
    assert elbo(vae, torch.tensor([[0.0, 1.0]], device=device)).value.isfinite().all()


def test_on_an_accelerator_the_first_training_batch_is_checked_and_no_later_one_waits_for_a_value():
    """Tensors on torch's meta device have no values: reading one back raises."""
    vae = BernoulliVAE(4, 2, (3,))
    with torch.no_grad():
        NegativeElbo(vae)(torch.rand(5, 4))  # an evaluation is not the first training batch
    with pytest.raises((RuntimeError, NotImplementedError)):
        NegativeElbo(copy.deepcopy(vae).to("meta"))(torch.empty(5, 4, device="meta"))

    NegativeElbo(vae)(torch.rand(5, 4)).backward()  # a first batch that can be read
    vae.to("meta")
    NegativeElbo(vae)(torch.empty(5, 4, device="meta")).backward()
    with torch.no_grad(), pytest.raises((RuntimeError, NotImplementedError)):
        NegativeElbo(vae)(torch.empty(5, 4, device="meta"))  # the evaluation does look at its pixels


def test_a_vae_is_its_encoder_and_decoder(device):
    other = BernoulliVAE(4, 2, (3,)).to(device)
    vae = VAE(other.encoder, other.decoder, n_pixels=4, n_latents=2).to(device)
    x = torch.rand(5, 4, device=device)
    torch.testing.assert_close(vae.posterior(x).mean, other.encoder(x).mean)
    torch.testing.assert_close(vae.likelihood(x[:, :2]).mean, other.decoder(x[:, :2]).mean)
