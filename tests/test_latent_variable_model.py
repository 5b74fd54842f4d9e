"""PPCA against scikit-learn, against torch's dense Gaussian, and against Bayes' rule on a grid."""

import numpy as np
import pytest
import torch
from oracles import random_ppca, standard_errors
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal

from course_lib.latent_variable_model import PPCA, LatentVariableModel

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def data(device):
    """200 correlated points in six dimensions."""
    return (torch.randn(200, 6) @ torch.randn(6, 6) + 3).to(device)


def rescaled(ppca: PPCA, variance_factor: float) -> PPCA:
    """The same model with its covariance multiplied."""
    scale = variance_factor**0.5
    return PPCA(ppca.weight * scale, ppca.bias, ppca.noise_std * scale)


@pytest.mark.parametrize("n_latents", [1, 3, 5])
def test_fit_has_the_log_likelihood_of_scikit_learn(data, n_latents):
    pca = PCA(n_latents, svd_solver="full").fit(data.cpu())
    ppca = PPCA.fit(data, n_latents)
    n = len(data)
    unbiased = rescaled(ppca, n / (n - 1))  # scikit-learn divides the covariance by N − 1
    ours = unbiased.log_likelihood(data).mean().item()
    assert ours == pytest.approx(pca.score(data.cpu()), abs=1e-6)
    assert ppca.log_likelihood(data).mean().item() > ours + 1e-6  # N − 1 is not maximum likelihood


def test_fit_is_a_stationary_point_of_the_log_likelihood(data):
    def largest_slope(ppca: PPCA) -> float:
        ppca.log_likelihood(data).mean().backward()
        return max(float(parameter.grad.abs().max()) for parameter in ppca.parameters())

    ppca = PPCA.fit(data, 2)
    assert largest_slope(ppca) < 1e-10
    assert largest_slope(rescaled(ppca, len(data) / (len(data) - 1))) > 1e-4


def test_log_likelihood_is_the_density_of_a_dense_gaussian(device):
    ppca, x = random_ppca(device=device), torch.randn(2, 7, 5).to(device)
    noise = ppca.noise_std.square() * torch.eye(5).to(device)
    dense = MultivariateNormal(ppca.bias, ppca.weight @ ppca.weight.T + noise)
    torch.testing.assert_close(ppca.log_likelihood(x), dense.log_prob(x))
    torch.testing.assert_close(ppca.marginal().log_prob(x), dense.log_prob(x))


def test_posterior_and_marginal_are_bayes_rule_on_a_grid(device):
    ppca, x = random_ppca(device=device), torch.randn(3, 5).to(device)
    axis = torch.linspace(-6, 6, 241).to(device)
    z = torch.cartesian_prod(axis, axis)
    joint = (ppca.likelihood(z.unsqueeze(1)).log_prob(x) + ppca.prior().log_prob(z).unsqueeze(1)).exp()
    cell = (axis[1] - axis[0]) ** 2
    evidence = joint.sum(0) * cell
    torch.testing.assert_close(evidence.log(), ppca.log_likelihood(x))

    weights, q = joint * cell / evidence, ppca.posterior(x)
    mean = torch.einsum("gb,gl->bl", weights, z)
    second_moment = torch.einsum("gb,gl,gm->blm", weights, z, z)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.covariance_matrix, second_moment - mean.unsqueeze(2) * mean.unsqueeze(1))
    torch.testing.assert_close(q.log_prob(z.unsqueeze(1)).exp() * cell, weights)


def test_likelihood_is_centred_on_the_linear_map(device):
    ppca, z = random_ppca(device=device), torch.randn(3, 4, 2).to(device)
    p = ppca.likelihood(z)
    weight, bias = ppca.weight.detach().cpu().numpy(), ppca.bias.detach().cpu().numpy()
    np.testing.assert_allclose(p.mean.detach().cpu(), z.cpu().numpy() @ weight.T + bias)
    torch.testing.assert_close(p.stddev, torch.full_like(p.stddev, 0.7))


def test_ancestral_samples_have_the_marginal_mean_and_covariance(device):
    ppca = random_ppca(device=device)
    x = ppca.sample(20_000)
    assert x.shape == (20_000, 5)
    assert standard_errors(x, ppca.bias.detach()) < 4
    centred = x - ppca.bias.detach()
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    covariance = ppca.marginal().covariance_matrix.detach()
    assert standard_errors(products, covariance) < 4
    without_noise = (ppca.weight @ ppca.weight.T).detach()
    assert standard_errors(products, without_noise) > 4  # what sampling the mean alone would give


def test_an_incomplete_model_names_the_missing_method():
    class Nothing(LatentVariableModel):
        pass

    for call in (lambda: Nothing().prior(), lambda: Nothing().likelihood(0), lambda: Nothing().posterior(0)):
        with pytest.raises(NotImplementedError, match=r"Nothing must define (prior|likelihood|posterior)"):
            call()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PPCA(torch.ones(4, 2), torch.ones(3), 1.0), r"bias \(D,\); got \(4, 2\) and \(3,\)"),
        (lambda: PPCA(torch.ones(4), torch.ones(4), 1.0), r"weight must have shape \(D, L\)"),
        (lambda: PPCA(torch.ones(4, 2), torch.ones(4), 0.0), "noise_std must be > 0, got 0.0"),
        (lambda: PPCA(torch.ones(4, 2), torch.ones(4), float("nan")), "noise_std must be > 0, got nan"),
        (lambda: PPCA.fit(torch.randn(9, 4), 0), "n_latents must be between 1 and 3, got 0"),
        (lambda: PPCA.fit(torch.randn(9, 4), 4), "n_latents must be between 1 and 3, got 4"),
        (lambda: PPCA.fit(torch.randn(1, 4), 2), "at least 2 examples, got 1"),
    ],
)
def test_a_ppca_that_cannot_exist_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("examples", "n_latents"),
    [
        (torch.randn(9, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 4), 1),
        (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), 2),
        (torch.ones(5, 4), 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fit_refuses_examples_without_noise(examples, n_latents, dtype, device):
    message = rf"vary in at most n_latents={n_latents} directions.*variance .* is 0 .*Ask for fewer n_latents"
    with pytest.raises(ValueError, match=message):
        PPCA.fit(examples.to(device, dtype), n_latents)


@pytest.mark.parametrize(("scale", "n_pixels", "n_latents"), [(0.3, 4, 1), (1.1, 5, 2), (1.1, 6, 1)])
def test_fit_of_equal_variances_in_all_directions_has_weights_of_zero(scale, n_pixels, n_latents, device):
    """The mean of equal eigenvalues may be rounded up, past each of them."""
    x = scale * torch.cat([torch.eye(n_pixels), -torch.eye(n_pixels)]).to(device)
    ppca = PPCA.fit(x, n_latents)
    assert ppca.weight.abs().max() < 1e-7
    assert ppca.noise_std.item() == pytest.approx(scale / n_pixels**0.5)


@pytest.mark.parametrize("n_pixels", [1, 4])
def test_wrong_numbers_of_pixels_and_latents_are_refused(n_pixels):
    ppca, x = random_ppca(), torch.randn(3, n_pixels)
    for call in (ppca.posterior, ppca.log_likelihood):
        with pytest.raises(ValueError, match=rf"x has shape \(3, {n_pixels}\); its last axis .* n_pixels=5"):
            call(x)
    with pytest.raises(ValueError, match=r"z has shape \(3, 1\); its last axis .* n_latents=2"):
        ppca.likelihood(x[:, :1])
