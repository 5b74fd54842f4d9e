"""Mixtures against scikit-learn, scipy, enumeration and finite differences."""

import warnings

import numpy as np
import pytest
import torch
from oracles import standard_errors
from scipy.stats import multivariate_normal
from sklearn import mixture
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from course_lib.bounds import log_importance_weights
from course_lib.em import fit_em
from course_lib.gaussian_mixture import GaussianMixture, MixtureExpectations

pytestmark = pytest.mark.usefixtures("double_precision")
BOTH = pytest.mark.parametrize("covariance", ["full", "diagonal"])
NAMES = {"full": "full", "diagonal": "diag"}  # ours and scikit-learn's


def random_mixture(covariance="full", n_components=3, n_pixels=2, device="cpu") -> GaussianMixture:
    """Unequal weights, means apart by about one standard deviation."""
    weights = torch.arange(1.0, n_components + 1) / sum(range(n_components + 1))
    roots = torch.randn(n_components, n_pixels, n_pixels)
    full = roots @ roots.mT + 0.3 * torch.eye(n_pixels)
    covariances = full if covariance == "full" else full.diagonal(dim1=1, dim2=2)
    return GaussianMixture(weights, 2 * torch.randn(n_components, n_pixels), covariances).to(device)


def numpy_of(model: GaussianMixture) -> list[np.ndarray]:
    return [
        parameter.detach().cpu().numpy().copy()
        for parameter in (model.weights, model.means, model.covariances)
    ]


def scikit_learn_at(model: GaussianMixture, **options) -> mixture.GaussianMixture:
    """Its mixture, to be started at our parameters."""
    weights, means, covariances = numpy_of(model)
    precisions = np.linalg.inv(covariances) if model.full else 1 / covariances
    covariance = NAMES["full" if model.full else "diagonal"]
    return mixture.GaussianMixture(
        model.n_components,
        covariance_type=covariance,
        reg_covar=model.variance_floor,
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
        **options,
    )


def fitted(oracle: mixture.GaussianMixture, x: torch.Tensor) -> mixture.GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a limit on the iterations that is meant
        return oracle.fit(x.cpu().numpy())


def clouds(n=240, n_pixels=3, n_clouds=4) -> torch.Tensor:
    """Overlapping clouds, and a column that never changes."""
    centres = 1.5 * torch.randn(n_clouds, n_pixels)
    x = centres[torch.randint(n_clouds, (n,))] + torch.randn(n, n_pixels) @ torch.randn(n_pixels, n_pixels)
    return torch.cat([x, torch.full((n, 1), 0.25)], 1)


@BOTH
def test_densities_and_responsibilities_are_those_of_scikit_learn(covariance, device):
    x = clouds().to(device)
    model = GaussianMixture.start(x, 5, covariance, variance_floor=1e-4)
    oracle = fitted(scikit_learn_at(model, max_iter=7, tol=0), x)
    parameters = (oracle.weights_, oracle.means_, oracle.covariances_)
    ours = GaussianMixture(*(torch.as_tensor(parameter).to(device) for parameter in parameters))
    expected, r = oracle.score_samples(x.cpu().numpy()), oracle.predict_proba(x.cpu().numpy())
    for log_likelihood in (
        ours.log_likelihood(x),
        ours.marginal().log_prob(x),
        ours.e_step(x).log_likelihood,
    ):
        np.testing.assert_allclose(log_likelihood.detach().cpu(), expected, atol=1e-6, rtol=0)
    for responsibilities in (ours.posterior(x).probs, ours.e_step(x).responsibilities):
        np.testing.assert_allclose(responsibilities.detach().cpu(), r, atol=1e-6, rtol=0)


