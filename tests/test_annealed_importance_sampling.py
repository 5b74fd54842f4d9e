"""Annealing against exact log Z, and against the transition matrices of every temperature."""

import math
import os
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import standard_errors
from rbm_oracles import Enumeration, pairs_rbm, random_rbm
from scipy.special import expit

from course_lib import annealed_importance_sampling as module
from course_lib.annealed_importance_sampling import (
    annealed_importance_sampling,
    linear_schedule,
    raise_bound,
    reverse_annealed_importance_sampling,
    sigmoid_schedule,
)
from course_lib.contrastive_divergence import ContrastiveDivergence
from course_lib.data import load_images
from course_lib.rbm import RBM
from course_lib.training import fit

double = pytest.mark.usefixtures("double_precision")

REAL_DATA = os.environ.get("COURSE_DATA_DIR")
UNEVEN = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)


class ExactPath:
    """A small machine, and every machine on its way from independent bits, by enumeration."""

    def __init__(self, device="cpu", schedule=UNEVEN, with_base=True):
        torch.manual_seed(3)
        self.rbm = random_rbm(5, 3, device, scale=1.5)
        self.base_bias = torch.randn(5, device=device) if with_base else None
        self.schedule = schedule
        self.machines = [Enumeration.of(self.rbm, beta, self.base_bias) for beta in schedule.tolist()]
        self.log_partition = self.machines[-1].log_partition
        self.base_log_partition = self.machines[0].log_partition

    def moments(self, reverse=False):
        """E log w, E w and E w² of one chain's weight, by the transition matrices."""
        machines = self.machines[::-1] if reverse else self.machines
        p = machines[0].p
        mean_log, first, second = 0.0, p, p
        for old, new in pairwise(machines):
            log_ratio = new.log_f - old.log_f
            mean_log += p @ log_ratio
            p = p @ new.transition
            first = (first * np.exp(log_ratio)) @ new.transition
            second = (second * np.exp(2 * log_ratio)) @ new.transition
        return mean_log, first.sum(), second.sum()

    def annealing_model(self):
        """The probability of each v at the end of a forward chain."""
        p = self.machines[0].p
        for machine in self.machines[1:]:
            p = p @ machine.transition
        return p

    def forward(self, n_chains, **options):
        return annealed_importance_sampling(self.rbm, self.schedule, n_chains, self.base_bias, **options)

    def reverse(self, n_chains, **options):
        samples = self.rbm.sample_exact(n_chains)
        return reverse_annealed_importance_sampling(
            self.rbm, samples, self.schedule, self.base_bias, **options
        )


@pytest.fixture(params=[True, False], ids=["base bias", "own bias"])
def path(request, double_precision, device):
    return ExactPath(device, with_base=request.param)


SCHEDULES = [
    torch.tensor([0.0, 1.0]),
    torch.tensor([0.0, 0.3, 1.0]),
    UNEVEN,
    sigmoid_schedule(6),
]


# Schedules.


@pytest.mark.parametrize("n", [1, 2, 7, 10_000])
def test_schedules_rise_from_zero_to_one(n):
    for schedule in (linear_schedule(n), sigmoid_schedule(n), sigmoid_schedule(n, 9.0)):
        assert (schedule.shape, schedule.dtype) == ((n + 1,), torch.float64)
        assert (schedule[0], schedule[-1]) == (0, 1)
        assert (schedule.diff() > 0).all()


def test_a_linear_schedule_has_equal_steps():
    torch.testing.assert_close(linear_schedule(40).diff(), torch.full((40,), 1 / 40, dtype=torch.float64))


@pytest.mark.parametrize("steepness", [0.5, 4.0, 8.0])
def test_a_sigmoid_schedule_is_its_formula_with_smaller_steps_at_both_ends(steepness):
    schedule = sigmoid_schedule(1000, steepness).numpy()
    lowest, highest = expit(-steepness), expit(steepness)
    formula = (expit(steepness * (2 * np.arange(1001) / 1000 - 1)) - lowest) / (highest - lowest)
    np.testing.assert_allclose(schedule, formula, rtol=0, atol=1e-12)
    steps = np.diff(schedule)
    np.testing.assert_allclose(steps, steps[::-1], rtol=1e-9)
    assert steps.argmin() in (0, 999)
    assert steps.max() / steps.min() == pytest.approx(0.25 / (lowest * highest), rel=0.02)
    if steepness >= 4:
        assert steps.max() / steps.min() == pytest.approx(math.exp(steepness) / 4, rel=0.05)


