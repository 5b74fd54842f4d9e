"""Estimators against exact gradients: closed forms, Gauss–Hermite quadrature, sums over all states.

One function judges them all, right and deliberately wrong ones: `assert_unbiased`, with 10⁶ draws.
"""

import copy
import math
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import standard_errors
from torch.distributions import (
    Bernoulli,
    Categorical,
    Gamma,
    Independent,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    Pareto,
    Poisson,
    Uniform,
)

from course_lib.distributions import bernoulli_vector, diagonal_normal, kl_to_standard_normal
from course_lib.gradient_estimators import (
    LearnedBaseline,
    enumeration,
    gumbel_softmax,
    leave_one_out,
    pathwise,
    score_function,
)
from course_lib.gradient_samples import estimate_gradients

pytestmark = pytest.mark.usefixtures("double_precision")

# The integrands, and the exact gradients of their expectations.

CURVATURE, CENTRE = (0.7, -0.4, 1.0), (0.3, -0.2, 1.1)
MEAN, STD = (0.9, -0.7, 0.4), (0.6, 1.1, 0.8)
ROWS = ((1.5, -0.5, 0.3), (-0.4, 2.0, 1.0))
LOGITS = (0.6, -0.5, 0.1)


def quadratic(z):
    return (z.new_tensor(CURVATURE) * (z - z.new_tensor(CENTRE)).square()).sum(-1)


def logistic(z):
    """The log-likelihood of a logistic regression with two examples: conjugate to no Gaussian."""
    return F.logsigmoid(z @ z.new_tensor(ROWS).T).sum(-1)


def cubic(z):
    """Of one-hot vectors or bits, and not linear in them."""
    return (z @ z.new_tensor([1.0, -2.0, 0.5]) + 0.7) ** 3


def tensors(device, *values):
    return tuple(torch.tensor(v, device=device) for v in values)


def quadrature(integrand, mean, std, n_nodes):
    """E f and its gradients for a Gaussian vector, on the product grid of Gauss–Hermite nodes."""
    nodes, weights = (mean.new_tensor(part) for part in np.polynomial.hermite_e.hermegauss(n_nodes))
    axes = [nodes] * len(mean), [weights / weights.sum()] * len(mean)
    grid, mass = (torch.cartesian_prod(*axis).reshape(-1, len(mean)) for axis in axes)
    mean, std = mean.detach().requires_grad_(), std.detach().requires_grad_()
    value = mass.prod(-1) @ integrand(mean + std * grid)
    return [value.detach(), *torch.autograd.grad(value, (mean, std))]


def gaussian_case(integrand):
    def build(device):
        parameters = tensors(device, MEAN, STD)
        truth, finer = (quadrature(integrand, *parameters, n) for n in (24, 40))
        torch.testing.assert_close(truth, finer, rtol=0, atol=1e-7)  # far below any standard error here
        return SimpleNamespace(make=diagonal_normal, parameters=parameters, integrand=integrand, truth=truth)

    return build


def discrete_case(make, all_states):
    """The sum over all states, with each state's probability written out."""

    def build(device):
        logits = torch.tensor(LOGITS, device=device, requires_grad=True)
        states, probabilities = all_states(logits)
        value = probabilities @ cubic(states)
        truth = [value.detach(), *torch.autograd.grad(value, logits)]
        return SimpleNamespace(make=make, parameters=(logits,), integrand=cubic, truth=truth)

    return build


def one_hot_states(logits):
    return torch.eye(3, device=logits.device), logits.exp() / logits.exp().sum()


def bit_states(logits):
    states = logits.new_tensor(list(product([0.0, 1.0], repeat=3)))
    on = 1 / (1 + (-logits).exp())
    return states, torch.where(states == 1, on, 1 - on).prod(-1)


def one_hot(logits):
    return OneHotCategorical(logits=logits)


GAUSSIANS = {"quadratic": gaussian_case(quadratic), "logistic": gaussian_case(logistic)}
DISCRETE = {
    "one-hot": discrete_case(one_hot, one_hot_states),
    "bits": discrete_case(bernoulli_vector, bit_states),
}
CASES = GAUSSIANS | DISCRETE


def test_the_quadrature_agrees_with_the_closed_form_of_the_quadratic():
    mean, std = tensors("cpu", MEAN, STD)
    a, distance = torch.tensor(CURVATURE), mean - torch.tensor(CENTRE)
    closed_form = [(a * (distance**2 + std**2)).sum(), 2 * a * distance, 2 * a * std]
    torch.testing.assert_close(quadrature(quadratic, mean, std, 24), closed_form)


