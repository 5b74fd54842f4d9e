"""The loop of EM: it stops, restarts, reports and refuses as it says; the models have tests of their own."""

import math
from types import SimpleNamespace

import pytest
import torch

from course_lib.em import EMResult, fit_em
from course_lib.gaussian_mixture import GaussianMixture
from course_lib.latent_variable_model import PPCA, FactorAnalysis
from course_lib.linear_gaussian import LinearExpectations

X = torch.zeros(4, 2)


class Scripted:
    """A model whose log-likelihoods are given: one list a start, and an allowed fall."""

    def __init__(self, *scripts, allowed=None):
        self.scripts, self.allowed, self.start, self.step = scripts, allowed, -1, 0

    def initialise(self, x, generator=None):
        self.start, self.step = self.start + 1, 0

    def e_step(self, x):
        value = self.scripts[max(self.start, 0)][self.step]
        return SimpleNamespace(log_likelihood=torch.tensor([value - 1.0, value + 1.0], dtype=torch.float64))

    def m_step(self, x, expectations):
        self.step += 1
        return self.allowed

    def at_floor(self):
        return [self.step]

    def state_dict(self):
        return {"start": self.start, "step": self.step}

    def load_state_dict(self, state_dict):
        self.__dict__.update(state_dict)


def test_convergence_is_a_rise_below_the_tolerance():
    result = fit_em(Scripted([0.0, 1.0, 1.5, 1.6, 1.65]), X, tolerance=0.2)
    assert result.log_likelihoods == [0.0, 1.0, 1.5, 1.6]
    assert result.n_iterations == 3
    assert result.converged
    assert result.stopped == (
        "converged: iteration 3 changed the mean log-likelihood by 1.0e-01 nats, less than tolerance=0.2"
    )
    assert (result.at_floor, result.all_starts, result.best_start) == ([3], [1.6], 0)


def test_the_budget_is_the_other_reason_to_stop():
    result = fit_em(Scripted([0.0, 1.0, 1.5, 1.75]), X, max_iterations=3)
    assert result.log_likelihoods == [0.0, 1.0, 1.5, 1.75]
    assert not result.converged
    assert result.stopped == (
        "max_iterations=3 reached: the last one still changed the mean log-likelihood by 2.5e-01 nats"
    )


def test_the_best_of_several_starts_stays():
    model = Scripted([0.0, 1.0, 1.0], [0.0, 3.0, 3.0], [1.0, 2.0, 2.0])
    result = fit_em(model, X, n_starts=3)
    assert result.all_starts == [1.0, 3.0, 2.0]
    assert result.best_start == model.start == 1
    assert result.log_likelihoods == [0.0, 3.0, 3.0]


def test_without_starts_a_run_continues_and_never_initialises():
    x = (
        torch.randn(80, 2, dtype=torch.float64)
        + torch.tensor([[3.0, 0.0]]) * torch.arange(80).remainder(2)[:, None]
    )
    whole = GaussianMixture.start(x, 2, generator=torch.Generator().manual_seed(0))
    halves = GaussianMixture.start(x, 2, generator=torch.Generator().manual_seed(0))
    expected = fit_em(whole, x, max_iterations=8, tolerance=0).log_likelihoods
    first = fit_em(halves, x, max_iterations=4, tolerance=0).log_likelihoods
    second = fit_em(halves, x, max_iterations=4, tolerance=0).log_likelihoods
    assert first + second[1:] == expected
    assert torch.equal(whole.means, halves.means)


def test_the_model_holds_what_the_result_says_and_carries_no_graph():
    x = torch.randn(90, 3, dtype=torch.float64)
    model = GaussianMixture.start(x, 4)
    result = fit_em(model, x, n_starts=4, max_iterations=15, generator=torch.Generator().manual_seed(2))
    assert len(set(result.all_starts)) > 1
    assert max(result.all_starts) == result.all_starts[result.best_start] == result.log_likelihoods[-1]
    assert model.log_likelihood(x).mean().item() == pytest.approx(result.log_likelihoods[-1], abs=1e-12)
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


def test_the_callback_sees_every_iteration_of_every_start():
    seen = []
    fit_em(
        Scripted([0.0, 1.0, 1.0], [0.0, 2.0, 2.0]),
        X,
        n_starts=2,
        callback=lambda iteration, model: seen.append((iteration, model.start, model.step)),
    )
    assert seen == [(0, 0, 0), (1, 0, 1), (2, 0, 2), (0, 1, 0), (1, 1, 1), (2, 1, 2)]