def test_the_default_steepness_is_four():
    assert torch.equal(sigmoid_schedule(9), sigmoid_schedule(9, 4.0))


# The weights, against transition matrices.


@pytest.mark.parametrize("schedule", SCHEDULES, ids=len)
def test_the_forward_weights_have_their_exact_moments(path, schedule):
    """E w = Z / Z₀; E log w and E w² are those of a chain with these temperatures and no others."""
    path = ExactPath(path.rbm.weight.device, schedule, path.base_bias is not None)
    mean_log, mean, mean_square = path.moments()
    assert mean == pytest.approx(math.exp(path.log_partition - path.base_log_partition))
    log_weights = path.forward(40_000).log_weights
    assert (log_weights.shape, log_weights.dtype) == ((40_000,), torch.float64)
    assert standard_errors(log_weights, mean_log) < 4
    assert standard_errors(log_weights.exp(), mean) < 4
    assert standard_errors((2 * log_weights).exp(), mean_square) < 4
    assert standard_errors(log_weights.exp(), 1.1 * mean) > 4
    assert standard_errors(log_weights, path.log_partition - path.base_log_partition) > 4


@pytest.mark.parametrize("schedule", SCHEDULES, ids=len)
def test_the_reverse_weights_have_their_exact_moments(path, schedule):
    path = ExactPath(path.rbm.weight.device, schedule, path.base_bias is not None)
    mean_log, mean, mean_square = path.moments(reverse=True)
    assert mean == pytest.approx(math.exp(path.base_log_partition - path.log_partition))
    log_weights = path.reverse(40_000).log_weights
    assert standard_errors(log_weights, mean_log) < 4
    assert standard_errors(log_weights.exp(), mean) < 4
    assert standard_errors((2 * log_weights).exp(), mean_square) < 4
    assert standard_errors(log_weights, path.base_log_partition - path.log_partition) > 4


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_chains_are_independent_of_each_other(path, direction):
    log_weights = getattr(path, direction)(40_000).log_weights
    centred = log_weights - log_weights.mean()
    assert standard_errors(centred[1:] * centred[:-1], 0.0) < 4
    assert standard_errors(centred * centred, 0.0) > 4


def test_reverse_annealing_from_anything_but_exact_samples_misses_by_as_much_as_predicted(path):
    """From v, E w' = Z₀/Z · q(v)/p(v), with q the distribution of v at the end of a forward chain.

    So from states that q likes better than p does the estimate is below log Z, instead of a bound above.
    """
    p, q = path.machines[-1].p, path.annealing_model()
    fair_bits, one_state = np.full(32, 1 / 32), np.eye(32)[(q / p).argmax()]
    states = torch.as_tensor(path.machines[0].v, device=path.rbm.weight.device)
    for start, lowest in ((fair_bits, 1.05), (one_state, 1.2)):
        ratio = start @ (q / p)
        assert ratio > lowest
        place = torch.as_tensor(start, device=states.device).multinomial(40_000, replacement=True)
        estimate = reverse_annealed_importance_sampling(
            path.rbm, states[place], path.schedule, path.base_bias
        )
        error = estimate.log_partition - path.log_partition
        assert abs(error + math.log(ratio)) < 4 * estimate.standard_error
        assert error < -4 * estimate.standard_error


# The estimate.


@pytest.mark.parametrize(("direction", "sign"), [("forward", 1), ("reverse", -1)])
def test_the_estimate_summarises_its_weights(path, direction, sign):
    estimate = getattr(path, direction)(300)
    log_weights = estimate.log_weights.cpu().numpy()
    weights = np.exp(log_weights)
    base = path.base_log_partition
    assert estimate.log_partition == pytest.approx(base + sign * np.log(weights.mean()), abs=1e-10)
    standard_error = weights.std(ddof=1) / weights.mean() / math.sqrt(300)
    assert estimate.standard_error == pytest.approx(standard_error, rel=1e-9)
    assert estimate.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert 1 < estimate.effective_sample_size < 299
    assert not estimate.log_weights.requires_grad


