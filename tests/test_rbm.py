"""The RBM against enumeration in numpy, finite differences, and machines whose log Z is a product."""

import copy
import math
import re
import weakref

import numpy as np
import pytest
import torch
from oracles import standard_errors
from rbm_oracles import Enumeration, NegativeLogLikelihood, fit_probability, flat, pairs_rbm, random_rbm
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from course_lib import rbm as rbm_module
from course_lib.data import bars_and_stripes
from course_lib.rbm import RBM, check_bits, check_rows
from course_lib.training import fit

double = pytest.mark.usefixtures("double_precision")

SIZES = [(6, 4), (4, 6), (5, 5), (1, 1), (7, 1), (1, 3)]


@pytest.fixture(params=SIZES, ids=str)
def machine(request, double_precision, device):
    """A random machine, what enumeration says of it, and all its states as tensors."""
    rbm = random_rbm(*request.param, device=device)
    truth = Enumeration.of(rbm)
    return rbm, truth, torch.as_tensor(truth.v, device=device), torch.as_tensor(truth.h, device=device)


def assert_equal(tensor, array):
    assert tensor.dtype == torch.float64
    np.testing.assert_allclose(tensor.detach().cpu().numpy(), array, rtol=0, atol=1e-10)


# The model, by enumeration.


def test_the_energy_of_every_state_is_its_definition(machine):
    rbm, truth, v, h = machine
    assert_equal(rbm.energy(v[:, None], h), truth.energy)


def test_both_conditionals_equal_enumeration(machine):
    rbm, truth, v, h = machine
    assert rbm.hidden(v).batch_shape == v.shape[:1]
    assert rbm.visible(h).event_shape == v.shape[1:]
    assert_equal(rbm.hidden(v[:, None]).log_prob(h).exp(), truth.hidden_given_visible)
    assert_equal(rbm.visible(h[:, None]).log_prob(v).exp(), truth.visible_given_hidden)


def test_the_free_energy_is_the_energy_with_the_hidden_bits_summed_out(machine):
    rbm, truth, v, _ = machine
    assert_equal(rbm.free_energy(v), -truth.log_f)


@pytest.mark.parametrize("chunk", [1, 3, 8, 4096])
def test_log_partition_equals_enumeration_whatever_the_chunk(machine, chunk):
    rbm, truth, _, _ = machine
    assert_equal(rbm.log_partition(chunk), truth.log_partition)


def test_log_likelihood_is_the_logarithm_of_every_probability(machine):
    rbm, truth, v, _ = machine
    assert_equal(rbm.log_likelihood(v), np.log(truth.p))
    assert_equal(rbm.log_likelihood(v, 2.5), truth.log_f - 2.5)
    assert_equal(rbm.log_likelihood(v, rbm.log_partition()), np.log(truth.p))


@double
def test_leading_axes_of_v_are_batch_axes(device):
    rbm = random_rbm(device=device)
    v, h = torch.rand(2, 3, 5, device=device).round(), torch.rand(2, 3, 3, device=device).round()
    for function, *bits in (
        (rbm.energy, v, h),
        (rbm.free_energy, v),
        (rbm.log_likelihood, v),
        (rbm.hidden_logits, v),
        (rbm.visible_logits, h),
    ):
        rows = torch.stack([function(*row) for row in zip(*(b.flatten(0, 1) for b in bits), strict=True)])
        torch.testing.assert_close(function(*bits).flatten(0, 1), rows)


@pytest.mark.parametrize(("n_visible", "n_hidden"), [(784, 7), (7, 300), (21, 20)])
def test_log_partition_of_large_machines_that_factorise(device, n_visible, n_hidden):
    """Up to the 20 units that are allowed; a machine in single precision has its log Z in double."""
    rbm, log_partition, _ = pairs_rbm(n_visible, n_hidden, device)
    assert rbm.weight.dtype == torch.float32
    with torch.no_grad():
        assert_equal(rbm.log_partition(), log_partition)


@torch.no_grad()
def test_in_single_precision_and_784_pixels_log_likelihoods_are_exact_to_a_thousandth_of_a_nat(device):
    rbm = random_rbm(784, 500, device, scale=0.1)
    v = torch.rand(50, 784, device=device).round()
    truth = copy.deepcopy(rbm).double().log_likelihood(v.double(), 700.0)
    assert truth.abs().mean() > 100
    values = rbm.log_likelihood(v, torch.tensor(700.0, dtype=torch.float64))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), truth, rtol=0, atol=0.001)


