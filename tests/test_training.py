"""The training loop against minima that are known, means taken by hand, and tensors that cannot be read."""

import math
from itertools import cycle, repeat

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib.batches import Batches
from course_lib.bounds import NegativeElbo
from course_lib.training import History, fit, fit_full_batch
from course_lib.vae import BernoulliVAE, GaussianVAE


class Quadratic(nn.Module):
    """½ (θ − x)ᵀ A (θ − x) averaged over a batch of points x, with A = diag(1, 4): least at the mean of x."""

    def __init__(self, device="cpu"):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(2, device=device))
        self.register_buffer("curvature", torch.tensor([1.0, 4.0], device=device))

    def forward(self, x):
        return 0.5 * (self.curvature * (self.theta - x).square()).sum(-1).mean()


class NanAfter(nn.Module):
    """A loss of 1 that becomes NaN at one step."""

    def __init__(self, step, value=float("nan")):
        super().__init__()
        self.theta, self.step, self.value, self.calls = nn.Parameter(torch.ones(())), step, value, 0

    def forward(self, x):
        self.calls += 1
        return self.theta * 0 + (self.value if self.calls >= self.step else 1.0)


def sgd(objective, lr=0.1):
    return torch.optim.SGD(objective.parameters(), lr=lr)


# Minimisation.


def test_fit_descends_a_quadratic_to_its_minimum(device):
    objective = Quadratic(device)
    points = torch.tensor([[1.0, -2.0], [3.0, 0.0]], device=device)
    history = fit(objective, repeat(points), 300, sgd(objective))
    torch.testing.assert_close(objective.theta.detach(), points.mean(0))
    variance = torch.tensor([1.0, 1.0], device=device)  # of the points; the least loss is ½ tr(A · variance)
    assert history.losses[-1] == pytest.approx(0.5 * float((objective.curvature * variance).sum()))


def test_each_step_is_the_gradient_step_of_the_formula(device):
    objective = Quadratic(device)
    batches = torch.randn(20, 8, 2, device=device)
    fit(objective, iter(batches), 20, sgd(objective))
    theta = torch.zeros(2, device=device)
    for x in batches:
        theta = theta - 0.1 * objective.curvature * (theta - x.mean(0))
    torch.testing.assert_close(objective.theta.detach(), theta)


def test_the_default_optimizer_is_adam_with_learning_rate_one_thousandth(device):
    """Adam's first step is the learning rate times the sign of the gradient."""
    objective = Quadratic(device)
    fit(objective, repeat(torch.tensor([[1.0, -2.0]], device=device)), 1)
    torch.testing.assert_close(objective.theta.detach().cpu(), torch.tensor([1e-3, -1e-3]), atol=1e-7, rtol=0)


def test_the_schedule_advances_once_a_step():
    objective = Quadratic()
    optimizer = sgd(objective)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    fit(objective, repeat(torch.ones(1, 2)), 7, optimizer, schedule)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**7)


def test_training_switches_the_objective_to_training_mode():
    objective = Quadratic().eval()
    fit(objective, repeat(torch.ones(1, 2)), 1)
    assert objective.training


def test_a_variational_autoencoder_trains_to_between_the_entropy_and_independent_pixels(device):
    """Two images, equally frequent: no bound is below log 2 nats; four independent pixels cost 4 log 2."""
    objective = NegativeElbo(BernoulliVAE(4, 2, (8,)).to(device), n_samples=10)
    images = torch.tensor([[0, 0, 255, 255], [255, 255, 0, 0]], dtype=torch.uint8, device=device)
    batches = Batches(images, batch_size=2, transform="binarize")
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    history = fit(objective, batches, 400, optimizer, log_every=100)
    assert math.log(2) < history.losses[-1] < 2 * math.log(2)


# What is logged.


