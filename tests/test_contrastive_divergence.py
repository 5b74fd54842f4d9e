"""Contrastive divergence against statistics in numpy, powers of the Gibbs transition matrix, and autograd."""

import copy
import math
from itertools import pairwise, repeat

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import assert_bits_equal, standard_errors
from rbm_oracles import Enumeration, fit_probability, flat, random_rbm
from scipy.special import expit
from torch import nn

from course_lib.batches import Batches
from course_lib.checkpoint import load_checkpoint, save_checkpoint
from course_lib.contrastive_divergence import ContrastiveDivergence
from course_lib.data import bars_and_stripes
from course_lib.rbm import RBM
from course_lib.training import fit

double = pytest.mark.usefixtures("double_precision")

VARIANTS = [
    {},
    {"n_steps": 3},
    {"persistent": True, "n_chains": 7},
    {"persistent": True, "n_chains": 40, "n_steps": 2},
    {"centring": True},
    {"persistent": True, "n_chains": 7, "centring": True},
]


def recorded(objective):
    """A list that receives the visible states to which the chains of each call have run."""
    run, states = objective._run_chains, []

    def record(h):
        v, mean = run(h)
        states.append(v)
        return v, mean

    objective._run_chains = record
    return states


def bits(*shape, device="cpu"):
    return torch.rand(*shape, device=device).round()


def as_arrays(*tensors):
    return [tensor.detach().double().cpu().numpy() for tensor in tensors]


def analytic_gradient(objective, v, v_model):
    """The gradient of the docstring from the samples alone, one outer product at a time."""
    weight, _, hidden_bias, data, model, mu, lam = as_arrays(
        *objective.rbm.parameters(), v, v_model, objective.visible_offset, objective.hidden_offset
    )

    def phase(rows):
        h = [expit(hidden_bias + weight.T @ row) for row in rows]
        outer = np.mean([np.outer(row - mu, mean - lam) for row, mean in zip(rows, h, strict=True)], axis=0)
        return outer, rows.mean(0), np.mean(h, axis=0)

    positive, negative = phase(data), phase(model)
    gradient, visible, hidden = (p - n for p, n in zip(positive, negative, strict=True))
    if objective.centring:
        visible, hidden = visible - gradient @ lam, hidden - gradient.T @ mu
    return np.concatenate([gradient.ravel(), visible, hidden])


def gradients(objective, loss):
    """Of the loss, with respect to W, b and c, end to end."""
    return flat(torch.autograd.grad(loss, list(objective.rbm.parameters())))


# The surrogate and its gradient.


@double
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_gradient_of_the_loss_is_that_of_the_analytic_statistics(options, device):
    objective = ContrastiveDivergence(random_rbm(device=device), **options)
    chains = recorded(objective)
    for size in (9, 9, 4):  # a batch may change its size, and persistent chains are as many as before
        v = bits(size, 5, device=device)
        loss = objective(v)
        expected = analytic_gradient(objective, v, chains[-1])
        assert len(chains[-1]) == options.get("n_chains", size)
        np.testing.assert_allclose(-gradients(objective, loss).cpu(), expected, rtol=0, atol=1e-12)
        parameters = flat(objective.rbm.parameters()).cpu().numpy()
        assert loss.item() == pytest.approx(-expected @ parameters, abs=1e-12)
        assert np.abs(expected).max() > 0.01


@double
@pytest.mark.parametrize("options", [{}, {"persistent": True, "n_chains": 7}], ids=str)
def test_uncentred_the_loss_is_the_mean_energy_of_the_data_less_that_of_the_chains(options, device):
    objective = ContrastiveDivergence(random_rbm(device=device), **options)
    chains, v, rbm = recorded(objective), bits(9, 5, device=device), objective.rbm
    loss = objective(v)
    data, model = (rbm.energy(x, rbm.hidden(x).mean).mean() for x in (v, chains[-1]))
    torch.testing.assert_close(loss, data - model)


