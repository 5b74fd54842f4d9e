"""Repeated estimates of a gradient: each is a single call's, and only the distribution's part is in it."""

from functools import partial

import pytest
import torch
from oracles import standard_errors

from course_lib.distributions import diagonal_normal
from course_lib.gradient_estimators import leave_one_out, pathwise, score_function
from course_lib.gradient_samples import estimate_gradients

pytestmark = pytest.mark.usefixtures("double_precision")


def quadratic(z):
    return (z - 1).square().sum(-1)


def test_a_repeated_estimate_is_that_of_a_single_call(device):
    """From the same random numbers; a parameter with no part in the distribution has the gradient 0."""

    def normal(mean, _=None):
        return diagonal_normal(mean, torch.ones_like(mean))

    mean = torch.tensor([0.4, -0.7, 0.2]).to(device)
    torch.manual_seed(2)
    gradient, unused = estimate_gradients(score_function, normal, (mean, mean), quadratic, 1)
    torch.manual_seed(2)
    score_function(normal(mean.requires_grad_()), quadratic).backward()
    torch.testing.assert_close(gradient[0], mean.grad)
    assert not unused.any()


@pytest.mark.parametrize("estimator", [score_function, leave_one_out, pathwise])
def test_repeated_estimates_leave_out_what_the_integrand_owes_to_the_parameters(estimator):
    """As said: of the gradient 3μ² + 1 of E μz² under N(μ, 1), μ² + 1 come through the integrand."""
    mean = torch.tensor([0.8], requires_grad=True)

    def make(mean):
        return diagonal_normal(mean, torch.ones(1))

    (gradient,) = estimate_gradients(
        partial(estimator, n_samples=2), make, (mean,), lambda z: (z**2 * mean).sum(-1), 20_000
    )
    assert standard_errors(gradient[:, 0], 2 * 0.8**2) < 4


def test_estimate_gradients_refuses_what_it_cannot_repeat():
    mean = torch.zeros(3)

    def normal(mean):
        return diagonal_normal(mean, torch.ones(3))

    with pytest.raises(ValueError, match="parameters must be a sequence of tensors"):
        estimate_gradients(pathwise, normal, mean, quadratic, 2)
    with pytest.raises(ValueError, match="n_repeats must be a whole number of at least 1, got 0"):
        estimate_gradients(pathwise, normal, (mean,), quadratic, 0)
    for wrong in (0.5, torch.tensor([1, 2])):
        with pytest.raises(ValueError, match=r"parameters must be tensors of floats, got (0\.5|tensor)"):
            estimate_gradients(pathwise, normal, (mean, wrong), quadratic, 2)
    with pytest.raises(ValueError, match=r"batch shape \(n_repeats, \*batch\) with n_repeats = 2, got \(\)"):
        estimate_gradients(pathwise, lambda mean: normal(mean[0]), (mean,), quadratic, 2)
    with pytest.raises(ValueError, match="does not depend on the parameters"):
        estimate_gradients(pathwise, lambda mean: normal(mean.detach()), (mean,), quadratic, 2)