@pytest.mark.parametrize(
    ("weights", "effective_sample_size", "standard_error"),
    [([2.0, 2.0, 2.0, 2.0], 4.0, 0.0), ([1.0, 3.0], 1.6, 0.5), ([1e-9, 1.0, 1e-9], 1.0, 1.0)],
)
@pytest.mark.parametrize("shift", [0.0, -5000.0, 5000.0])
def test_known_weights_have_their_known_summary(
    monkeypatch, weights, effective_sample_size, standard_error, shift
):
    """Weights of e^±5000, too, which no floating-point number holds."""
    log_weights = torch.tensor(weights, dtype=torch.float64).log() + shift
    monkeypatch.setattr(module, "_anneal", lambda *arguments: log_weights)
    rbm, base = random_rbm(), torch.zeros(5)
    forward = annealed_importance_sampling(rbm, linear_schedule(2), 4, base)
    reverse = reverse_annealed_importance_sampling(rbm, torch.ones(4, 5), linear_schedule(2), base)
    for estimate, sign in ((forward, 1), (reverse, -1)):
        expected = 8 * math.log(2) + sign * (math.log(np.mean(weights)) + shift)
        assert estimate.log_partition == pytest.approx(expected)
        assert estimate.effective_sample_size == pytest.approx(effective_sample_size)
        assert estimate.standard_error == pytest.approx(standard_error, abs=1e-8)
        assert torch.equal(estimate.log_weights, log_weights)


def test_where_nothing_is_to_be_annealed_both_directions_are_exact(device):
    """Without weights and with the machine's own visible bias, every chain's weight is Z / Z₀."""
    torch.manual_seed(1)
    rbm = random_rbm(6, 4, device)
    with torch.no_grad():
        rbm.weight.zero_()
    truth = Enumeration.of(rbm).log_partition
    assert rbm.hidden_bias.abs().min() > 0.05
    forward = annealed_importance_sampling(rbm, linear_schedule(3), 10)
    reverse = reverse_annealed_importance_sampling(rbm, rbm.sample_exact(10), linear_schedule(3))
    for estimate in (forward, reverse):
        assert estimate.log_partition == pytest.approx(truth, abs=1e-6)
        assert estimate.standard_error == pytest.approx(0, abs=1e-6)
        assert estimate.effective_sample_size == pytest.approx(10)


def test_short_schedules_err_downwards_forward_and_upwards_in_reverse_and_long_ones_meet(path):
    truth = path.log_partition

    def single_chains(n_temperatures):
        """Estimates of log Z from one chain each, whose bias is largest."""
        here = ExactPath(path.rbm.weight.device, linear_schedule(n_temperatures), path.base_bias is not None)
        forward, reverse = here.forward(5000).log_weights, here.reverse(5000).log_weights
        return here.base_log_partition + forward, here.base_log_partition - reverse

    gaps = []
    for n_temperatures in (2, 30):
        below, above = single_chains(n_temperatures)
        assert below.mean() < truth < above.mean()
        assert standard_errors(below, truth) > 4
        assert standard_errors(above, truth) > 4
        gaps.append((above.mean() - below.mean()).item())
    assert gaps[1] < gaps[0] / 4

    long = ExactPath(path.rbm.weight.device, linear_schedule(300), path.base_bias is not None)
    for estimate in (long.forward(500), long.reverse(500)):
        assert abs(estimate.log_partition - truth) < 4 * estimate.standard_error
        assert estimate.standard_error < 0.02


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_standard_error_is_the_spread_of_the_estimates(direction, double_precision, device):
    """200 estimates have a standard deviation known to 5 %; 4 of those are allowed, and the bias is small."""
    path = ExactPath(device, linear_schedule(10))
    estimates = [getattr(path, direction)(100) for _ in range(200)]
    values = torch.tensor([estimate.log_partition for estimate in estimates])
    reported = np.mean([estimate.standard_error for estimate in estimates])
    assert 0.8 < reported / values.std().item() < 1.2
    _, mean, mean_square = path.moments(reverse=direction == "reverse")
    exact = math.sqrt(mean_square / mean**2 - 1) / 10  # by the delta method from the exact moments
    assert reported == pytest.approx(exact, rel=0.1)
    z = (values - path.log_partition).numpy() / [estimate.standard_error for estimate in estimates]
    assert 0.88 < (np.abs(z) < 2).mean() <= 0.99  # 95 % of a normal distribution