@double
def test_the_gradient_does_not_flow_through_the_samples(device):
    """Held fixed they are in a loss that is linear in the parameters: its gradient has none."""
    objective = ContrastiveDivergence(random_rbm(device=device), n_steps=2)
    chains = recorded(objective)
    v = bits(9, 5, device=device)
    first = torch.autograd.grad(objective(v), list(objective.rbm.parameters()), create_graph=True)
    assert not any(gradient.requires_grad for gradient in first)
    assert not chains[-1].requires_grad
    assert set(chains[-1].unique().tolist()) == {0.0, 1.0}

    rbm = objective.rbm  # the same gradient through free energies, with the chains' states held fixed
    difference = rbm.free_energy(v).mean() - rbm.free_energy(chains[-1]).mean()
    torch.testing.assert_close(flat(first), gradients(objective, difference))

    through = rbm.visible(rbm.hidden(v).mean).mean  # the mistake: the chain's end as a function of W, b, c
    mistake = rbm.free_energy(v).mean() - rbm.free_energy(through).mean()
    fixed = rbm.free_energy(v).mean() - rbm.free_energy(through.detach()).mean()
    assert (gradients(objective, mistake) - gradients(objective, fixed)).abs().max() > 0.01


# Its expectation, exactly.


class TinyMachine:
    """4 visible and 3 hidden units that like to be alike, so that they mix slowly, and data of 3 patterns."""

    def __init__(self, device="cpu"):
        torch.manual_seed(2)
        self.rbm = random_rbm(4, 3, device, scale=0.5)
        with torch.no_grad():
            self.rbm.weight.add_(1.6)
            self.rbm.visible_bias.sub_(1.6 * 3 / 2)
            self.rbm.hidden_bias.sub_(1.6 * 4 / 2)
        self.truth = Enumeration.of(self.rbm)
        self.p_data = np.zeros(16)
        self.p_data[[3, 14, 15]] = 1 / 3
        self.data = torch.as_tensor(self.truth.v[[3, 14, 15]], device=device)

    def expected(self, n_steps):
        """E of the CD-k gradient: the statistics of the data less those after k transitions from it."""
        after = self.truth.after(self.p_data, n_steps)
        return self.truth.statistics(self.p_data) - self.truth.statistics(after)

    @property
    def exact(self):
        return self.truth.likelihood_gradient(self.p_data)

    def measured(self, n_steps, n=500):
        """Independent CD-k gradients, shape (n, 19)."""
        objective = ContrastiveDivergence(self.rbm, n_steps)
        batch = self.data.repeat(10, 1)
        return torch.stack([flat(objective.likelihood_gradient(batch)) for _ in range(n)])


@double
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_the_expected_gradient_is_that_of_k_transitions(n_steps, device):
    tiny = TinyMachine(device)
    measured = tiny.measured(n_steps)
    expected = torch.as_tensor(tiny.expected(n_steps), device=device)
    assert standard_errors(measured, expected) < 4
    assert standard_errors(measured, torch.as_tensor(tiny.exact, device=device)) > 4
    for other in (n_steps - 1, n_steps + 1):
        assert standard_errors(measured, torch.as_tensor(tiny.expected(other), device=device)) > 4


@double
def test_the_expected_gradient_approaches_the_exact_one_as_k_grows(device):
    tiny = TinyMachine(device)
    distances = [np.linalg.norm(tiny.expected(k) - tiny.exact) for k in (1, 2, 5, 10, 20, 40)]
    assert all(later < 0.9 * earlier for earlier, later in pairwise(distances))
    assert np.linalg.norm(tiny.expected(1000) - tiny.exact) < 1e-10
    measured = [
        np.linalg.norm(tiny.measured(k, n=200).mean(0).cpu().numpy() - tiny.exact) for k in (1, 5, 20)
    ]
    assert all(later < 0.9 * earlier for earlier, later in pairwise(measured))
    assert measured[0] == pytest.approx(distances[0], rel=0.1)
    converged = tiny.measured(100, n=200)
    assert standard_errors(converged, torch.as_tensor(tiny.exact, device=device)) < 4


# Persistent chains.