@BOTH
@pytest.mark.parametrize("chunk", [1, 100, GaussianMixture.CHUNK])
def test_log_joint_is_bayes_rule_by_enumeration(covariance, chunk, device, monkeypatch):
    monkeypatch.setattr(GaussianMixture, "CHUNK", chunk)
    model = random_mixture(covariance, device=device)
    x = torch.randn(4, 30, 2).to(device)
    weights, means, covariances = numpy_of(model)
    matrices = covariances if covariance == "full" else [np.diag(variances) for variances in covariances]
    joint = np.stack(
        [
            weight * multivariate_normal(mean, matrix).pdf(x.cpu())
            for weight, mean, matrix in zip(weights, means, matrices, strict=True)
        ],
        -1,
    )
    np.testing.assert_allclose(model.log_joint(x).detach().cpu(), np.log(joint))
    np.testing.assert_allclose(model.log_likelihood(x).detach().cpu(), np.log(joint.sum(-1)))
    probabilities = joint / joint.sum(-1, keepdims=True)
    np.testing.assert_allclose(model.posterior(x).probs.detach().cpu(), probabilities)
    for c in range(3):
        z = torch.full((4, 30), c).to(device)
        log_joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
        np.testing.assert_allclose(log_joint.detach().cpu(), np.log(joint[..., c]))


@BOTH
def test_every_importance_weight_is_the_evidence(covariance, device):
    model, x = random_mixture(covariance, device=device), torch.randn(9, 2).to(device)
    with torch.no_grad():
        log_weights = log_importance_weights(model, x, 20)
        torch.testing.assert_close(log_weights, model.marginal().log_prob(x).expand(20, 9))


@BOTH
def test_log_likelihood_has_the_gradient_of_finite_differences(covariance, monkeypatch):
    monkeypatch.setattr(GaussianMixture, "CHUNK", 12)  # two examples in a block
    model, x = random_mixture(covariance), torch.randn(5, 2)
    model.log_likelihood(x).sum().backward()
    for parameter in (model.means, model.weights):
        for place in np.ndindex(*parameter.shape):
            values = []
            for step in (1e-6, -2e-6):
                with torch.no_grad():
                    parameter[place] += step
                    values.append(model.log_likelihood(x).sum().item())
            with torch.no_grad():
                parameter[place] += 1e-6
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(parameter.grad[place].item(), abs=1e-6)


@BOTH
def test_ancestral_samples_have_the_mean_of_the_mixture(covariance, device):
    model = random_mixture(covariance, device=device)
    x = model.sample(20_000)
    assert x.shape == (20_000, 2)
    weights, means, _ = (torch.as_tensor(parameter).to(device) for parameter in numpy_of(model))
    assert standard_errors(x, weights @ means) < 4
    assert standard_errors(x, means.mean(0)) > 4  # of equally heavy components


@BOTH
def test_a_step_of_em_is_that_of_scikit_learn(covariance, device):
    x = clouds().to(device)
    model = GaussianMixture.start(x, 4, covariance)
    oracle = fitted(scikit_learn_at(model, max_iter=1), x)
    before = numpy_of(model)
    model.m_step(x, model.e_step(x))
    expected = (oracle.weights_, oracle.means_, oracle.covariances_)
    for ours, theirs, old in zip(numpy_of(model), expected, before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)
        assert np.abs(ours - old).max() > 1e-3


@BOTH
def test_a_start_is_that_of_scikit_learn(covariance, device):
    """Its k-means++ start gives every component one example, and its first step the nearest ones."""
    x = clouds(n_pixels=5).to(device)
    seed = int(torch.randint(2**31 - 1, (), generator=torch.Generator().manual_seed(11)))
    oracle = mixture.GaussianMixture(
        6, covariance_type=NAMES[covariance], init_params="k-means++", max_iter=1, random_state=seed
    )
    fitted(oracle, x)
    model = GaussianMixture.start(x, 6, covariance, generator=torch.Generator().manual_seed(11))
    expected = (oracle.weights_, oracle.means_, oracle.covariances_)
    for ours, theirs in zip(numpy_of(model), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10)
    other = GaussianMixture.start(x, 6, covariance, generator=torch.Generator().manual_seed(12))
    assert not torch.equal(other.means, model.means)


