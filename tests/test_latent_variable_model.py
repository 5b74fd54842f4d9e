"""PPCA and factor analysis against scikit-learn, torch's dense Gaussian, and Bayes' rule on a grid."""

import numpy as np
import pytest
import torch
from oracles import random_ppca, standard_errors
from sklearn import decomposition
from sklearn.decomposition import PCA
from torch.distributions import MultivariateNormal

from course_lib.latent_variable_model import PPCA, FactorAnalysis, LatentVariableModel

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.fixture
def data(device):
    """200 correlated points in six dimensions."""
    return (torch.randn(200, 6) @ torch.randn(6, 6) + 3).to(device)


@pytest.fixture(params=["PPCA", "FactorAnalysis"])
def model(request, device):
    """Five pixels, two latents."""
    ppca = random_ppca()
    if request.param == "PPCA":
        return ppca.to(device)
    return FactorAnalysis(ppca.weight, ppca.bias, torch.linspace(0.4, 1.5, 5)).to(device)


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


@pytest.mark.parametrize("n_latents", [1, 3])
def test_factor_analysis_is_that_of_scikit_learn_at_its_own_parameters(data, n_latents, device):
    x = data.cpu() * torch.linspace(0.1, 3, 6)
    oracle = decomposition.FactorAnalysis(n_latents, svd_method="lapack").fit(x)
    parameters = (oracle.components_.T, oracle.mean_, oracle.noise_variance_**0.5)
    ours = FactorAnalysis(*(torch.as_tensor(parameter) for parameter in parameters)).to(device)
    log_likelihood = ours.log_likelihood(x.to(device)).detach().cpu()
    np.testing.assert_allclose(log_likelihood, oracle.score_samples(x), atol=1e-6, rtol=0)
    assert log_likelihood.mean().item() == pytest.approx(oracle.score(x), abs=1e-6)
    mean = ours.posterior(x.to(device)).mean.detach().cpu()
    np.testing.assert_allclose(mean, oracle.transform(x), atol=1e-6, rtol=0)


def test_fit_is_a_stationary_point_of_the_log_likelihood(data):
    def largest_slope(ppca: PPCA) -> float:
        ppca.log_likelihood(data).mean().backward()
        return max(float(parameter.grad.abs().max()) for parameter in ppca.parameters())

    ppca = PPCA.fit(data, 2)
    assert largest_slope(ppca) < 1e-10
    assert largest_slope(rescaled(ppca, len(data) / (len(data) - 1))) > 1e-4


def test_log_likelihood_is_the_density_of_a_dense_gaussian(model, device):
    x = torch.randn(2, 7, 5).to(device)
    noise = (model.noise_std.square() * torch.ones(5).to(device)).diag()
    dense = MultivariateNormal(model.bias, model.weight @ model.weight.T + noise)
    torch.testing.assert_close(model.log_likelihood(x), dense.log_prob(x))
    torch.testing.assert_close(model.marginal().log_prob(x), dense.log_prob(x))


def test_posterior_and_marginal_are_bayes_rule_on_a_grid(model, device):
    x = torch.randn(3, 5).to(device)
    axis = torch.linspace(-6, 6, 241).to(device)
    z = torch.cartesian_prod(axis, axis)
    joint = (model.likelihood(z.unsqueeze(1)).log_prob(x) + model.prior().log_prob(z).unsqueeze(1)).exp()
    cell = (axis[1] - axis[0]) ** 2
    evidence = joint.sum(0) * cell
    torch.testing.assert_close(evidence.log(), model.log_likelihood(x))

    weights, q = joint * cell / evidence, model.posterior(x)
    mean = torch.einsum("gb,gl->bl", weights, z)
    second_moment = torch.einsum("gb,gl,gm->blm", weights, z, z)
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.covariance_matrix, second_moment - mean.unsqueeze(2) * mean.unsqueeze(1))
    torch.testing.assert_close(q.log_prob(z.unsqueeze(1)).exp() * cell, weights)


def test_likelihood_is_centred_on_the_linear_map(model, device):
    z = torch.randn(3, 4, 2).to(device)
    p = model.likelihood(z)
    weight, bias = model.weight.detach().cpu().numpy(), model.bias.detach().cpu().numpy()
    np.testing.assert_allclose(p.mean.detach().cpu(), z.cpu().numpy() @ weight.T + bias)
    torch.testing.assert_close(p.stddev, model.noise_std.expand(3, 4, 5))


def test_ancestral_samples_have_the_marginal_mean_and_covariance(model):
    x = model.sample(20_000)
    assert x.shape == (20_000, 5)
    assert standard_errors(x, model.bias.detach()) < 4
    centred = x - model.bias.detach()
    products = centred.unsqueeze(2) * centred.unsqueeze(1)
    covariance = model.marginal().covariance_matrix.detach()
    assert standard_errors(products, covariance) < 4
    without_noise = (model.weight @ model.weight.T).detach()
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
        (lambda: PPCA(torch.ones(4, 2), torch.ones(4), torch.ones(4)), r"one noise_std, got shape \(4,\)"),
        (lambda: PPCA(torch.ones(4, 2), torch.ones(4), 1.0, 0.0), "variance_floor must be > 0 .*, got 0.0"),
        (
            lambda: FactorAnalysis(torch.ones(4, 2), torch.ones(4), torch.ones(3)),
            r"noise_std must have shape \(D,\) = \(4,\), got \(3,\)",
        ),
        (
            lambda: FactorAnalysis(torch.ones(3, 2), torch.ones(3), torch.tensor([1.0, -0.5, 2.0])),
            "noise_std must be > 0, got -0.5",
        ),
        (lambda: FactorAnalysis(torch.ones(3), torch.ones(3), 1.0), r"weight must have shape \(D, L\)"),
        (lambda: PPCA.fit(torch.randn(9, 4), 0), "n_latents must be between 1 and 3, got 0"),
        (lambda: PPCA.fit(torch.randn(9, 4), 4), "n_latents must be between 1 and 3, got 4"),
        (lambda: PPCA.fit(torch.randn(1, 4), 2), "at least 2 examples, got 1"),
        (lambda: PPCA.fit(torch.randn(9, 4), 2.0), "n_latents must be a whole number of at least 1, got 2.0"),
        (lambda: PPCA.fit(torch.randn(9), 2), r"shape \(N, D\), N ≥ 1, got torch.float64 of \(9,\)"),
        (lambda: PPCA.fit(torch.ones(9, 4, dtype=torch.int64), 2), "x must hold floats .* got torch.int64"),
        (lambda: PPCA.fit(torch.randn(9, 4).log(), 2), r"NaN or infinite values in \d of its 9 rows"),
        (lambda: PPCA(torch.full((4, 2), torch.nan), torch.ones(4), 1.0), "weight and bias must be finite"),
        (lambda: PPCA(torch.ones(4, 2), torch.full((4,), torch.inf), 1.0), "weight and bias must be finite"),
        (lambda: random_ppca().e_step(torch.ones(5)), r"x must have shape \(N, D\), got \(5,\)"),
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
    for call in (ppca.posterior, ppca.log_likelihood, ppca.e_step, ppca.initialise):
        with pytest.raises(ValueError, match=rf"x has shape \(3, {n_pixels}\); its last axis .* n_pixels=5"):
            call(x)
    with pytest.raises(ValueError, match=r"z has shape \(3, 1\); its last axis .* n_latents=2"):
        ppca.likelihood(x[:, :1])