@double
@pytest.mark.parametrize(("n_steps", "n_calls"), [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_persistent_chains_continue_from_call_to_call(n_steps, n_calls, device):
    """They begin with hidden bits at σ(c); from there each step is one transition."""
    tiny = TinyMachine(device)
    objective = ContrastiveDivergence(tiny.rbm, n_steps, persistent=True, n_chains=40_000)
    chains = recorded(objective)
    for _ in range(n_calls):
        objective(tiny.data)
    mean = expit(tiny.truth.hidden_bias)
    begin = np.prod(np.where(tiny.truth.h == 1, mean, 1 - mean), axis=1) @ tiny.truth.visible_given_hidden
    total = n_steps * n_calls - 1  # transitions after the first visible states
    assert fit_probability(chains[-1], tiny.truth.after(begin, total)) > 1e-4
    assert fit_probability(chains[-1], tiny.truth.after(begin, total + 1)) < 1e-6
    assert fit_probability(chains[-1], tiny.truth.after(tiny.p_data, n_steps)) < 1e-6  # CD-k's


@double
def test_at_fixed_parameters_persistent_chains_reach_the_model_distribution(device):
    tiny = TinyMachine(device)
    objective = ContrastiveDivergence(tiny.rbm, persistent=True, n_chains=20_000)
    chains = recorded(objective)
    for _ in range(60):
        objective(tiny.data)
    assert fit_probability(chains[-1], tiny.truth.p) > 1e-4
    assert fit_probability(chains[0], tiny.truth.p) < 1e-6

    from_data = ContrastiveDivergence(tiny.rbm)
    chains = recorded(from_data)
    for _ in range(60):
        from_data(tiny.data.repeat(5000, 1))
    assert fit_probability(chains[-1], tiny.truth.p) < 1e-6


def test_the_chains_are_as_many_as_asked_for_whatever_the_batch(device):
    objective = ContrastiveDivergence(random_rbm(device=device), persistent=True, n_chains=6)
    assert objective.chains.shape == (6, 3)
    torch.testing.assert_close(objective.chains, objective.rbm.hidden_bias.detach().sigmoid().expand(6, 3))
    objective(bits(50, 5, device=device))
    assert objective.chains.shape == (6, 3)
    assert "chains" in objective.state_dict()
    assert ContrastiveDivergence(objective.rbm, n_chains=6).chains is None
    assert ContrastiveDivergence(objective.rbm, persistent=True).chains.shape == (100, 3)


@double
def test_a_chain_keeps_the_mean_of_h_given_where_it_stands(device):
    objective = ContrastiveDivergence(random_rbm(device=device), 2, persistent=True, n_chains=6)
    chains = recorded(objective)
    objective(bits(4, 5, device=device))
    torch.testing.assert_close(objective.chains, objective.rbm.hidden(chains[-1]).mean)


# Centring.


@double
@pytest.mark.parametrize("persistent", [False, True])
def test_the_centred_gradient_is_that_of_the_centred_parameters_mapped_back(persistent, device):
    """E = −(v − μ)ᵀA(h − λ) − βᵀv − γᵀh is the same machine, with W = A, b = β − Aλ, c = γ − Aᵀμ.

    A step along the gradient in (A, β, γ) moves (W, b, c) by the Jacobian of that map.
    """
    objective = ContrastiveDivergence(
        random_rbm(device=device), persistent=persistent, n_chains=7, centring=True
    )
    chains, v, rbm = recorded(objective), bits(9, 5, device=device), objective.rbm
    measured = flat(objective.likelihood_gradient(v))
    mu, lam = objective.visible_offset, objective.hidden_offset

    def plain_parameters(a, beta, gamma):
        return a, beta - a @ lam, gamma - a.T @ mu

    def objective_of(a, beta, gamma):
        weight, b, c = plain_parameters(a, beta, gamma)

        def free_energy(x):
            return -x @ b - F.softplus(x @ weight + c).sum(-1)

        return free_energy(chains[-1]).mean() - free_energy(v).mean()

    weight, b, c = (parameter.detach() for parameter in rbm.parameters())
    centred = weight, b + weight @ lam, c + weight.T @ mu
    gradient = torch.autograd.functional.jacobian(objective_of, centred)
    _, mapped = torch.autograd.functional.jvp(plain_parameters, centred, gradient)
    torch.testing.assert_close(measured, flat(mapped))

    plain = torch.as_tensor(analytic_gradient(PlainView(objective), v, chains[-1]), device=device)
    assert (measured - plain).abs().max() > 0.01
    assert measured @ plain > 0  # the map is J Jᵀ, positive definite: both go uphill, or both are zero


class PlainView:
    """An objective seen as one without centring."""

    def __init__(self, objective):
        self.rbm, self.centring = objective.rbm, False
        self.visible_offset = torch.zeros_like(objective.visible_offset)
        self.hidden_offset = torch.zeros_like(objective.hidden_offset)


@double
@pytest.mark.parametrize("centring", [False, True])
def test_the_gradient_is_zero_where_the_chains_stand_at_the_data(centring, monkeypatch, device):
    objective = ContrastiveDivergence(random_rbm(device=device), centring=centring)
    v = bits(9, 5, device=device)
    monkeypatch.setattr(objective, "_run_chains", lambda h: (v, h))
    assert flat(objective.likelihood_gradient(v)).abs().max() < 1e-15
    monkeypatch.setattr(objective, "_run_chains", lambda h: (1 - v, h))
    assert flat(objective.likelihood_gradient(v)).abs().max() > 0.01


@double
def test_the_offsets_are_running_means_that_begin_at_those_of_the_first_machine(device):
    objective = ContrastiveDivergence(random_rbm(device=device), centring=True)
    rbm = objective.rbm
    visible, hidden = rbm.visible_bias.detach().sigmoid(), rbm.hidden_bias.detach().sigmoid()
    torch.testing.assert_close([objective.visible_offset, objective.hidden_offset], [visible, hidden])
    for _ in range(3):
        v = bits(8, 5, device=device)
        objective(v)
        visible = 0.99 * visible + 0.01 * v.mean(0)
        hidden = 0.99 * hidden + 0.01 * rbm.hidden(v).mean.detach().mean(0)
    torch.testing.assert_close([objective.visible_offset, objective.hidden_offset], [visible, hidden])


def test_without_centring_the_offsets_stay_zero(device):
    objective = ContrastiveDivergence(random_rbm(device=device))
    objective(bits(8, 5, device=device))
    assert not objective.visible_offset.any()
    assert not objective.hidden_offset.any()


# Training.


@pytest.mark.parametrize(
    "options",
    [{"n_steps": 3}, {"persistent": True}, {"persistent": True, "n_chains": 50, "centring": True}],
    ids=str,
)
def test_fit_teaches_a_machine_bars_and_stripes(options, device):
    """Independent bits have −6.24 nats, and no model more than −2.60."""
    patterns = bars_and_stripes(3).to(device)
    rbm = RBM(9, 8).to(device)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=0.3)
    fit(ContrastiveDivergence(rbm, **options), repeat(patterns), 1000, optimizer)
    log_likelihood = rbm.log_likelihood(patterns).mean().item()
    highest = -(12 / 16 * math.log(16) + 2 / 8 * math.log(8))
    assert -4 < log_likelihood < highest


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_continued_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, options, device):
    pixels = torch.randint(256, (20, 5), dtype=torch.uint8, device=device)

    def parts(seed):
        torch.manual_seed(seed)
        objective = ContrastiveDivergence(random_rbm(device=device), **options)
        optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
        return objective, optimizer, Batches(pixels, batch_size=6, transform="binarize", seed=seed)

    def train(objective, optimizer, batches, first_step, steps):
        return fit(objective, batches, steps, optimizer, log_every=1, first_step=first_step).losses

    run = parts(1)
    train(*run, 0, 10)
    save_checkpoint(tmp_path / "checkpoint.pt", {}, 10, *run)
    losses = train(*run, 10, 25)
    resumed = parts(2)
    assert load_checkpoint(tmp_path / "checkpoint.pt", {}, *resumed) == 10
    assert train(*resumed, 10, 25) == losses
    assert_bits_equal(resumed[0].state_dict(), run[0].state_dict())