class PeakMemory(TorchDispatchMode):
    """The most bytes that the tensors made inside held at any one time."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        self.alive += [weakref.ref(tensor) for tensor in made if isinstance(tensor, torch.Tensor)]
        tensors = [(reference, reference()) for reference in self.alive]
        self.alive = [reference for reference, tensor in tensors if tensor is not None]
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for _, t in tensors if t is not None
        }
        self.peak = max(self.peak, sum(storages.values()))
        return result


@double
@pytest.mark.parametrize(("n_visible", "n_hidden"), [(60, 12), (12, 60)])
def test_memory_is_that_of_one_chunk(device, n_visible, n_hidden):
    rbm = random_rbm(n_visible, n_hidden, device)
    peaks = {}
    for chunk in (64, 2**12):
        with torch.no_grad(), PeakMemory() as memory:
            rbm.log_partition(chunk)
        peaks[chunk] = memory.peak
    index, row = 8 * 2**12, 8 * (60 + 12)
    copies = 8 * (60 * 12 + 60 + 12)  # of the parameters
    assert peaks[64] < index + 4 * 64 * row + copies
    assert peaks[2**12] > 2**12 * row


def test_exact_sampling_holds_one_chunk_too(device):
    rbm = RBM(60, 15).to(device)
    with PeakMemory() as memory:
        rbm.sample_exact(10)
    states = 8 * 2**15  # bytes for one number of each: their indices, and copies of their log-weights
    assert memory.peak < 6 * states + 4 * 4096 * 8 * (60 + 15)


def test_the_exact_gradient_holds_one_chunk_at_a_time(device):
    rbm = RBM(60, 15).to(device)
    rbm.log_partition(chunk=2**15)  # what is allocated once and for all
    peaks = {}
    for chunk in (256, 2**15):
        with PeakMemory() as memory:
            rbm.log_partition(chunk).backward()
        peaks[chunk] = memory.peak
    every_state = 8 * 2**15 * (60 + 15)
    assert peaks[256] < every_state / 8 < every_state < peaks[2**15]


# Its gradient.


@double
@pytest.mark.parametrize(("n_visible", "n_hidden"), [(4, 2), (2, 4), (3, 3)])
def test_the_exact_gradient_equals_finite_differences(n_visible, n_hidden):
    objective = NegativeLogLikelihood(random_rbm(n_visible, n_hidden))
    v = torch.rand(6, n_visible).round()
    names, parameters = zip(*objective.named_parameters(), strict=True)

    def loss(*values):
        return functional_call(objective, dict(zip(names, values, strict=True)), v)

    assert torch.autograd.gradcheck(loss, parameters)


@pytest.mark.parametrize("chunk", [3, 4096])
def test_the_exact_gradient_is_the_positive_less_the_negative_phase(machine, chunk):
    rbm, truth, v, _ = machine
    p_data = torch.rand(len(v)).to(v)
    p_data /= p_data.sum()
    loss = -(p_data @ rbm.log_likelihood(v, rbm.log_partition(chunk)))
    gradient = -flat(torch.autograd.grad(loss, list(rbm.parameters())))
    assert_equal(gradient, truth.likelihood_gradient(p_data.cpu().numpy()))
    assert not np.allclose(gradient.cpu(), truth.statistics(p_data.cpu().numpy()), atol=1e-3)  # one phase


def test_exact_gradients_teach_a_machine_bars_and_stripes(device):
    """No model's mean log-likelihood is above −H of the data: 12 patterns in 1/16, two in 1/8."""
    patterns = bars_and_stripes(3).to(device)
    highest = -(12 / 16 * math.log(16) + 2 / 8 * math.log(8))
    objective = NegativeLogLikelihood(RBM(9, 8).to(device))
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    history = fit(objective, [patterns] * 300, 300, optimizer, log_every=1)
    assert highest - 0.3 < -history.losses[-1] < highest
    assert history.losses[0] == pytest.approx(9 * math.log(2), abs=0.01)  # independent fair bits


# Sampling.


@double
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_gibbs_has_the_transition_probabilities_of_its_steps(device, n_steps):
    torch.manual_seed(2)  # a machine that mixes slowly
    rbm = random_rbm(4, 3, device, scale=2.0)
    truth = Enumeration.of(rbm)
    start = np.eye(16)[5]
    v = torch.as_tensor(truth.v[5], device=device).repeat(40_000, 1)
    samples = rbm.gibbs(v, n_steps)
    assert fit_probability(samples, truth.after(start, n_steps)) > 1e-4
    assert fit_probability(samples, truth.after(start, n_steps - 1 or 2)) < 1e-6
    assert fit_probability(samples, truth.p) < 1e-6
    assert torch.equal(v[0], torch.as_tensor(truth.v[5], device=device))  # the start is left alone


@double
def test_gibbs_leaves_the_model_distribution_as_it_is(device):
    rbm = random_rbm(4, 3, device, scale=2.0)
    truth = Enumeration.of(rbm)
    assert np.abs(truth.after(truth.p, 1) - truth.p).max() < 1e-12  # of the oracle
    assert fit_probability(rbm.gibbs(rbm.sample_exact(40_000), 3), truth.p) > 1e-4