# The one test of unbiasedness, and what passes it.


def draw_gradients(estimator, case, n_repeats, n_calls=1):
    """Independent estimates of the value and of each gradient, in calls that fit into a cache."""
    values = []

    def keep_value(distribution, integrand):
        estimate = estimator(distribution, integrand)
        values.append(estimate.detach())
        return estimate

    calls = [
        estimate_gradients(keep_value, case.make, case.parameters, case.integrand, n_repeats)
        for _ in range(n_calls)
    ]
    return [torch.cat(values), *map(torch.cat, zip(*calls, strict=True))]


def assert_unbiased(estimator, case, n_repeats=10_000, n_calls=25):
    """Value and gradients are within 4 standard errors of the truth: 10⁶ draws with 4 samples an estimate."""
    for estimates, truth in zip(draw_gradients(estimator, case, n_repeats, n_calls), case.truth, strict=True):
        assert standard_errors(estimates, truth) < 4


UNBIASED = {
    "score function": score_function,
    "constant baseline": partial(score_function, baseline=1.3),
    "a baseline for each estimate": lambda q, f, n_samples: score_function(
        q, f, n_samples, torch.linspace(-1, 1, len(q.mean), device=q.mean.device)
    ),
    "learned baseline": partial(score_function, baseline=LearnedBaseline()),
    "leave one out": leave_one_out,
    "pathwise": pathwise,
}


@pytest.mark.parametrize(
    ("name", "case"), [(n, c) for n in UNBIASED for c in CASES if n != "pathwise" or c in GAUSSIANS]
)
def test_a_million_draws_agree_with_the_exact_value_and_gradient(name, case, device):
    estimator = copy.deepcopy(UNBIASED[name])  # with a baseline that has learned nothing yet
    if name == "learned baseline":
        estimator.keywords["baseline"].to(device)
    assert_unbiased(partial(estimator, n_samples=4), CASES[case](device))


def surrogate(f, wrong):
    """The right value with a wrong gradient."""
    return f.mean(0).detach() + wrong - wrong.detach()


def no_score(q, f, n_samples):
    z = q.sample((n_samples,))
    return surrogate(f(z), f(z).mean(0) + 0 * q.log_prob(z).mean(0))


def sample_not_detached(q, f, n_samples):
    z = q.rsample((n_samples,))
    return surrogate(f(z), (f(z).detach() * q.log_prob(z)).mean(0))


def score_and_path(q, f, n_samples):
    z = q.rsample((n_samples,))
    return surrogate(f(z), f(z).mean(0) + (f(z).detach() * q.log_prob(z.detach())).mean(0))


def baseline_of_its_own_sample(q, f, n_samples):
    z = q.sample((n_samples,))
    return surrogate(f(z), ((f(z) - f(z).mean(0)) * q.log_prob(z)).mean(0))


def score_of_the_mean(q, f, n_samples):
    """f and log q averaged each for itself."""
    z = q.sample((n_samples,))
    return surrogate(f(z), f(z).mean(0).detach() * q.log_prob(z).mean(0))


def sum_of_samples(q, f, n_samples):
    z = q.sample((n_samples,))
    return surrogate(f(z), (f(z).detach() * q.log_prob(z)).sum(0))


def baseline_in_the_value(q, f, n_samples):
    return score_function(q, f, n_samples, baseline=1.3) - 1.3


def path_of_the_mean(q, f, n_samples):
    """One sample's noise, moved by the parameters of the mean alone."""
    return f(q.mean + (q.rsample((n_samples,)) - q.mean).detach()).mean(0) + 0 * q.stddev.sum(-1)


WRONG = [no_score, baseline_of_its_own_sample, score_of_the_mean, baseline_in_the_value, sum_of_samples]
WRONG_PATHS = [sample_not_detached, score_and_path, path_of_the_mean]


@pytest.mark.parametrize(("wrong", "case"), [*product(WRONG, CASES), *product(WRONG_PATHS, GAUSSIANS)])
def test_a_wrong_estimator_fails_the_same_test(wrong, case, device):
    with pytest.raises(AssertionError):
        assert_unbiased(partial(wrong, n_samples=4), CASES[case](device), n_calls=3)


def learning_too_early(q, f, baseline):
    """The baseline has seen the very samples it is used with."""

    z = q.sample((1,))
    baseline.update(f(z))
    return surrogate(f(z), ((f(z) - baseline.value) * q.log_prob(z)).mean(0))