def test_a_fall_is_refused_unless_rounding_or_a_floor_explains_it():
    with pytest.raises(
        FloatingPointError, match=r"iteration 2 lowered the mean log-likelihood by 0.1 nats, from 1"
    ):
        fit_em(Scripted([0.0, 1.0, 0.9]), X)
    with pytest.raises(FloatingPointError, match=r"by 0\.1 nats"):
        fit_em(Scripted([0.0, 1.0, 0.9], allowed=0.05), X)
    assert fit_em(Scripted([0.0, 1.0, 0.9, 0.9], allowed=0.11), X).n_iterations == 3
    assert fit_em(Scripted([0.0, 1.0, 1.0 - 1e-9]), X.double()).converged
    with pytest.raises(FloatingPointError, match="by 1e-06 nats"):
        fit_em(Scripted([0.0, 1.0, 1.0 - 1e-6]), X.double())


@pytest.mark.parametrize("kind", [PPCA, FactorAnalysis])
def test_forgetting_the_posterior_covariance_is_found(kind):
    class Forgetful(kind):
        def m_step(self, x, expectations):
            super().m_step(x, LinearExpectations(*expectations[:2], 0 * expectations.covariance))

    x = torch.randn(100, 2, dtype=torch.float64) @ torch.randn(2, 6).double() + torch.randn(100, 6).double()
    assert fit_em(kind.start(x, 3), x).n_iterations > 3
    with pytest.raises(FloatingPointError, match="lowered the mean log-likelihood"):
        fit_em(Forgetful.start(x, 3), x, max_iterations=500, tolerance=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_likelihood_that_is_no_number_is_refused(value):
    with pytest.raises(FloatingPointError, match=r"log-likelihood is .* after 0 iterations.*variance_floor"):
        fit_em(Scripted([value]), X)
    with pytest.raises(FloatingPointError, match=r"after 2 iterations"):
        fit_em(Scripted([0.0, 1.0, value]), X)


def test_gaps_in_the_data_are_refused():
    x = torch.randn(20, 3)
    model = GaussianMixture.start(x, 2)
    x[4, 1] = torch.nan
    for n_starts in (None, 2):
        with pytest.raises(ValueError, match="NaN or infinite values in 1 of its 20 rows, first in row 4"):
            fit_em(model, x, n_starts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_starts": 0}, "n_starts must be a whole number of at least 1, got 0"),
        ({"n_starts": 2.5}, "n_starts must be a whole number of at least 1, got 2.5"),
        ({"max_iterations": 0}, "max_iterations must be a whole number of at least 1, got 0"),
        ({"max_iterations": 10.5, "tolerance": 0}, "max_iterations must be a whole number .* got 10.5"),
        ({"tolerance": -1.0}, "tolerance must be at least 0, got -1.0"),
        ({"tolerance": math.nan}, "tolerance must be at least 0, got nan"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_em(Scripted([0.0, 1.0, 1.0]), X, **arguments)


@pytest.mark.parametrize("kind", [PPCA, FactorAnalysis, GaussianMixture])
def test_a_model_of_another_precision_than_its_data_is_refused(kind):
    x = torch.randn(30, 4)
    with pytest.raises(
        ValueError, match=r"x is torch.float64 on cpu, but the model's \w+ torch.float32 on cpu"
    ):
        fit_em(kind.start(x, 2), x.double())


def test_a_start_that_fails_leaves_the_best_of_those_before_it():
    model = Scripted([0.0, 1.0, 1.0], [0.0, 3.0, 3.0], [0.0, math.nan], [5.0, 5.0])
    with pytest.raises(FloatingPointError, match="log-likelihood is nan after 1 iterations"):
        fit_em(model, X, n_starts=4)
    assert (model.start, model.step) == (1, 2)


def test_a_first_start_that_fails_leaves_the_model_as_it_was():
    x = torch.randn(40, 2, dtype=torch.float64)
    model = GaussianMixture.start(x, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def spoil(iteration, model):
        if iteration == 2:
            raise FloatingPointError("as a likelihood that falls")

    with pytest.raises(FloatingPointError, match="as a likelihood that falls"):
        fit_em(model, x, n_starts=2, tolerance=0, callback=spoil)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_bar_is_shown_and_hidden(capsys, monkeypatch):
    monkeypatch.delenv("COURSE_PROGRESS")
    fit_em(Scripted([0.0, 1.0, 1.0]), X, max_iterations=7, progress=False)
    assert capsys.readouterr().err == ""
    fit_em(Scripted([0.0, 1.0, 1.0]), X, max_iterations=7)
    assert "7/7" in capsys.readouterr().err


def test_a_result_counts_its_iterations():
    assert EMResult([1.0], "max_iterations", [0]).n_iterations == 0