@BOTH
def test_em_from_twenty_starts_ends_where_scikit_learn_does(covariance, device):
    x = clouds().to(device)
    generator, ends = torch.Generator().manual_seed(5), []
    model = GaussianMixture.start(x, 4, covariance, generator=generator)
    for _ in range(20):
        model.initialise(x, generator)
        oracle = fitted(scikit_learn_at(model, max_iter=1000, tol=1e-9), x)
        result = fit_em(model, x, max_iterations=1000, tolerance=1e-9)
        assert result.converged
        assert oracle.converged_
        ends.append(result.log_likelihoods[-1])
        assert ends[-1] >= oracle.score(x.cpu().numpy()) - 1e-6
        assert model.log_likelihood(x).mean().item() == pytest.approx(ends[-1], abs=1e-9)
    assert max(ends) - min(ends) > 1e-3  # the starts differ, so the comparison says something


@BOTH
def test_a_floor_may_let_the_likelihood_fall_by_no_more_than_the_m_step_says(covariance):
    x = torch.as_tensor(load_digits().data[:500] / 16)
    rises, allowed = [], []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        model = GaussianMixture.start(x, 10, covariance, variance_floor=1e-4, generator=generator)
        for _ in range(25):
            before = model.log_likelihood(x).mean().item()
            allowed.append(model.m_step(x, model.e_step(x)))
            rises.append(model.log_likelihood(x).mean().item() - before)
    assert min(rises) < -1e-5  # it happens
    assert all(rise >= -most - 1e-9 for rise, most in zip(rises, allowed, strict=True))
    assert min(allowed) == 0


@BOTH
def test_a_collapsed_component_and_constant_columns_stand_at_the_floor(covariance, device):
    x = torch.cat([torch.randn(60, 3), torch.tensor([[50.0, 50.0, 50.0]])]).to(device)
    x = torch.cat([x, torch.full((61, 1), 7.0).to(device)], 1)
    model = GaussianMixture.start(x, 2, covariance, 1e-3, torch.Generator().manual_seed(0))
    result = fit_em(model, x)
    assert np.isfinite(result.log_likelihoods).all()
    lonely = int(model.means[:, 0].argmax())
    assert model.weights[lonely].item() == pytest.approx(1 / 61)
    floor = torch.full((4,), 1e-3).to(device)
    covariances = (
        model.covariances if covariance == "diagonal" else model.covariances.diagonal(dim1=1, dim2=2)
    )
    torch.testing.assert_close(covariances[lonely], floor)
    assert covariances[1 - lonely, 3].item() == pytest.approx(1e-3)
    assert result.at_floor[lonely] == 4
    assert result.at_floor[1 - lonely] == 1


@BOTH
def test_a_component_without_examples_dies_in_its_place(covariance, device):
    model, x = random_mixture(covariance, device=device), torch.randn(40, 2).to(device)
    mean = model.means[1].detach().clone()
    r = torch.zeros(40, 3).to(device)
    r[:20, 0], r[20:, 2] = 1, 1
    model.m_step(x, MixtureExpectations(torch.zeros(40), r))
    torch.testing.assert_close(model.weights.data, torch.tensor([0.5, 0.0, 0.5]).to(device))
    assert torch.equal(model.means[1], mean)
    result = fit_em(model, x, max_iterations=5)
    assert np.isfinite(result.log_likelihoods).all()
    assert model.weights[1] == 0
    torch.testing.assert_close(model.marginal().log_prob(x), model.log_likelihood(x))


def test_single_precision_handles_the_digits(device):
    x = torch.as_tensor(load_digits().data / 16).to(device, torch.float32)
    model = GaussianMixture.start(x, 10, variance_floor=1e-4, generator=torch.Generator().manual_seed(0))
    assert model.means.dtype == torch.float32
    single = fit_em(model, x, max_iterations=20).log_likelihoods
    exact = GaussianMixture.start(
        x.double(), 10, variance_floor=1e-4, generator=torch.Generator().manual_seed(0)
    )
    double = fit_em(exact, x.double(), max_iterations=20).log_likelihoods
    assert single == pytest.approx(double[: len(single)], rel=1e-4)