def test_a_baseline_may_learn_after_its_use_and_not_before(device):
    """Calls of two samples, where it matters, and a learning rate that forgets all else."""
    case, few = GAUSSIANS["quadratic"](device), {"n_repeats": 2, "n_calls": 700}
    assert_unbiased(partial(score_function, baseline=LearnedBaseline(1.0).to(device)), case, **few)
    with pytest.raises(AssertionError):
        assert_unbiased(partial(learning_too_early, baseline=LearnedBaseline(1.0).to(device)), case, **few)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_learned_baseline_follows_the_mean_of_f_after_each_use(sign, device):
    """Whether f is to rise or to fall; and not in evaluation."""
    (p,) = tensors(device, 0.4)
    baseline = LearnedBaseline(0.25, initial=2.0).to(device)
    for training, expected in [(True, 2 + 0.25 * (3 * sign - 2)), (False, 2.0)]:
        baseline.train(training).value.fill_(2.0)
        score_function(Bernoulli(p), lambda z: 3 * sign + 0 * z, 5, baseline)
        torch.testing.assert_close(float(baseline.value), expected)
    assert list(baseline.state_dict()) == ["value"]


# The integrand's own parameters.


def z_times_mean(estimator):
    """f(z) = z·μ under N(μ, 1): of the gradient 2μ of E f = μ², one half comes through f."""
    mean = torch.full((20_000, 1), 0.8, requires_grad=True)
    estimate = estimator(diagonal_normal(mean, torch.ones(1)), lambda z: (z * mean).sum(-1))
    (gradient,) = torch.autograd.grad(estimate.sum(), mean)
    return SimpleNamespace(value=estimate.detach(), gradient=gradient)


def detached_integrand(q, f):
    return score_function(q, lambda z: f(z).detach())


@pytest.mark.parametrize("estimator", [score_function, leave_one_out, pathwise])
def test_the_gradient_of_the_integrand_itself_is_counted_once(estimator):
    estimates = z_times_mean(estimator)
    assert standard_errors(estimates.value, 0.8**2) < 4
    assert standard_errors(estimates.gradient, 2 * 0.8) < 4
    assert standard_errors(z_times_mean(detached_integrand).gradient, 2 * 0.8) > 4


@pytest.mark.parametrize("estimator", [score_function, leave_one_out, pathwise])
def test_a_kl_divergence_has_the_gradient_of_its_closed_form(estimator, device):
    """The integrand log q − log p of the ELBO depends on q's parameters, and its score has mean zero."""
    mean, std = tensors(device, MEAN, STD)
    mean, std = (p.expand(30_000, -1).clone().requires_grad_() for p in (mean, std))
    q, p = diagonal_normal(mean, std), diagonal_normal(torch.zeros(3).to(mean), torch.ones(3).to(mean))
    estimate = estimator(q, lambda z: q.log_prob(z) - p.log_prob(z))
    gradients = torch.autograd.grad(estimate.sum(), (mean, std))
    truth = torch.autograd.grad(kl_to_standard_normal(mean, std).sum(), (mean, std))
    assert standard_errors(estimate.detach(), kl_to_standard_normal(mean, std).detach()[0]) < 4
    for gradient, exact in zip(gradients, truth, strict=True):
        assert standard_errors(gradient, exact[0]) < 4


def test_the_value_is_the_mean_of_the_integrand_at_the_samples(device):
    """To the last bits, in the batch shape, from the same random numbers, with or without a gradient."""
    mean, std = torch.randn(4, 2, 3, device=device), torch.rand(4, 2, 3, device=device) + 0.5
    q = diagonal_normal(mean, std)
    for estimator in (partial(score_function, baseline=5.0), leave_one_out, pathwise):
        torch.manual_seed(1)
        expected = quadratic(q.sample((7,))).mean(0)
        torch.manual_seed(1)
        torch.testing.assert_close(estimator(q, quadratic, n_samples=7), expected)
        assert expected.shape == (4, 2)


# Predicted variances: the Gaussian with a quadratic integrand, coordinate by coordinate.