@double
def test_the_objective_trains_inside_distributed_data_parallel(tmp_path):
    objective, v = ContrastiveDivergence(random_rbm(), persistent=True, n_chains=7), bits(9, 5)
    torch.manual_seed(5)
    state = objective.chains.clone()
    expected = gradients(objective, objective(v))
    objective.chains.copy_(state)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        torch.manual_seed(5)
        nn.parallel.DistributedDataParallel(objective, broadcast_buffers=False)(v).backward()
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(flat(p.grad for p in objective.rbm.parameters()), expected)


def test_a_generator_decides_the_samples_and_the_global_one_rests():
    rbm, v, state = random_rbm(), bits(9, 5), torch.get_rng_state()
    one, same, other = (
        gradients(objective, objective(v))
        for objective in (
            ContrastiveDivergence(rbm, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


# Bad input.


@pytest.mark.parametrize(
    "options", [{"n_steps": 0}, {"n_steps": -2}, {"n_chains": 0, "persistent": True}], ids=str
)
def test_no_steps_and_no_chains_are_refused(options):
    seen = {"n_steps": 1, "n_chains": 100} | options
    message = f"need n_steps ≥ 1 and n_chains ≥ 1, got n_steps={seen['n_steps']}, n_chains={seen['n_chains']}"
    with pytest.raises(ValueError, match=message):
        ContrastiveDivergence(random_rbm(), **options)


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, math.nan, math.inf, -math.inf])
def test_batches_of_anything_but_bits_are_refused_and_do_not_count(value, device):
    objective, v = ContrastiveDivergence(random_rbm(device=device), centring=True), bits(9, 5, device=device)
    before = flat(objective.buffers())
    v[3, 2] = value
    for _ in range(2):
        with pytest.raises(ValueError, match=r"the batch must hold bits, 0 or 1, but .*transform='binarize'"):
            objective(v)
    assert torch.equal(flat(objective.buffers()), before)
    assert objective(v.nan_to_num().clamp(0, 1).round()).isfinite()


def test_on_the_cpu_every_batch_is_checked():
    objective = ContrastiveDivergence(random_rbm())
    objective(torch.ones(2, 5))
    with pytest.raises(ValueError, match="the batch must hold bits"):
        objective(torch.full((2, 5), 0.5))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_on_an_accelerator_the_first_batch_is_checked_and_no_later_one_waits_for_a_value(options):
    """Tensors on torch's meta device have no values: reading one back raises."""
    objective = ContrastiveDivergence(random_rbm(), **options)
    with pytest.raises(ValueError, match="must hold bits"):
        objective(torch.full((4, 5), 0.5))
    with pytest.raises((RuntimeError, NotImplementedError)):  # so the next is still the first
        copy.deepcopy(objective).to("meta")(torch.empty(4, 5, device="meta"))
    objective(torch.ones(4, 5))
    objective.to("meta")
    objective(torch.empty(4, 5, device="meta")).backward()


@pytest.mark.parametrize("persistent", [False, True])
def test_a_wrong_number_of_bits_is_refused(persistent):
    objective = ContrastiveDivergence(random_rbm(), persistent=persistent)
    with pytest.raises(ValueError, match=r"v has 4 bits on its last axis .*n_visible=5"):
        objective(torch.ones(2, 4))


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5)])
def test_what_is_no_batch_is_refused(shape):
    with pytest.raises(ValueError, match=r"the batch must have shape \(N, D\) with N ≥ 1, got \("):
        ContrastiveDivergence(random_rbm())(torch.ones(shape))


def test_compiled_in_one_graph_the_gradient_is_the_same():
    for options in ({}, {"persistent": True, "centring": True, "n_chains": 4}):
        torch.manual_seed(0)
        objective = ContrastiveDivergence(RBM(5, 3), **options)
        compiled = torch.compile(copy.deepcopy(objective), backend="eager", fullgraph=True)
        v = torch.rand(6, 5).round()
        for one in (objective, compiled):
            torch.manual_seed(1)
            one(v).backward()
        ours, theirs = objective.rbm.weight.grad, compiled.rbm.weight.grad
        assert torch.equal(ours, theirs)
        assert ours.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_bits_of_any_type_may_be_trained_on_and_scored(dtype):
    rbm, v = RBM(5, 3), torch.rand(6, 5).round()
    torch.manual_seed(1)
    expected = ContrastiveDivergence(rbm)(v)
    torch.manual_seed(1)
    assert torch.equal(ContrastiveDivergence(rbm)(v.to(dtype)), expected)
    assert torch.equal(rbm.log_likelihood(v.to(dtype)), rbm.log_likelihood(v))