def test_a_generator_decides_the_chains_and_the_global_one_rests(path):
    samples, state = path.rbm.sample_exact(20), torch.get_rng_state()
    v = samples[:4]

    def runs(seed):
        def generator():
            return torch.Generator(v.device).manual_seed(seed)

        options = path.rbm, path.schedule
        return [
            annealed_importance_sampling(*options, 20, generator=generator()).log_weights,
            reverse_annealed_importance_sampling(
                path.rbm, samples, path.schedule, generator=generator()
            ).log_weights,
            raise_bound(path.rbm, v, path.schedule, 3, generator=generator()),
        ]

    for one, same, other in zip(runs(1), runs(1), runs(2), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_schedule_may_be_a_list_and_of_any_precision(device):
    rbm = random_rbm(device=device)
    values = []
    for schedule in ([0, 0.25, 1], torch.tensor([0, 0.25, 1], device=device), np.array([0, 0.25, 1])):
        torch.manual_seed(0)
        values.append(annealed_importance_sampling(rbm, schedule, 10).log_weights)
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


@pytest.mark.filterwarnings("error")
def test_bits_and_a_base_bias_may_be_of_any_type(device):
    rbm, bits = random_rbm(device=device), torch.tensor([[0, 1, 1, 0, 1]] * 3, device=device)
    bias = torch.tensor([0.5, -0.25, 0.0, 1.0, -2.0], device=device)

    def results(bits, base_bias):
        torch.manual_seed(0)
        options = rbm, linear_schedule(3)
        return torch.cat(
            [
                annealed_importance_sampling(*options, 9, base_bias).log_weights,
                reverse_annealed_importance_sampling(rbm, bits, *options[1:], base_bias).log_weights,
                raise_bound(rbm, bits, *options[1:], 2, base_bias),
            ]
        )

    plain = results(bits.float(), bias)
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float64):
        assert torch.equal(results(bits.to(dtype), bias.double().requires_grad_()), plain)
    assert not plain.requires_grad


def test_five_hundred_chains_are_the_default():
    assert annealed_importance_sampling(random_rbm(), linear_schedule(2)).log_weights.shape == (500,)


# A trained machine, in single precision.


def trained(images, n_hidden, steps, learning_rate):
    """A machine trained by centred persistent contrastive divergence, and the logit of the data's mean."""
    torch.manual_seed(0)
    mean = images.evaluation(None, "train").mean(0)
    rbm = RBM(images.n_pixels, n_hidden, mean).to(images.device)
    objective = ContrastiveDivergence(rbm, persistent=True, centring=True)
    fit(objective, images.batches(100), steps, torch.optim.SGD(rbm.parameters(), learning_rate))
    return rbm, torch.logit(mean, eps=1e-3)


@cache
def digits_machine(device):
    images = load_images("digits", device)
    return *trained(images, 12, 2000, 0.2), images


@pytest.mark.parametrize("with_base", [True, False])
def test_on_a_machine_of_the_digits_both_directions_meet_the_exact_log_partition(device, with_base):
    rbm, base_bias, _ = digits_machine(device)
    base_bias = base_bias if with_base else None
    truth, schedule = rbm.log_partition().item(), linear_schedule(1000)
    forward = annealed_importance_sampling(rbm, schedule, 500, base_bias)
    reverse = reverse_annealed_importance_sampling(rbm, rbm.sample_exact(500), schedule, base_bias)
    for estimate in (forward, reverse):
        assert abs(estimate.log_partition - truth) < 0.1
        assert abs(estimate.log_partition - truth) < 4 * estimate.standard_error
        assert estimate.standard_error < 0.025
        assert estimate.effective_sample_size > 250