EYE, TWO = torch.eye(2), torch.tensor([0.5, 0.5])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: GaussianMixture(torch.ones(3) / 3, EYE, EYE),
            r"weights must have shape \(C,\) .* got \(3,\) and",
        ),
        (lambda: GaussianMixture(TWO, torch.ones(2), EYE), r"means \(C, D\); got \(2,\) and \(2,\)"),
        (
            lambda: GaussianMixture(TWO, EYE, EYE.expand(3, 2, 2)),
            r"or \(C, D\) for diagonal ones; got \(3, 2, 2\)",
        ),
        (lambda: GaussianMixture(TWO, EYE, torch.ones(2)), r"covariances must have shape \(C, D, D\)"),
        (
            lambda: GaussianMixture(TWO * 2, EYE, 1 + EYE),
            r"weights must be ≥ 0 and sum to 1, got \[1.0, 1.0\]",
        ),
        (
            lambda: GaussianMixture(torch.tensor([1.5, -0.5]), EYE, 1 + EYE),
            "weights must be ≥ 0 and sum to 1",
        ),
        (
            lambda: GaussianMixture(TWO * torch.nan, EYE, 1 + EYE),
            "weights must be finite floats, got 2 that are not",
        ),
        (
            lambda: GaussianMixture(torch.tensor([1, 0]), EYE, 1 + EYE),
            r"weights must be finite floats, got torch\.int64$",
        ),
        (
            lambda: GaussianMixture(TWO, EYE / torch.tensor([1.0, 0.0]), 1 + EYE),
            "means must be finite floats, got 2 that",
        ),
        (lambda: GaussianMixture(TWO, EYE, (1 + EYE) * torch.inf), "covariances must be finite floats"),
        (lambda: GaussianMixture(TWO, EYE, EYE), r"covariances \[0, 1\] are not positive definite"),
        (
            lambda: GaussianMixture(TWO, EYE, torch.stack([EYE, 1 - EYE])),
            r"covariances \[1\] are not positive definite",
        ),
        (
            lambda: GaussianMixture(TWO, EYE, torch.stack([torch.tensor([[1.0, 0.5], [0.0, 1.0]]), EYE])),
            r"covariances \[0\] are not positive definite: they must be .* symmetric",
        ),
        (lambda: GaussianMixture(TWO, EYE, EYE * torch.nan), "covariances must be finite floats, got 4 that"),
        (lambda: GaussianMixture(TWO, EYE, 1 + EYE, variance_floor=0.0), "variance_floor must be > 0"),
        (lambda: GaussianMixture.start(torch.randn(9, 2), 2, "tied"), '"full" or "diagonal", got \'tied\''),
        (
            lambda: GaussianMixture.start(torch.randn(9, 2), 0),
            "n_components must be a whole number of at least 1, got 0",
        ),
        (lambda: GaussianMixture.start(torch.randn(9, 2), 10), "9 examples cannot start 10 components"),
        (
            lambda: GaussianMixture.start(torch.ones(9, 2), 2),
            "fewer different examples than the 2 components, 1",
        ),
        (
            lambda: GaussianMixture.start(torch.randn(9, 2) / 0, 2),
            "NaN or infinite values in 9 of its 9 rows",
        ),
        (lambda: GaussianMixture.start(torch.randn(9), 2), r"the shape \(N, D\), N ≥ 1, got .* \(9,\)"),
        (lambda: random_mixture().likelihood(torch.tensor([0, 3])), "z must hold integers from 0 to 2, got"),
        (lambda: random_mixture().likelihood(torch.tensor(-1)), "z must hold integers from 0 to 2"),
        (lambda: random_mixture().likelihood(torch.tensor([0.0])), "z must hold integers from 0 to 2"),
        (lambda: random_mixture().log_likelihood(torch.randn(4, 1)), r"x has shape \(4, 1\); .* n_pixels=2"),
        (lambda: random_mixture().e_step(torch.randn(4, 3)), r"x has shape \(4, 3\); .* n_pixels=2"),
        (lambda: random_mixture().initialise(torch.randn(4, 3)), r"x has shape \(4, 3\); .* n_pixels=2"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_floor_lost_in_rounding_is_named():
    x = 1e8 * torch.randn(30, 1).float() @ torch.ones(1, 3).float()
    with pytest.raises(
        FloatingPointError, match=r"covariances \[.*\] are singular: variance_floor=1e-06 is lost"
    ):
        GaussianMixture.start(x, 2)