def test_no_steps_move_nothing_and_no_gradient_passes(device):
    rbm, v = random_rbm(device=device), torch.ones(7, 5, device=device)
    assert torch.equal(rbm.gibbs(v, 0), v)
    assert not rbm.gibbs(v, 2).requires_grad
    assert not rbm.sample_exact(3).requires_grad


def test_gibbs_records_nothing_for_a_gradient(monkeypatch, device):
    recorded = []

    def draw(logits, generator):
        recorded.append(logits.requires_grad)
        return (logits > 0).to(logits)

    monkeypatch.setattr(rbm_module, "sample_bits", draw)
    random_rbm(device=device).gibbs(torch.ones(7, 5, device=device), 2)
    assert recorded == [False] * 4


@pytest.mark.parametrize("size", [(5, 3), (3, 5), (4, 4)], ids=str)
def test_exact_samples_have_the_probabilities_of_the_model(device, size):
    rbm = random_rbm(*size, device, scale=2.0)
    truth = Enumeration.of(rbm)
    samples = rbm.sample_exact(40_000)
    assert (samples.shape, samples.dtype) == ((40_000, size[0]), torch.float32)
    assert fit_probability(samples, truth.p) > 1e-4
    mean = truth.p @ truth.v
    independent = np.prod(np.where(truth.v == 1, mean, 1 - mean), axis=1)
    assert fit_probability(samples, independent) < 1e-6
    assert fit_probability(rbm.gibbs(torch.zeros_like(samples)), truth.p) < 1e-6


@pytest.mark.parametrize("size", [(30, 13), (13, 13), (13, 30), (1500, 3)], ids=str)
def test_exact_samples_of_more_states_than_a_chunk_holds_or_of_weights_beyond_floating_point(device, size):
    """The bits of this machine are independent of each other; the last one's Z is above 10³⁰⁸."""
    rbm, _, mean = pairs_rbm(*size, device)
    samples = rbm.sample_exact(20_000 if max(size) < 100 else 1000).double()
    assert standard_errors(samples, mean) < 4
    assert standard_errors(samples, mean.flip(0)) > 4
    centred = samples - mean
    assert standard_errors(centred[:, :-1] * centred[:, 1:], 0.0) < 4


@pytest.mark.parametrize(
    "draw", [lambda r, g: r.gibbs(torch.ones(9, 5), 3, g), lambda r, g: r.sample_exact(9, g)]
)
@pytest.mark.parametrize("size", [(5, 3), (5, 8)], ids=str)
def test_a_generator_decides_the_samples_and_the_global_one_rests(draw, size):
    rbm, state = random_rbm(*size), torch.get_rng_state()
    one, same, other = (draw(rbm, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


# How a machine begins.


def test_a_new_machine_has_small_random_weights_and_no_biases():
    rbm = RBM(300, 200)
    assert rbm.weight.shape == (300, 200)
    weights = rbm.weight.detach().double().flatten()
    assert standard_errors(weights, 0.0) < 4
    assert standard_errors(weights.square(), 0.01**2) < 4
    assert torch.equal(rbm.visible_bias, torch.zeros(300))
    assert torch.equal(rbm.hidden_bias, torch.zeros(200))
    assert {name for name, _ in rbm.named_parameters()} == {"weight", "visible_bias", "hidden_bias"}


def test_the_visible_bias_begins_at_the_logit_of_the_mean_which_it_keeps_from_zero_and_one():
    mean = torch.tensor([0.0, 0.3, 0.5, 1.0])
    rbm = RBM(4, 2, mean)
    torch.testing.assert_close(rbm.visible_bias.detach().sigmoid(), torch.tensor([0.001, 0.3, 0.5, 0.999]))
    assert torch.equal(mean, torch.tensor([0.0, 0.3, 0.5, 1.0]))


def test_a_mean_of_another_type_makes_a_machine_of_the_default_type():
    rbm = RBM(4, 2, torch.full((4,), 0.25, dtype=torch.float64))
    assert {parameter.dtype for parameter in rbm.parameters()} == {torch.float32}
    assert rbm.gibbs(torch.zeros(3, 4)).shape == (3, 4)


# Bad input.


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 3)])
def test_a_side_without_units_is_refused(size):
    message = f"at least 1 unit on each side, got n_visible={size[0]}, n_hidden={size[1]}"
    with pytest.raises(ValueError, match=message):
        RBM(*size)