@pytest.mark.parametrize(("steps", "logged"), [(10, [4, 8, 10]), (8, [4, 8]), (3, [3])])
def test_logged_losses_are_the_means_since_the_previous_log(steps, logged, device):
    objective = Quadratic(device)
    batches = torch.randn(steps, 8, 2, device=device)
    history = fit(objective, iter(batches), steps, sgd(objective), log_every=4)
    manual = Quadratic(device)
    optimizer, losses = sgd(manual), []
    for x in batches:
        loss = manual(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    starts = [0, *logged[:-1]]
    means = [sum(losses[a:b]) / (b - a) for a, b in zip(starts, logged, strict=True)]
    assert history.steps == logged
    assert history.losses == pytest.approx(means, rel=1e-6)
    assert history.losses != pytest.approx([losses[step - 1] for step in logged], rel=1e-3)
    assert history.seconds == sorted(history.seconds)
    assert len(history.seconds) == len(logged)


def test_a_mean_over_many_steps_is_summed_in_double_precision():
    """After 2²⁴ in float32, adding 1 changes nothing; the mean of a loss of 2²⁴ and then 1s would drift."""

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta, self.losses = nn.Parameter(torch.zeros(())), iter([2.0**24] + [1.0] * 99)

        def forward(self, x):
            return self.theta * 0 + next(self.losses)

    history = fit(Sequence(), repeat(None), 100, log_every=100)
    assert history.losses == [(2.0**24 + 99) / 100]


def test_the_callback_sees_every_logged_step_with_the_history_so_far():
    seen = []
    history = fit(
        Quadratic(),
        repeat(torch.ones(1, 2)),
        6,
        callback=lambda step, history: seen.append((step, list(history.steps), history.losses[-1])),
        log_every=2,
    )
    assert [(step, steps) for step, steps, _ in seen] == [(2, [2]), (4, [2, 4]), (6, [2, 4, 6])]
    assert [loss for *_, loss in seen] == history.losses


def test_a_resumed_run_counts_on_from_its_first_step():
    batches = cycle(torch.randn(5, 3, 2))
    history = fit(Quadratic(), batches, 10, log_every=4, first_step=6)
    assert history.steps == [8, 10]
    assert fit(Quadratic(), batches, 10, first_step=10) == History([], [], [])


# No waiting for the device between logs.


class CountReads(TorchDispatchMode):
    """Counts the values read back from tensors."""

    reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_one_value_is_read_back_per_log_and_none_between(device):
    images = torch.randint(256, (20, 4), dtype=torch.uint8, device=device)
    objective = NegativeElbo(GaussianVAE(4, 2, (3,)).to(device))
    batches = Batches(images, batch_size=7, transform="dequantize")
    with CountReads() as count:
        history = fit(objective, batches, 30, log_every=10)
    assert count.reads == len(history.steps) == 3

    with CountReads() as count:  # what logging each step would cost
        fit(objective, batches, 30, log_every=1)
    assert count.reads == 30


def test_thirty_steps_run_on_tensors_without_values():
    """On the meta device reading a value raises: the first to do so is the log after the last step."""
    objective = NegativeElbo(BernoulliVAE(4, 2, (3,)))
    objective(torch.rand(5, 4))  # the one batch whose pixels a model in training looks at
    objective.to("meta")
    batches = iter([torch.empty(5, 4, device="meta")] * 30)
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        fit(objective, batches, 30, sgd(objective), log_every=30)
    assert next(batches, None) is None


# Progress.


@pytest.mark.parametrize(
    ("setting", "progress", "shown"),
    [("1", True, True), (None, True, True), ("0", True, False), ("1", False, False)],
)
def test_the_bar_is_shown_on_stderr_unless_switched_off(monkeypatch, capsys, setting, progress, shown):
    monkeypatch.delenv("COURSE_PROGRESS")
    if setting is not None:
        monkeypatch.setenv("COURSE_PROGRESS", setting)
    fit(Quadratic(), repeat(torch.ones(1, 2)), 4, log_every=2, progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("4/4" in err and "loss=" in err) if shown else err == ""


# Bad input.


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_training_and_names_the_steps(value):
    seen = []
    message = f"the loss became {value} between steps 9 and 12. Lower the learning rate, and check the data"
    with pytest.raises(FloatingPointError, match=message):
        fit(NanAfter(10, value), repeat(None), 100, callback=lambda step, _: seen.append(step), log_every=4)
    assert seen == [4, 8]


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"steps": 3, "first_step": 4}, "first_step=4, steps=3"),
        ({"steps": 3, "first_step": -1}, "first_step=-1"),
        ({"steps": 3, "log_every": 0}, "log_every=0"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(options, seen):
    with pytest.raises(ValueError, match=f"need 0 ≤ first_step ≤ steps and log_every ≥ 1, got .*{seen}"):
        fit(Quadratic(), repeat(torch.ones(1, 2)), **options)


@pytest.mark.parametrize("kind", [list, iter, torch.utils.data.DataLoader])
def test_any_iterable_of_batches_will_do(kind):
    objective, batches = Quadratic(), torch.randn(6, 3, 2)
    fit(objective, kind(batches), 6, sgd(objective))
    same = Quadratic()
    fit(same, cycle(batches), 6, sgd(same))
    torch.testing.assert_close(objective.theta, same.theta)


@pytest.mark.parametrize("first_step", [0, 4])
def test_batches_that_end_too_early_are_refused_with_the_step_and_the_cure(first_step):
    message = (
        f"batches ended after step {first_step + 3} of 8: ask for fewer steps, or pass .*itertools.cycle"
    )
    with pytest.raises(ValueError, match=message):
        fit(Quadratic(), torch.randn(3, 5, 2), 8, first_step=first_step)


def test_a_schedule_without_its_optimizer_is_refused():
    objective = Quadratic()
    schedule = torch.optim.lr_scheduler.ExponentialLR(sgd(objective), gamma=0.9)
    with pytest.raises(ValueError, match="pass that optimizer too"):
        fit(objective, repeat(torch.ones(1, 2)), 5, scheduler=schedule)


# The full-batch fit.


class LeastSquares(nn.Module):
    """The mean squared error of x w + c for x and a target side by side, in float64."""

    def __init__(self, n_inputs, device="cpu"):
        super().__init__()
        self.line = nn.Linear(n_inputs, 1, dtype=torch.float64, device=device)

    def forward(self, x):
        return (self.line(x[:, :-1]).squeeze(-1) - x[:, -1]).square().mean()


class Rosenbrock(nn.Module):
    """A curved valley with its minimum 0 at (1, 1)."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))

    def forward(self, x):
        a, b = self.theta
        return (1 - a) ** 2 + 100 * (b - a**2) ** 2


def test_the_full_batch_fit_solves_least_squares_as_lstsq_does(device):
    torch.manual_seed(0)
    x = torch.randn(50, 5, dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1, 2.0, 1.0], dtype=torch.float64)
    objective = LeastSquares(4, device)
    history = fit_full_batch(objective, x.to(device), tolerance=1e-10)
    design = torch.cat([x[:, :-1], torch.ones(50, 1, dtype=torch.float64)], 1)
    truth = torch.linalg.lstsq(design, x[:, -1:]).solution.squeeze(-1)
    found = torch.cat([objective.line.weight[0], objective.line.bias]).detach().cpu()
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-8)
    residual = (design @ truth - x[:, -1]).square().mean()
    assert history.losses[-1] == pytest.approx(float(residual), rel=1e-12)


def test_the_full_batch_fit_follows_a_curved_valley_to_its_minimum():
    objective = Rosenbrock()
    history = fit_full_batch(objective, torch.zeros(1), tolerance=1e-9)
    torch.testing.assert_close(
        objective.theta.detach(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-8
    )
    assert history.steps[-1] < 200  # gradient descent would take thousands


def test_the_full_batch_history_begins_at_the_start_and_never_rises():
    objective, seen = Rosenbrock(), []
    start = objective(None).item()
    history = fit_full_batch(
        objective, None, log_every=5, callback=lambda k, h: seen.append((k, h.losses[-1]))
    )
    assert history.steps[:3] == [0, 5, 10]
    assert history.losses[0] == pytest.approx(start)
    assert history.losses == sorted(history.losses, reverse=True)
    assert seen == list(zip(history.steps, history.losses, strict=True))[1:]
    assert history.seconds == sorted(history.seconds)


def test_the_full_batch_fit_stops_at_the_tolerance_or_warns():
    objective = Rosenbrock()
    fit_full_batch(objective, None, tolerance=1e-3, log_every=1)
    gradient = torch.autograd.grad(objective(None), objective.theta)[0].abs().max()
    assert 1e-12 < gradient <= 1e-3
    with pytest.warns(
        RuntimeWarning, match="max_iterations=3 with a gradient of .* above the tolerance=0.001"
    ):
        history = fit_full_batch(Rosenbrock(), None, max_iterations=3, tolerance=1e-3, log_every=2)
    assert history.steps == [0, 2, 3]
    at_minimum = fit_full_batch(objective, None, tolerance=1e-3)
    assert at_minimum.steps == [0]


def test_the_full_batch_fit_ends_where_rounding_lets_the_loss_fall_no_further(recwarn):
    objective = Rosenbrock()
    history = fit_full_batch(objective, None, max_iterations=100_000, tolerance=0.0)
    assert history.steps[-1] < 1000
    assert not recwarn.list
    torch.testing.assert_close(objective.theta.detach(), torch.ones(2, dtype=torch.float64))


def test_frozen_parameters_stay_where_they_are():
    objective = LeastSquares(2)
    objective.line.bias.requires_grad_(False).fill_(3.0)
    fit_full_batch(objective, torch.randn(20, 3, dtype=torch.float64))
    assert objective.line.bias.item() == 3.0


def test_a_random_objective_is_refused_by_the_full_batch_fit():
    class Noisy(Rosenbrock):
        def forward(self, x):
            return super().forward(x) + 0.01 * torch.randn(())

    with pytest.raises(ValueError, match=r"objective is random: two evaluations gave .* use fit"):
        fit_full_batch(Noisy(), None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_full_batch_loss_that_is_not_finite_is_refused(value):
    with pytest.raises(FloatingPointError, match=f"the loss is {value} at iteration 0"):
        fit_full_batch(NanAfter(1, value), None)


def test_a_loss_that_is_nan_inside_a_line_search_is_refused():
    """The first trial step has the length one and leads to θ < 0, where the root has no value."""

    class Barrier(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor([1e-3], dtype=torch.float64))

        def forward(self, x):
            return (100 * self.theta - self.theta.sqrt()).sum()

    with pytest.raises(FloatingPointError, match=r"the loss is nan at iteration .* line search"):
        fit_full_batch(Barrier(), None)


def test_a_fit_that_stalls_with_a_large_gradient_warns_and_says_so():
    """A gradient with the wrong sign: no step along it lowers the loss."""

    class Uphill(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

        def forward(self, x):
            value = self.theta.square().sum()
            return 2 * value.detach() - value  # the value of θ², the gradient −2θ

    with pytest.warns(RuntimeWarning, match="the loss falls no further .* with a gradient of 4,"):
        history = fit_full_batch(Uphill(), None)
    assert history.stopped.startswith("the loss falls no further")
    assert history.losses[-1] == pytest.approx(4.0)


def test_iterations_are_counted_as_they_were_taken():
    """A quadratic in one variable is solved in two or three iterations, whatever the log interval."""
    objective = LeastSquares(1)
    objective.line.bias.requires_grad_(False)
    history = fit_full_batch(objective, torch.randn(20, 2, dtype=torch.float64), log_every=50)
    assert 1 <= history.steps[-1] <= 4
    assert "within the tolerance" in history.stopped


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"log_every": 0}, "log_every=0"),
        ({"tolerance": -1e-6}, "tolerance=-1e-06"),
        ({"tolerance": float("nan")}, "tolerance=nan"),
    ],
)
def test_a_full_batch_budget_that_makes_no_sense_is_refused(options, seen):
    with pytest.raises(ValueError, match=f"need max_iterations ≥ 1, .*{seen}"):
        fit_full_batch(Rosenbrock(), None, **options)
