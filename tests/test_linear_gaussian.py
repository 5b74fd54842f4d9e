"""The EM steps of PPCA and factor analysis: dense conditioning, quadrature, closed form, scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from sklearn import decomposition
from sklearn.datasets import load_digits
from torch.distributions import MultivariateNormal

from course_lib.em import fit_em
from course_lib.latent_variable_model import PPCA, FactorAnalysis
from course_lib.linear_gaussian import LinearGaussian

pytestmark = pytest.mark.usefixtures("double_precision")
BOTH = pytest.mark.parametrize("kind", [PPCA, FactorAnalysis])


@pytest.fixture
def data(device):
    """120 points with two factors, and a noise of its own in each of five columns."""
    noise = torch.linspace(0.2, 1.5, 5) * torch.randn(120, 5)
    return (torch.randn(120, 2) @ torch.randn(2, 5) + noise + 3).to(device)


@BOTH
def test_both_models_share_their_mathematics(kind):
    assert issubclass(kind, LinearGaussian)


@BOTH
def test_e_step_is_the_conditioning_of_the_dense_joint_gaussian(kind, data):
    model = kind.start(data, 2)
    with torch.no_grad():
        model.bias += 0.5  # no mean of anything is special
        marginal = (
            model.weight @ model.weight.T + (model.noise_std.square() * torch.ones_like(model.bias)).diag()
        )
        gain = model.weight.T @ marginal.inverse()
        expectations = model.e_step(data)
        torch.testing.assert_close(expectations.mean, (data - model.bias) @ gain.T)
        torch.testing.assert_close(expectations.covariance, torch.eye(2).to(data) - gain @ model.weight)
        dense = MultivariateNormal(model.bias, marginal).log_prob(data)
    torch.testing.assert_close(expectations.log_likelihood, dense)


@BOTH
def test_m_step_is_the_stationary_point_of_the_expected_log_joint(kind, data):
    model = kind.start(data, 2)
    with torch.no_grad():
        model.bias += 0.5
    expectations = model.e_step(data)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)  # exact: log p(x, z) is quadratic in z
    grid = torch.tensor(list(itertools.product(nodes, nodes))).to(data)
    products = torch.tensor([u * v for u, v in itertools.product(weights, weights)]).to(data)
    noise = grid @ torch.linalg.cholesky(expectations.covariance).T
    z = expectations.mean + noise.unsqueeze(1)

    def largest_slope() -> float:
        model.zero_grad()
        log_joint = model.likelihood(z).log_prob(data) + model.prior().log_prob(z)
        (products / products.sum() @ log_joint).mean().backward()
        return max(float(parameter.grad.abs().max()) for parameter in model.parameters())

    assert largest_slope() > 1e-2
    assert model.m_step(data, expectations) is None  # exact: no fall of the likelihood is allowed
    assert largest_slope() < 1e-10


def test_em_of_ppca_ends_at_the_closed_form(data):
    exact = PPCA.fit(data, 2)
    model = PPCA.start(data, 2, torch.Generator().manual_seed(1))
    result = fit_em(model, data, tolerance=1e-12, max_iterations=5000)
    assert result.converged
    assert result.log_likelihoods[-1] == pytest.approx(exact.log_likelihood(data).mean().item(), abs=1e-8)
    assert result.log_likelihoods[0] < result.log_likelihoods[-1] - 0.1
    torch.testing.assert_close(
        model.marginal().covariance_matrix, exact.marginal().covariance_matrix, rtol=1e-3, atol=1e-4
    )


def test_em_of_factor_analysis_ends_where_scikit_learn_does(data):
    oracle = decomposition.FactorAnalysis(2, svd_method="lapack", tol=1e-10, max_iter=20_000).fit(data.cpu())
    generator = torch.Generator().manual_seed(0)
    model = FactorAnalysis.start(data, 2, generator)
    result = fit_em(model, data, n_starts=3, tolerance=1e-11, max_iterations=20_000, generator=generator)
    assert result.log_likelihoods[-1] >= oracle.score(data.cpu()) - 1e-6
    ppca = PPCA.fit(data, 2).log_likelihood(data).mean().item()
    assert result.log_likelihoods[-1] > ppca + 0.1  # a noise for each pixel is worth something here


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_pixels_end_at_the_floor_and_are_counted(kind, dtype, device):
    x = torch.as_tensor(load_digits().data[:400] / 16).to(device, dtype)
    constant = x.var(0) < 1e-4  # eight of them never change, four almost never
    assert (x.var(0) == 0).sum() == 8
    model = kind.start(x, 4, torch.Generator().manual_seed(0), variance_floor=1e-4)
    result = fit_em(model, x, max_iterations=30)
    assert np.isfinite(result.log_likelihoods).all()
    if kind is PPCA:
        assert result.at_floor == model.at_floor() == [0]  # the mean over the pixels is far above it
    else:
        assert result.at_floor == model.at_floor() == [int(constant.sum())]
        floor = torch.full_like(model.noise_std[constant], 1e-2)
        torch.testing.assert_close(model.noise_std[constant], floor)
        assert (model.noise_std[~constant] > 0.011).all()


def test_noise_that_vanishes_stops_at_the_floor(device):
    x = torch.randn(50, 1).to(device) @ torch.ones(1, 4).to(device)
    model = PPCA.start(x, 1, torch.Generator().manual_seed(0), variance_floor=1e-3)
    result = fit_em(model, x, max_iterations=2000)
    assert result.at_floor == [1]
    assert model.noise_std.item() == pytest.approx(1e-3**0.5)


@BOTH
def test_a_start_takes_mean_and_half_the_variance_as_noise(kind, data):
    model = kind.start(data, 2, torch.Generator().manual_seed(3))
    half = 0.5 * torch.as_tensor(np.var(data.cpu().numpy(), 0)).to(data)
    torch.testing.assert_close(model.bias.data, data.mean(0))
    expected = half.mean() if kind is PPCA else half
    torch.testing.assert_close(model.noise_std.detach().square(), expected)
    again = kind.start(data, 2, torch.Generator().manual_seed(3))
    other = kind.start(data, 2, torch.Generator().manual_seed(4))
    assert torch.equal(model.weight, again.weight)
    assert not torch.equal(model.weight, other.weight)


@BOTH
def test_bad_data_for_a_start_are_refused(kind, data):
    with pytest.raises(ValueError, match="n_latents must be between 1 and 4, got 5"):
        kind.start(data, 5)
    with pytest.raises(ValueError, match=r"n_latents must be a whole number of at least 1, got 2\.0"):
        kind.start(data, 2.0)
    data[7, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of its 120 rows, first in row 7"):
        kind.start(data, 2)
    with pytest.raises(ValueError, match="variance_floor must be > 0"):
        kind.start(data[:5], 2, variance_floor=0)