def test_reverse_annealing_of_that_machine_from_fair_bits_is_no_upper_bound(device):
    rbm, base_bias, _ = digits_machine(device)
    truth, schedule = rbm.log_partition().item(), linear_schedule(10)
    exact = reverse_annealed_importance_sampling(rbm, rbm.sample_exact(2000), schedule, base_bias)
    assert abs(exact.log_partition - truth) < 4 * exact.standard_error
    wrong = torch.rand(2000, 64, device=device).round()
    estimate = reverse_annealed_importance_sampling(rbm, wrong, schedule, base_bias)
    assert estimate.log_partition < truth - 4 * estimate.standard_error


@torch.no_grad()
def test_on_a_machine_of_the_digits_the_bound_is_below_and_close(device):
    rbm, base_bias, images = digits_machine(device)
    v = images.evaluation()
    truth = rbm.log_likelihood(v).double()
    coarse, fine = (raise_bound(rbm, v, linear_schedule(n), base_bias=base_bias) for n in (20, 500))
    assert standard_errors(coarse - truth, 0.0) > 4
    assert standard_errors(coarse - fine, 0.0) > 4
    assert (coarse - truth).mean() < 5 * (fine - truth).mean() - 0.1
    assert -0.05 < (fine - truth).mean() < 4 * (fine - truth).std() / math.sqrt(len(v))


@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA, reason="COURSE_DATA_DIR names no folder with the real MNIST")
def test_on_a_784_by_16_machine_of_mnist_both_directions_meet_the_exact_log_partition():
    images = load_images("mnist", "cpu", REAL_DATA)
    rbm, base_bias = trained(images, 16, 3000, 0.02)
    truth, schedule = rbm.log_partition().item(), linear_schedule(8000)
    forward = annealed_importance_sampling(rbm, schedule, 150, base_bias)
    reverse = reverse_annealed_importance_sampling(rbm, rbm.sample_exact(150), schedule, base_bias)
    for estimate in (forward, reverse):
        assert abs(estimate.log_partition - truth) < 0.1
        assert abs(estimate.log_partition - truth) < 4 * estimate.standard_error
        assert estimate.standard_error < 0.05


def test_a_machine_that_is_not_finite_is_refused():
    rbm = RBM(3, 2)
    with torch.no_grad():
        rbm.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        annealed_importance_sampling(rbm, linear_schedule(3), 5)
    with pytest.raises(FloatingPointError, match="not finite"):
        rbm.log_partition()


@pytest.mark.filterwarnings("error")
def test_one_chain_has_no_standard_error():
    assert math.isnan(annealed_importance_sampling(RBM(3, 2), linear_schedule(3), 1).standard_error)


# The bound.


@pytest.mark.parametrize("schedule", SCHEDULES, ids=len)
@pytest.mark.parametrize("n_chains", [1, 3])
def test_the_bound_is_unbiased_for_the_probability_of_the_annealing_model(path, schedule, n_chains):
    """On the scale of probabilities; on that of logarithms it is below, the less the more chains."""
    path = ExactPath(path.rbm.weight.device, schedule, path.base_bias is not None)
    p, places = path.annealing_model(), [0, 9, 21, 31]
    assert p.sum() == pytest.approx(1)
    v = torch.as_tensor(path.machines[0].v[places], device=path.rbm.weight.device)
    bounds = raise_bound(path.rbm, v.repeat(20_000, 1), schedule, n_chains, path.base_bias)
    assert (bounds.shape, bounds.dtype) == ((80_000,), torch.float64)
    bounds = bounds.view(20_000, 4)
    expected = torch.as_tensor(p[places], device=bounds.device)
    assert standard_errors(bounds.exp(), expected) < 4
    assert standard_errors(bounds.exp(), expected.flip(0)) > 4
    if n_chains == 1 and len(schedule) < 7:
        machine = torch.as_tensor(path.machines[-1].p[places], device=bounds.device)
        assert standard_errors(bounds.exp(), machine) > 4  # another model
    slack = expected.log() - bounds.mean(0)
    assert (slack > 4 * bounds.std(0) / math.sqrt(20_000)).all()