@pytest.mark.parametrize(
    ("mean", "seen"),
    [
        (torch.full((3,), 0.5), r"got shape \(3,\) with values in \[0.5, 0.5\]"),
        (torch.full((1, 4), 0.5), r"got shape \(1, 4\)"),
        (torch.tensor([0.5, 0.5, 0.5, 1.1]), r"values in \[0.5, 1.1\]"),
        (torch.tensor([-0.1, 0.5, 0.5, 0.5]), r"values in \[-0.1, 0.5\]"),
        (torch.tensor([0.5, math.nan, 0.5, 0.5]), r"values in \[nan, nan\]"),
    ],
)
def test_a_mean_that_is_none_is_refused(mean, seen):
    with pytest.raises(ValueError, match=r"visible_mean must be 4 numbers in \[0, 1\], " + f".*{seen}"):
        RBM(4, 2, mean)


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, math.nan, math.inf, -math.inf, 1e-30])
def test_anything_but_bits_is_refused(value, device):
    rbm, v = random_rbm(device=device), torch.ones(3, 5, device=device)
    v[1, 2] = value
    message = r"v must hold bits, 0 or 1, but has values in \[.*\].*batches\(transform='binarize'\)"
    with pytest.raises(ValueError, match=message):
        rbm.log_likelihood(v)
    with pytest.raises(ValueError, match="the images must hold bits, 0 or 1"):
        check_bits(v, "the images")


def test_what_was_seen_instead_of_bits_is_named():
    with pytest.raises(ValueError, match=r"values in \[-1, 1\]"):
        check_bits(torch.tensor([[-1.0, 1.0]]), "v")
    with pytest.raises(ValueError, match=r"values in \[0, 255\]"):
        check_bits(torch.tensor([[0, 255]], dtype=torch.uint8), "v")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.uint8, torch.int64])
def test_bits_of_any_type_are_bits(dtype, device):
    rbm, bits = random_rbm(device=device), torch.tensor([[0, 1, 1, 0, 1]], device=device)
    check_bits(bits.to(dtype), "v")
    assert torch.equal(rbm.log_likelihood(bits.to(dtype)), rbm.log_likelihood(bits.float()))
    assert rbm.log_likelihood(bits.to(dtype)).dtype == torch.float32


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["weight", "visible_bias", "hidden_bias"])
def test_a_machine_that_is_not_finite_has_no_log_partition(name, value):
    rbm = random_rbm()
    with torch.no_grad():
        getattr(rbm, name).view(-1)[1] = value
    with pytest.raises(
        FloatingPointError, match=r"log Z is (nan|inf): the machine's parameters are not finite"
    ):
        rbm.log_partition()


@pytest.mark.parametrize("n", [0, -3])
def test_no_samples_are_refused(n):
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        random_rbm().sample_exact(n)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 3, 4), ()])
def test_what_is_not_rows_is_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"x must have shape (N, D) with N ≥ 1, got {shape}")):
        check_rows(torch.zeros(shape), "x")
    check_rows(torch.zeros(1, 4), "x")


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda r, b: r.hidden(b), "n_visible"),
        (lambda r, b: r.free_energy(b), "n_visible"),
        (lambda r, b: r.log_likelihood(b), "n_visible"),
        (lambda r, b: r.gibbs(b), "n_visible"),
        (lambda r, b: r.energy(b, torch.ones(2, 3)), "n_visible"),
        (lambda r, b: r.visible(b), "n_hidden"),
        (lambda r, b: r.energy(torch.ones(2, 5), b), "n_hidden"),
    ],
)
@pytest.mark.parametrize("shape", [(2, 4), (2, 8, 8)])
def test_a_wrong_number_of_bits_is_refused(call, argument, shape):
    name, width = ("v", 5) if argument == "n_visible" else ("h", 3)
    seen = rf"{name} has {shape[-1]} bits on its last axis \(shape \({', '.join(map(str, shape))}\)\)"
    with pytest.raises(ValueError, match=seen + rf".*built with {argument}={width}\..*flatten\(1\)"):
        call(random_rbm(), torch.ones(shape))


def test_more_than_twenty_units_on_both_sides_are_refused_before_any_is_enumerated(monkeypatch):
    monkeypatch.setattr(rbm_module, "_states", None)
    rbm = RBM(22, 21)
    message = (
        r"sums over 2\^21 states of the smaller side, more than the 2\^20 allowed "
        r"\(n_visible=22, n_hidden=21\).*annealed_importance_sampling"
    )
    for call in (
        rbm.log_partition,
        lambda: rbm.sample_exact(3),
        lambda: rbm.log_likelihood(torch.ones(1, 22)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert rbm.log_likelihood(torch.zeros(1, 22), 10.0).item() == pytest.approx(21 * math.log(2) - 10)


@pytest.mark.parametrize("chunk", [0, -4])
def test_an_empty_chunk_is_refused(chunk):
    with pytest.raises(ValueError, match=f"chunk must be at least 1 state, got {chunk}"):
        random_rbm().log_partition(chunk)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="n_steps must be at least 0, got -1"):
        random_rbm().gibbs(torch.ones(2, 5), -1)