def score_variance(case, m):
    """Of one sample with a constant baseline b, m = E f − b; for the means and the standard deviations."""
    mean, std = case.parameters
    a, distance = mean.new_tensor(CURVATURE), mean - mean.new_tensor(CENTRE)
    others = case.variance - a**2 * (4 * distance**2 * std**2 + 2 * std**4)
    of_mean = (m**2 + others) / std**2 + 4 * m * a + a**2 * (8 * distance**2 + 10 * std**2)
    of_std = 2 * (m**2 + others) / std**2 + 16 * m * a + a**2 * (40 * distance**2 + 56 * std**2)
    return torch.stack([of_mean, of_std])


def quadratic_case(device):
    """The case with Var f, the Fisher information, and the predicted variances for K samples."""
    case = GAUSSIANS["quadratic"](device)
    mean, std = case.parameters
    a, distance = mean.new_tensor(CURVATURE), mean - mean.new_tensor(CENTRE)
    case.variance = (a**2 * (4 * distance**2 * std**2 + 2 * std**4)).sum()
    value, information = case.truth[0], torch.stack([1 / std**2, 2 / std**2])
    squared = torch.stack(case.truth[1:]) ** 2
    case.best = value + 2 * a[0] * std[0] ** 2, value + 4 * a[0] * std[0] ** 2  # for the first mean, std
    case.predicted = {
        "none": lambda k: score_variance(case, value) / k,
        "constant": lambda k: score_variance(case, value + 2) / k,
        "mean": lambda k: score_variance(case, torch.zeros(())) / k,
        "best for a mean": lambda k: score_variance(case, value - case.best[0]) / k,
        "best for a std": lambda k: score_variance(case, value - case.best[1]) / k,
        "leave one out": lambda k: (
            score_variance(case, torch.zeros(())) / k
            + (case.variance * information + squared) / (k * (k - 1))
        ),
        "pathwise": lambda k: torch.stack([4 * a**2 * std**2, 4 * a**2 * (distance**2 + 2 * std**2)]) / k,
    }
    case.estimators = {
        "none": score_function,
        "constant": partial(score_function, baseline=-2.0),
        "mean": partial(score_function, baseline=value),
        "best for a mean": partial(score_function, baseline=case.best[0]),
        "best for a std": partial(score_function, baseline=case.best[1]),
        "leave one out": leave_one_out,
        "pathwise": pathwise,
    }
    return case


VARIANCES = [
    ("none", 1),
    ("constant", 2),
    ("mean", 1),
    ("best for a mean", 1),
    ("best for a std", 1),
    ("leave one out", 2),
    ("leave one out", 5),
    ("pathwise", 1),
    ("pathwise", 3),
]