def test_more_chains_tighten_the_bound(path):
    v = torch.as_tensor(path.machines[0].v, device=path.rbm.weight.device).repeat(50, 1)
    one, many = (raise_bound(path.rbm, v, path.schedule, r, path.base_bias) for r in (1, 20))
    rise = many - one
    assert rise.mean() > 4 * rise.std() / math.sqrt(len(rise))


def test_the_bound_is_on_average_below_the_log_likelihood_and_reaches_it(path):
    """Averaged over the machine's own samples, where no other model is better than the machine."""
    v = path.rbm.sample_exact(4000)
    truth, gaps = path.rbm.log_likelihood(v).detach(), []
    for n_temperatures in (1, 4, 16, 400):
        gap = truth - raise_bound(path.rbm, v, linear_schedule(n_temperatures), 1, path.base_bias)
        assert gap.mean() > -4 * gap.std() / math.sqrt(len(gap))
        gaps.append(gap.mean().item())
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[3] < 0.03


def test_every_example_has_a_bound_of_its_own(path):
    """With a long schedule the bounds are the log-likelihoods, in the order of the examples."""
    v = torch.as_tensor(path.machines[0].v, device=path.rbm.weight.device)
    bounds = raise_bound(path.rbm, v, linear_schedule(400), 50, path.base_bias)
    assert (bounds.shape, bounds.requires_grad) == ((32,), False)
    torch.testing.assert_close(bounds, path.rbm.log_likelihood(v).detach(), rtol=0, atol=0.15)


def test_large_log_partitions_do_not_overflow(device):
    rbm, log_partition, _ = pairs_rbm(784, 500, device)
    assert log_partition > 800
    forward = annealed_importance_sampling(rbm, linear_schedule(200), 50)
    assert abs(forward.log_partition - log_partition) < 1
    assert forward.log_weights.dtype == torch.float64
    v = torch.ones(2, 784, device=device)
    truth = rbm.log_likelihood(v, log_partition).double().detach()
    torch.testing.assert_close(raise_bound(rbm, v, linear_schedule(200), 5), truth, rtol=0, atol=5)


# Progress.


@pytest.mark.parametrize("progress", [False, True])
def test_the_bar_counts_temperatures_where_it_is_asked_for(monkeypatch, capsys, progress):
    monkeypatch.delenv("COURSE_PROGRESS")
    rbm, schedule, v = random_rbm(), linear_schedule(7), torch.ones(2, 5)
    for run in (
        lambda: annealed_importance_sampling(rbm, schedule, 4, progress=progress),
        lambda: reverse_annealed_importance_sampling(rbm, v, schedule, progress=progress),
        lambda: raise_bound(rbm, v, schedule, progress=progress),
    ):
        run()
        out, err = capsys.readouterr()
        assert out == ""
        assert "7/7" in err and "temperature" in err if progress else err == ""


# Bad input.

CALLS = [
    lambda rbm, schedule, **options: annealed_importance_sampling(rbm, schedule, **options),
    lambda rbm, schedule, **options: reverse_annealed_importance_sampling(
        rbm, torch.ones(2, 5), schedule, **options
    ),
    lambda rbm, schedule, **options: raise_bound(rbm, torch.ones(2, 5), schedule, **options),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("schedule", "seen"),
    [
        ([0.1, 0.5, 1.0], r"got shape \(3,\) from 0.1 to 1$"),
        ([0.0, 0.5, 0.9], r"got shape \(3,\) from 0 to 0.9$"),
        ([1.0, 0.5, 0.0], r"got shape \(3,\) from 1 to 0$"),
        ([0.0, 0.5, math.nan], r"got shape \(3,\) from 0 to nan$"),
        ([[0.0, 1.0]], r"got shape \(1, 2\)$"),
        ([[0.0], [1.0]], r"got shape \(2, 1\)$"),
        ([[0.0, 0.5, 1.0]] * 2, r"got shape \(2, 3\)$"),
        ([1.0], r"got shape \(1,\)$"),
        ([], r"got shape \(0,\)$"),
        (1.0, r"got shape \(\)$"),
    ],
    ids=str,
)
def test_a_schedule_without_its_ends_is_refused(call, schedule, seen):
    message = "schedule must be one row of inverse temperatures that begins with 0 and ends with 1, " + seen
    with pytest.raises(ValueError, match=message):
        call(random_rbm(), torch.tensor(schedule))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("schedule", "seen"),
    [
        ([0.0, 0.5, 0.4, 1.0], "β_1 = 0.5 is followed by β_2 = 0.4"),
        ([0.0, 0.5, 0.5, 1.0], "β_1 = 0.5 is followed by β_2 = 0.5"),
        ([0.0, 0.0, 1.0], "β_0 = 0 is followed by β_1 = 0"),
        ([0.0, 0.3, 1.2, 1.0], "β_2 = 1.2 is followed by β_3 = 1"),
        ([0.0, 0.2, math.nan, 1.0], "β_1 = 0.2 is followed by β_2 = nan"),
        ([0.0, -0.2, 1.0], "β_0 = 0 is followed by β_1 = -0.2"),
    ],
    ids=str,
)
def test_a_schedule_that_does_not_rise_is_refused_with_the_place(call, schedule, seen):
    with pytest.raises(ValueError, match=f"schedule must increase at every step, but {seen}$"):
        call(random_rbm(), torch.tensor(schedule))