def variance_ratio(case, estimator, predicted, n_samples):
    """Measured over predicted variance, for each mean and each standard deviation; from 10⁶ draws."""
    _, *gradients = draw_gradients(partial(estimator, n_samples=n_samples), case, 10_000, 100 // n_samples)
    return torch.stack([g.var(0) for g in gradients]) / predicted(n_samples)


@pytest.mark.parametrize(("name", "n_samples"), VARIANCES)
def test_measured_variances_are_the_predicted_ones_within_ten_percent(name, n_samples, device):
    case = quadratic_case(device)
    ratio = variance_ratio(case, case.estimators[name], case.predicted[name], n_samples)
    assert (ratio - 1).abs().max() < 0.1


def test_the_best_baseline_is_not_the_mean_and_differs_between_parameters(device):
    """b* solves E (f − b) s² = 0, for the score s of the first mean and of the first standard deviation."""
    case = quadratic_case(device)
    z = case.make(*case.parameters).sample((200_000,))
    noise, f = ((z - case.parameters[0]) / case.parameters[1])[:, 0], quadratic(z)
    for score, own, other in [(noise, *case.best), (noise**2 - 1, *reversed(case.best))]:
        assert standard_errors((f - own) * score**2, 0) < 4
        for wrong in (other, case.truth[0]):
            assert standard_errors((f - wrong) * score**2, 0) > 4


def test_a_prediction_for_another_estimator_is_missed_by_ten_percent(device):
    case = quadratic_case(device)
    for name, other in [("none", "mean"), ("mean", "best for a mean"), ("leave one out", "mean")]:
        ratio = variance_ratio(case, case.estimators[name], case.predicted[other], 2)
        assert (ratio - 1).abs().max() > 0.1


def test_a_learned_baseline_adds_its_own_variance(device):
    """Stationary, with rate η and n values of f to an update: I Var(f) / n · η/(2 − η) above the mean's."""
    d, n, rate = 30, 2, 0.9
    case = isotropic_case(d, 0.0, 1.0, device)
    baseline = LearnedBaseline(rate, initial=float(d)).to(device)
    gradient = draw_gradients(partial(score_function, baseline=baseline), case, n, 2500)[1]
    with_the_mean, own = 2 * d + 8, 2 * d / n * rate / (2 - rate)
    assert float(gradient.var(0).mean()) == pytest.approx(with_the_mean + own, rel=0.1)
    assert own > 0.3 * with_the_mean


def isotropic_case(dimension, mean, std, device):
    """f(z) = Σ z², at equal means and scales."""
    parameters = (torch.full((dimension,), value, device=device) for value in (mean, std))
    return SimpleNamespace(make=diagonal_normal, parameters=tuple(parameters), integrand=sum_of_squares)


def sum_of_squares(z):
    return z.square().sum(-1)


@pytest.mark.parametrize("dimension", [1, 20])
def test_variance_grows_as_the_square_of_the_dimension_linearly_and_not_at_all(dimension, device):
    """Without a baseline, with the mean, with the others' mean, and along the path."""
    d, mean, std, k = dimension, 1.5, 0.5, 3
    per_dimension = mean**2 + std**2
    of_mean = d * (4 * mean**2 + 2 * std**2) + 4 * mean**2 + 8 * std**2
    predicted = {
        score_function: (d * per_dimension) ** 2 / std**2 + 4 * d * per_dimension + of_mean,
        partial(score_function, baseline=d * per_dimension): of_mean,
        leave_one_out: of_mean + (d * (4 * mean**2 + 2 * std**2) + 4 * mean**2) / (k - 1),
        pathwise: 4 * std**2,
    }
    case = isotropic_case(d, mean, std, device)
    for estimator, variance in predicted.items():
        gradient = draw_gradients(partial(estimator, n_samples=k), case, 5000, 4 + 40 // d)[1]
        assert abs(float(k * gradient.var(0).mean() / variance) - 1) < 0.1


# Gumbel-softmax: biased by as much as two integrals say.

LOGIT = 0.8


def square(z):
    return (z[..., 0] - 0.2) ** 2


def cube(z):
    return z[..., 0] ** 3


def linear(z):
    return 3 * z[..., 0] - 1


def relaxed_gradient(integrand, temperature, straight_through):
    r"""Of E f at y = σ((ℓ + Λ)/τ) with a logistic Λ: ∫ f'(y(v)) σ'(v) ρ(τv − ℓ) dv, where v = (ℓ + Λ)/τ.

    Straight-through f' is taken at v > 0 or not. The trapezoidal rule on either side, which ends at 0.
    """

    def integral(n_points):
        total = 0.0
        for side in (-1.0, 1.0):
            v = side * torch.linspace(0, 40, n_points)
            y = torch.full_like(v, (side + 1) / 2) if straight_through else v.sigmoid()
            y = torch.stack([y, 1 - y], -1).requires_grad_()
            slope = torch.autograd.grad(integrand(y).sum(), y)[0]
            slope = slope[:, 0] - slope[:, 1]
            u = temperature * v - LOGIT
            density = u.sigmoid() * (-u).sigmoid()
            height = slope * v.sigmoid() * (-v).sigmoid() * density
            total += float(torch.trapezoid(height, dx=40 / (n_points - 1)))
        return total

    coarse, fine = integral(10_001), integral(20_001)
    assert abs(coarse - fine) < 1e-4
    return fine


def exact_gradient(integrand):
    p, (one, zero) = torch.tensor(LOGIT).sigmoid(), integrand(torch.eye(2))
    return float(p * (1 - p) * (one - zero))


def sampled_gradient(integrand, temperature, straight_through, device, n=200_000):
    """Values and gradients with respect to the first of two logits."""
    logits = torch.tensor([LOGIT, 0.0], device=device)
    case = SimpleNamespace(make=one_hot, parameters=(logits,), integrand=integrand)
    estimator = partial(gumbel_softmax, temperature=temperature, straight_through=straight_through)
    values, gradients = draw_gradients(estimator, case, 20_000, n // 20_000)
    return values, gradients[:, 0]


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("integrand", [linear, square, cube])
def test_gumbel_softmax_is_biased_as_predicted(integrand, temperature, straight_through, device):
    values, gradients = sampled_gradient(integrand, temperature, straight_through, device)
    assert standard_errors(gradients, relaxed_gradient(integrand, temperature, straight_through)) < 4
    assert standard_errors(gradients, exact_gradient(integrand)) > 4
    p, (one, zero) = torch.tensor(LOGIT).sigmoid(), integrand(torch.eye(2))
    value_is_right = standard_errors(values, float(p * one + (1 - p) * zero)) < 4
    assert value_is_right == straight_through


def test_the_bias_shrinks_with_the_temperature_and_the_variance_grows(device):
    """As τ → 0 the biases are −τ σ″(ℓ) for the square and ½ π² τ² σ‴(ℓ) for the line, the variance ∝ 1/τ."""
    p = 1 / (1 + math.exp(-LOGIT))
    rho = p * (1 - p)
    biases = {
        square: lambda t: -t * rho * (1 - 2 * p),
        linear: lambda t: (math.pi * t) ** 2 / 2 * rho * (1 - 6 * rho),
    }
    for (integrand, bias), straight_through in product(biases.items(), (False, True)):
        exact = exact_gradient(integrand)  # at higher temperatures the square's bias changes sign
        sizes = [abs(relaxed_gradient(integrand, t, straight_through) - exact) for t in (0.3, 0.1, 0.02)]
        assert sizes[0] > 2 * sizes[1] > 4 * sizes[2] > 0
        if not straight_through:
            assert relaxed_gradient(integrand, 0.02, False) - exact == pytest.approx(bias(0.02), rel=0.1)
    exact, means, variances = exact_gradient(linear), [], []
    for temperature in (1.0, 0.05):
        _, gradients = sampled_gradient(linear, temperature, False, device)
        means.append(abs(float(gradients.mean()) - exact))
        variances.append(float(gradients.var()))
    assert means[1] < means[0] / 10
    assert variances[1] == pytest.approx(9 * rho / (6 * 0.05) - exact**2, rel=0.1)
    assert variances[1] > 10 * variances[0]


def test_straight_through_keeps_a_bias_at_low_temperature_unless_f_is_quadratic(device):
    """Its limit is the trapezoidal rule for f(1) − f(0): right for the square, 3/2 of it for the cube."""
    for integrand, factor in [(linear, 1.0), (square, 1.0), (cube, 1.5)]:
        exact = exact_gradient(integrand)
        assert relaxed_gradient(integrand, 0.002, True) == pytest.approx(factor * exact, rel=0.01)
        assert relaxed_gradient(integrand, 0.002, False) == pytest.approx(exact, rel=0.01)
    _, gradients = sampled_gradient(cube, 0.05, True, device)
    assert standard_errors(gradients, exact_gradient(cube)) > 4


def test_straight_through_evaluates_at_one_hot_vectors_with_the_right_frequencies(device):
    seen = []

    def record(z):
        seen.append(z.detach())
        return z.sum((-1, -2))

    (logits,) = tensors(device, LOGITS)
    q = Independent(one_hot(logits.expand(2, 3)), 1)
    gumbel_softmax(q, record, 50_000, temperature=0.7, straight_through=True)
    assert seen[0].shape == (50_000, 2, 3)
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}
    assert (seen[0].sum(-1) == 1).all()
    assert standard_errors(seen[0], logits.softmax(0)) < 4
    gumbel_softmax(q, record, 50_000, temperature=0.7)
    assert 0 < float(seen[1].min()) < float(seen[1].max()) < 1


# Enumeration.


@pytest.mark.parametrize("case", DISCRETE)
def test_enumeration_is_exact(case, device):
    case = DISCRETE[case](device)
    for estimates, truth in zip(draw_gradients(enumeration, case, 2), case.truth, strict=True):
        torch.testing.assert_close(estimates, truth.expand_as(estimates))


def test_enumeration_of_several_variables_of_any_kind(device):
    """Batch and event axes of every sort, against means and products that are known."""
    logits = torch.randn(4, 2, 3, device=device)
    p = logits.softmax(-1)
    pair = Independent(Categorical(logits=logits), 1)  # batch (4,), event (2,) of integers
    value = enumeration(pair, lambda z: (z[..., 0] * z[..., 1]).double())
    torch.testing.assert_close(value, (p @ torch.arange(3.0, device=device)).prod(-1))

    pair = Independent(OneHotCategorical(logits=logits), 1)  # event (2, 3)
    value = enumeration(pair, lambda z: (z[..., 0, :] * z[..., 1, :]).sum(-1))
    torch.testing.assert_close(value, p.prod(-2).sum(-1))

    table = Independent(Bernoulli(probs=p), 2)  # event (2, 3): 64 states
    torch.testing.assert_close(enumeration(table, lambda z: z.prod(-1).prod(-1)), p.prod(-1).prod(-1))
    torch.testing.assert_close(enumeration(Bernoulli(probs=p), lambda z: 5 * z), 5 * p)


# Many estimates at once; another distribution.


def test_repeated_estimates_are_independent_and_leave_the_parameters_alone(device):
    case = GAUSSIANS["quadratic"](device)
    parameters = tuple(p.requires_grad_() for p in case.parameters)
    with torch.no_grad():
        gradients = estimate_gradients(pathwise, diagonal_normal, parameters, quadratic, 20_000)
    assert [g.shape for g in gradients] == [(20_000, 3), (20_000, 3)]
    assert all(p.grad is None for p in parameters)
    centred = gradients[0][:, 0] - gradients[0][:, 0].mean()
    assert standard_errors(centred[1:] * centred[:-1], 0) < 4


def test_a_gamma_distribution_has_pathwise_gradients_too(device):
    """E z² = a(a + 1)/b², differentiated with respect to a and b."""
    a, b = tensors(device, 2.5, 1.5)
    truth = [a * (a + 1) / b**2, (2 * a + 1) / b**2, -2 * a * (a + 1) / b**3]
    case = SimpleNamespace(make=Gamma, parameters=(a, b), integrand=torch.square, truth=truth)
    for estimator in ESTIMATORS:
        assert_unbiased(partial(estimator, n_samples=2), case, n_calls=4)


# Bad input.

ESTIMATORS = [score_function, leave_one_out, pathwise]


def standard_normal():
    return diagonal_normal(torch.zeros(4, 3), torch.ones(3))


@pytest.mark.parametrize("n_samples", [0, -3, 2.0, True])
@pytest.mark.parametrize("estimator", [*ESTIMATORS, gumbel_softmax])
def test_too_few_samples_are_refused(estimator, n_samples):
    q = one_hot(torch.zeros(3)) if estimator is gumbel_softmax else standard_normal()
    with pytest.raises(
        ValueError, match=rf"n_samples must be a whole number of at least \d, got {n_samples}"
    ):
        estimator(q, cubic, n_samples=n_samples)


def test_leave_one_out_needs_a_second_sample():
    with pytest.raises(ValueError, match="n_samples must be a whole number of at least 2, got 1"):
        leave_one_out(standard_normal(), quadratic, 1)


@pytest.mark.parametrize(
    "q",
    [
        Bernoulli(logits=torch.zeros(3)),
        bernoulli_vector(torch.zeros(3)),
        Categorical(logits=torch.zeros(3)),
        Poisson(torch.ones(3)),
        OneHotCategoricalStraightThrough(logits=torch.zeros(3)),
        MixtureSameFamily(Categorical(logits=torch.zeros(2)), Normal(torch.zeros(2), 1.0)),
    ],
    ids=lambda q: type(q).__name__,
)
def test_pathwise_refuses_what_has_no_reparametrised_sampler(q):
    name = type(getattr(q, "base_dist", q)).__name__
    with pytest.raises(ValueError, match=rf"{name}\)? has none.* score_function"):
        pathwise(q, lambda z: z)


class Undeclared(Normal):
    """A distribution of one's own, which declares no support."""

    @property
    def support(self):
        raise NotImplementedError


def test_pathwise_takes_a_distribution_that_declares_no_support():
    mean = torch.tensor(0.3, requires_grad=True)
    for estimator in ESTIMATORS:
        estimate = estimator(Undeclared(mean, 1.0, validate_args=False), lambda z: z, n_samples=2)
        assert torch.autograd.grad(estimate, mean)[0].isfinite()


def mixture(low, high):
    return MixtureSameFamily(Categorical(logits=torch.zeros(2)), Uniform(low.expand(2), high.expand(2)))


@pytest.mark.parametrize("estimator", [score_function, leave_one_out])
def test_a_score_function_refuses_a_support_that_moves(estimator):
    """E z² of Uniform(0, φ) is φ²/3: the pathwise gradient is right, the score function's is −φ/3."""
    low, high = torch.zeros(3, requires_grad=True), torch.full((3,), 2.0, requires_grad=True)
    for q, name in [
        (Uniform(low, high), "Uniform"),
        (Independent(Uniform(low, high), 1), r"Independent\(Uniform\)"),
        (Pareto(high, 4.0), "Pareto"),
        (mixture(low[0], high[0]), "MixtureSameFamily"),
    ]:
        with pytest.raises(ValueError, match=f"support of {name} depends on its param.* with pathwise"):
            estimator(q, torch.square, n_samples=2)
    fixed = Uniform(low.detach(), high.detach())
    assert estimator(fixed, torch.square, n_samples=2).shape == (3,)
    case = SimpleNamespace(
        make=lambda high: Uniform(torch.zeros(()), high),
        parameters=(torch.tensor(2.0),),
        integrand=torch.square,
        truth=[torch.tensor(4 / 3), torch.tensor(4 / 3)],
    )
    assert_unbiased(partial(pathwise, n_samples=1), case, n_calls=2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be positive and finite, got {temperature}"):
        gumbel_softmax(one_hot(torch.zeros(3)), cubic, temperature=temperature)


def test_gumbel_softmax_refuses_what_is_not_one_hot():
    for q, name in [
        (Categorical(logits=torch.zeros(3)), "Categorical"),
        (standard_normal(), r"Independent\(Normal\)"),
    ]:
        with pytest.raises(ValueError, match=f"distribution must be a OneHotCategorical, got {name}"):
            gumbel_softmax(q, cubic)


def test_enumeration_refuses_what_has_too_many_states():
    with pytest.raises(ValueError, match="distribution must have finitely many states, got Normal"):
        enumeration(standard_normal(), quadratic)
    with pytest.raises(ValueError, match=r"2\^30 states, more than the 1048576.*sample instead"):
        enumeration(bernoulli_vector(torch.zeros(30)), lambda z: z.sum(-1))


@pytest.mark.parametrize(
    ("integrand", "got"),
    [
        (lambda z: z.square(), r"float64 of shape \(2, 4, 3\)"),
        (lambda z: z.sum(), r"float64 of shape \(\)"),
        (lambda z: z.sum(-1).mean(0, keepdim=True), r"float64 of shape \(1, 4\)"),
        (lambda z: z.sum(-1) > 0, r"bool of shape \(2, 4\)"),
        (lambda z: 1.0, "1.0"),
    ],
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_integrand_of_the_wrong_shape_is_refused(estimator, integrand, got):
    with pytest.raises(ValueError, match=rf"\(2, 4, 3\) to real numbers of shape \(2, 4\).*got.*{got}"):
        estimator(standard_normal(), integrand, n_samples=2)


def minus_infinity_on_one_side(z):
    return torch.where(z.sum(-1) > 0, -math.inf, z.sum(-1))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_that_are_not_finite_are_refused_where_they_are_measured(estimator):
    def estimate(mean, integrand):
        estimator_of_20 = partial(estimator, n_samples=20)
        estimate_gradients(estimator_of_20, lambda m: diagonal_normal(m, torch.ones(2)), [mean], integrand, 3)

    with pytest.raises(FloatingPointError, match=r"estimate is (nan|-inf): the integrand must be finite"):
        estimate(torch.zeros(2), minus_infinity_on_one_side)
    with pytest.raises(FloatingPointError, match=r"estimate is nan.*parameters"):
        estimate(torch.tensor([0.0, math.nan]), lambda z: z.sum(-1))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_step_never_waits_for_the_device(estimator):
    """On the meta device tensors have no values: reading one raises."""
    mean = torch.zeros(2, device="meta", requires_grad=True)
    q = diagonal_normal(mean, torch.ones(2, device="meta"))
    estimator(q, lambda z: z.sum(-1), n_samples=2).backward()
    assert mean.grad.shape == (2,)
    with pytest.raises(RuntimeError, match="meta tensors"):
        estimator(q, lambda z: z.sum(-1) * bool(z.isfinite().all()), n_samples=2)


def test_a_baseline_that_does_not_fit_is_refused():
    for shape in [(3,), (5, 4), (1, 2, 4)]:
        with pytest.raises(ValueError, match=r"baseline must broadcast to \(2, 4\), got"):
            score_function(standard_normal(), quadratic, 2, torch.zeros(shape))
    for rate in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"learning_rate must lie in .*, got {rate}"):
            LearnedBaseline(rate)
    for start in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"initial must be finite, got {start}"):
            LearnedBaseline(initial=start)
    for baseline in (None, "mean", math.nan, -math.inf):
        with pytest.raises(ValueError, match=f"baseline must be a finite number, .* got {baseline!r}"):
            score_function(standard_normal(), quadratic, 2, baseline)
    with pytest.raises(ValueError, match="baseline is on meta, the samples on cpu"):
        score_function(standard_normal(), quadratic, 2, LearnedBaseline().to("meta"))