@pytest.mark.parametrize("schedule", [linear_schedule, sigmoid_schedule])
@pytest.mark.parametrize("n", [0, -3])
def test_a_schedule_without_temperatures_is_refused(schedule, n):
    with pytest.raises(ValueError, match=f"n_temperatures must be at least 1, got {n}"):
        schedule(n)


@pytest.mark.parametrize("steepness", [0.0, -4.0, math.nan])
def test_a_steepness_that_is_not_positive_is_refused(steepness):
    with pytest.raises(ValueError, match=f"steepness must be positive, got {steepness}; .* linear_schedule"):
        sigmoid_schedule(5, steepness)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", [(4,), (1, 5), (2, 5), ()], ids=str)
def test_a_base_bias_of_another_shape_is_refused(call, shape):
    message = r"base_bias must have shape \(5,\), the machine's visible bits; got \("
    with pytest.raises(ValueError, match=message):
        call(random_rbm(), linear_schedule(2), base_bias=torch.zeros(shape))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
def test_a_base_bias_that_is_not_finite_is_refused_with_the_cure(call, value):
    """A pixel that is always blank has the logit −∞."""
    base_bias = torch.tensor([0.0, 0.0, value, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"base_bias must be finite.*torch\.logit\(mean, eps=1e-3\)"):
        call(random_rbm(), linear_schedule(2), base_bias=base_bias)


@pytest.mark.parametrize("n_chains", [0, -5])
@pytest.mark.parametrize("call", [CALLS[0], CALLS[2]])
def test_no_chains_are_refused(call, n_chains):
    with pytest.raises(ValueError, match=f"n_chains must be at least 1, got {n_chains}"):
        call(random_rbm(), linear_schedule(2), n_chains=n_chains)


@pytest.mark.parametrize(
    ("call", "name"), [(reverse_annealed_importance_sampling, "samples"), (raise_bound, "v")]
)
class TestStartingPoints:
    @pytest.mark.parametrize("value", [0.5, 2.0, -1.0, math.nan, math.inf, -math.inf])
    def test_anything_but_bits_is_refused(self, call, name, value):
        v = torch.ones(3, 5)
        v[1, 2] = value
        with pytest.raises(ValueError, match=f"^{name} must hold bits, 0 or 1, but has values in"):
            call(random_rbm(), v, linear_schedule(2))

    @pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5)])
    def test_what_is_not_rows_is_refused(self, call, name, shape):
        with pytest.raises(ValueError, match=rf"^{name} must have shape \(N, D\) with N ≥ 1, got \("):
            call(random_rbm(), torch.ones(shape), linear_schedule(2))

    def test_a_wrong_number_of_bits_is_refused(self, call, name):
        with pytest.raises(ValueError, match=r"v has 4 bits on its last axis .*n_visible=5"):
            call(random_rbm(), torch.ones(3, 4), linear_schedule(2))


def test_machines_beyond_enumeration_are_estimated():
    rbm, log_partition, _ = pairs_rbm(25, 24)
    estimate = annealed_importance_sampling(rbm, linear_schedule(300), 200)
    assert abs(estimate.log_partition - log_partition) < 4 * estimate.standard_error
