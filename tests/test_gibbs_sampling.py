"""Gibbs sampling against exact distributions, with stated standard errors and controls that must fail.

Every chain contributes its last state only. Chains are independent, so these states are too, whatever the
autocorrelation within a chain.
"""

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch
from network_oracles import random_case
from oracles import standard_errors

from course_lib import gibbs_sampling
from course_lib.factor import Factor
from course_lib.gibbs_sampling import gibbs_sample
from course_lib.markov_network import MarkovNetwork, ising_grid

pytestmark = pytest.mark.usefixtures("double_precision")
CHAINS = 20_000


def generator(device="cpu", seed=0):
    return torch.Generator(device).manual_seed(seed)


def loopy(device="cpu", seed=0):
    """Variables of 2, 3 and 4 states in loops, with factors of one to three of them, and one apart."""
    rng = np.random.default_rng(seed)
    states = {"a": 2, "b": 3, "c": ("x", "y", "z", "w"), "d": 2, "e": 3}
    sizes = {"a": 2, "b": 3, "c": 4, "d": 2, "e": 3}
    factors = []
    for scope in ("ab", "bca", "cd", "da", "b", "db"):
        table = torch.as_tensor(rng.normal(size=[sizes[v] for v in scope]), device=device)
        factors.append(Factor({v: states[v] for v in scope}, log_values=table))
    return MarkovNetwork(factors, isolated={"e": states["e"]})


def errors(samples, joint):
    """The largest error of the frequency of any combination of states, in standard errors.

    Combinations expected fewer than 25 times are counted as one, so that the normal law holds; one that is
    impossible and was nevertheless seen is infinitely wrong.
    """
    p = joint.log_values.exp().flatten().cpu()
    shape = joint.log_values.shape
    cell = torch.as_tensor(np.ravel_multi_index(tuple(samples.cpu().numpy().T), shape))
    frequency = torch.bincount(cell, minlength=len(p)) / len(cell)
    if (frequency[p == 0] > 0).any():
        return math.inf
    rare = p * len(cell) < 25
    p, frequency = (torch.cat([t[~rare], t[rare].sum(0, keepdim=True)]) for t in (p, frequency))
    kept = (p * len(cell) >= 25) & (p < 1)
    z = (frequency - p).abs() / (p * (1 - p) / len(cell)).sqrt()
    return float(z[kept].max()) if kept.any() else 0.0


def exact_samples(joint, n, seed=0):
    """From other random numbers than those of the chains that start here."""
    seed += 1000
    values = joint.values.flatten().cpu()  # the same samples on every device
    cells = torch.multinomial(values, n, replacement=True, generator=generator(seed=seed))
    return torch.stack(torch.unravel_index(cells, joint.log_values.shape), 1)


@pytest.fixture(params=["merged tables", "one table a factor"])
def _tables(request, monkeypatch):
    """Both ways of looking up a variable's factors."""
    monkeypatch.setattr(gibbs_sampling, "MERGED_CELLS", 1024 if request.param == "merged tables" else 0)


# The distribution.


@pytest.mark.usefixtures("_tables")
@pytest.mark.parametrize("seed", range(3))
def test_last_states_have_the_exact_joint_distribution(seed, device):
    network = loopy(device, seed)
    x = gibbs_sample(network, CHAINS, 40, generator=generator(device))
    assert errors(x, network.joint()) < 4
    assert errors(x, loopy(device, seed + 1).joint()) > 4


def test_the_yardstick_sees_a_factor_that_is_slightly_wrong():
    network = loopy()
    nudge = Factor({"a": 2, "b": 3}, log_values=0.15 * torch.eye(2, 3))
    x = gibbs_sample(network, CHAINS, 40, generator=generator())
    assert errors(x, MarkovNetwork([*network.factors, nudge], network.states).joint()) > 4


@pytest.mark.usefixtures("_tables")
def test_one_sweep_leaves_the_exact_distribution_as_it_is(device):
    """Stationarity itself, without waiting for convergence: exact samples in, exact samples out."""
    network = loopy(device)
    joint = network.joint()
    start = exact_samples(joint, CHAINS)
    x = gibbs_sample(network, CHAINS, 1, initial=start.to(device), generator=generator(device))
    assert errors(x, joint) < 4
    assert (x.cpu() != start).any(1).double().mean() > 0.5


def test_redrawing_neighbours_at_once_is_not_stationary(monkeypatch):
    """The negative control: with one colour for all, the very same sweep leaves the distribution."""
    network = loopy()
    joint = network.joint()
    monkeypatch.setattr(nx, "greedy_color", lambda graph: dict.fromkeys(graph, 0))
    x = gibbs_sample(network, CHAINS, 1, initial=exact_samples(joint, CHAINS), generator=generator())
    assert errors(x, joint) > 10


def swept(seed):
    """Exact samples of a random network with zeros and evidence after two sweeps, and their distribution."""
    case = random_case(seed)
    network = case.network()
    hidden = [v for v in network.variables if v not in case.evidence]
    conditional = network.marginal(hidden, case.evidence)
    start = torch.zeros(5000, len(network.variables), dtype=torch.long)
    columns = [network.variables.index(v) for v in hidden]
    start[:, columns] = exact_samples(conditional, 5000, seed)
    x = gibbs_sample(network, 5000, 2, case.evidence, start, generator(seed=seed))
    return network.log_potentials(x), x[:, columns], conditional


@pytest.mark.usefixtures("_tables")
@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_random_networks_with_zeros_and_evidence_are_left_as_they_are(seed):
    log_potentials, x, conditional = swept(seed)
    assert (log_potentials > -math.inf).all()
    assert errors(x, conditional) < 4


def test_redrawing_neighbours_at_once_does_not_leave_random_networks_as_they_are(monkeypatch):
    """The negative control: with one colour for all, a quarter of the same networks is left. In the others
    the evidence and the zeros leave too few neighbours that could be redrawn at once."""
    monkeypatch.setattr(nx, "greedy_color", lambda graph: dict.fromkeys(graph, 0))
    wrong = 0
    for seed in range(0, 60, 3):
        log_potentials, x, conditional = swept(seed)
        wrong += bool((log_potentials == -math.inf).any()) or errors(x, conditional) > 4
    assert wrong >= 4


def test_an_ising_grid_has_its_exact_magnetisation_and_bonds(device):
    network = ising_grid(4, 5, 0.3, 0.1)
    x = gibbs_sample(network, 4000, 60, generator=generator(device) if device.type == "cpu" else None)
    spins = 2.0 * x.cpu() - 1
    column = network.variables.index
    for a, b in (("s[0,0]", "s[0,1]"), ("s[1,2]", "s[2,2]"), ("s[3,4]", "s[0,0]")):
        exact = network.marginal([a, b]).values
        mean = exact[1].sum() - exact[0].sum()
        bond = exact[0, 0] + exact[1, 1] - exact[0, 1] - exact[1, 0]
        assert standard_errors(spins[:, [column(a)]], mean) < 4
        assert standard_errors(spins[:, [column(a)]] * spins[:, [column(b)]], bond) < 4
        assert standard_errors(spins[:, [column(a)]], -mean) > 4


def test_a_cold_grid_does_not_mix():
    """Half of the chains should point each way; from all +1, none has turned round after 100 sweeps."""
    cold = ising_grid(8, 8, 1.0)
    x = gibbs_sample(cold, 500, 100, initial=dict.fromkeys(cold.variables, 1), generator=generator())
    assert ((2.0 * x - 1).mean(1) > 0.5).all()
    warm = ising_grid(8, 8, 0.1)
    x = gibbs_sample(warm, 500, 100, initial=dict.fromkeys(warm.variables, 1), generator=generator())
    assert standard_errors((2.0 * x - 1).mean(1, keepdim=True), 0.0) < 4


@pytest.mark.usefixtures("_tables")
@pytest.mark.parametrize("shift", [-5000.0, 5000.0])
def test_only_differences_of_logarithms_matter(shift):
    """Values that no float holds: e^5000 and e^−5000."""
    network = loopy()
    shifted = [Factor(f.states, log_values=f.log_values + shift) for f in network.factors]
    x = gibbs_sample(MarkovNetwork(shifted, network.states), 200, 3, generator=generator())
    assert torch.equal(x, gibbs_sample(network, 200, 3, generator=generator()))


def test_a_variable_with_many_neighbours_is_sampled_without_their_joint_table():
    """A hub of 60 leaves: the table of all of them would have 2^61 cells."""
    table = torch.tensor([[0.1, -0.1], [-0.05, 0.05]])
    star = MarkovNetwork([Factor({"hub": 2, f"leaf{i}": 2}, log_values=table) for i in range(60)])
    x = gibbs_sample(star, 4000, 20, generator=generator())
    columns = [star.variables.index(v) for v in ("hub", "leaf7", "leaf59")]
    assert errors(x[:, columns], star.marginal(["hub", "leaf7", "leaf59"])) < 4


# Evidence.


@pytest.mark.usefixtures("_tables")
def test_evidence_is_held_and_the_rest_has_the_conditional_distribution(device):
    network, evidence = loopy(device), {"b": 2, "d": 0}
    history = gibbs_sample(network, CHAINS, 30, evidence, generator=generator(device), record=True)
    b, d = network.variables.index("b"), network.variables.index("d")
    assert (history[..., b] == 2).all()
    assert (history[..., d] == 0).all()
    hidden = [v for v in network.variables if v not in evidence]
    x = history[-1][:, [network.variables.index(v) for v in hidden]]
    assert errors(x, network.marginal(hidden, evidence)) < 4
    assert errors(x, network.marginal(hidden)) > 4


def test_evidence_overrules_the_start():
    network = loopy()
    start = torch.zeros(10, 5, dtype=torch.long)
    x = gibbs_sample(network, 10, 3, {"c": "w"}, start, generator())
    assert (x[:, network.variables.index("c")] == 3).all()
    assert (start == 0).all()
    x = gibbs_sample(network, 10, 0, {"c": "w"}, dict.fromkeys("abde", 1), generator())
    assert x.tolist() == [[{"c": 3}.get(v, 1) for v in network.variables]] * 10


def test_with_everything_observed_nothing_moves():
    network = loopy()
    evidence = {"a": 1, "b": 2, "c": "y", "d": 0, "e": 1}
    x = gibbs_sample(network, 3, 5, evidence, generator=generator())
    assert x.tolist() == [[network.indices(evidence)[v] for v in network.variables]] * 3


# Zeros.


def odd_parity(n=4):
    """All states with an odd number of ones: a single flip always leads to probability zero."""
    values = np.zeros((2,) * n)
    for state in itertools.product((0, 1), repeat=n):
        values[state] = sum(state) % 2
    return MarkovNetwork([Factor({f"x{i}": 2 for i in range(n)}, values)])


@pytest.mark.usefixtures("_tables")
def test_states_of_probability_zero_are_neither_started_from_nor_visited():
    """Three colours for the vertices of a square, and no two neighbours alike."""
    different = 1 - torch.eye(3)
    names = "abcd"
    square = MarkovNetwork(
        [Factor({names[i]: 3, names[(i + 1) % 4]: 3}, different) for i in range(4)], isolated={"e": 2}
    )
    history = gibbs_sample(square, CHAINS, 30, generator=generator(), record=True)
    assert (square.log_potentials(history) > -math.inf).all()
    assert errors(history[-1], square.joint()) < 4
    start = gibbs_sample(square, CHAINS, 0, generator=generator())
    assert errors(start, square.joint()) < 4  # uniform on what is possible, as this distribution is


def test_chains_that_zeros_lock_in_stay_where_they_are():
    network = odd_parity()
    start = gibbs_sample(network, 200, 0, generator=generator())
    assert (start.sum(1) % 2 == 1).all()
    assert len(start.unique(dim=0)) == 8
    torch.testing.assert_close(gibbs_sample(network, 200, 20, initial=start, generator=generator()), start)


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("values", [[0, 1, 0], [0, 0, 3], [7, 0, 0], [0, 0.3, 0.1, 0], [1, 6, 6, 0]])
def test_not_even_the_extreme_random_numbers_choose_a_state_of_probability_zero(monkeypatch, u, values):
    network = MarkovNetwork([Factor({"a": len(values)}, values)])
    start = {"a": int(np.argmax(values))}
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.full(shape, u, dtype=torch.float64))
    x = gibbs_sample(network, 1, 1, initial=start)
    assert values[int(x)] > 0


def test_a_needle_in_a_haystack_is_found_from_the_most_probable_state():
    """Twenty variables that must all be equal: one random start in 524,288 is possible."""
    names = [f"x{i}" for i in range(20)]
    network = MarkovNetwork(
        [Factor({a: 2, b: 2}, torch.eye(2)) for a, b in itertools.pairwise(names)]
        + [Factor({"x0": 2}, [1, 2])]
    )
    with pytest.raises(ValueError, match=r"among 100 random starts.*initial=most_probable\(evidence\)\[0\]"):
        gibbs_sample(network, 5, 1, generator=generator())
    x = gibbs_sample(network, 5, 3, initial=network.most_probable()[0], generator=generator())
    assert (x == 1).all()
    evidence = {"x7": 0}
    x = gibbs_sample(network, 5, 3, evidence, network.most_probable(evidence)[0], generator())
    assert (x == 0).all()


# What comes back.


def test_record_returns_every_sweep_and_ends_with_the_result():
    network = loopy()
    history = gibbs_sample(network, 7, 5, generator=generator(), record=True)
    last = gibbs_sample(network, 7, 5, generator=generator())
    assert (history.shape, last.shape) == ((5, 7, 5), (7, 5))
    assert (history.dtype, last.dtype) == (torch.long, torch.long)
    torch.testing.assert_close(history[-1], last)
    assert not torch.equal(history[0], history[1])
    assert gibbs_sample(network, 7, 0, record=True).shape == (0, 7, 5)


def test_a_run_continued_is_the_run_uninterrupted():
    network, random = loopy(), generator()
    half = gibbs_sample(network, 50, 4, generator=random)
    kept = half.clone()
    rest = gibbs_sample(network, 50, 4, initial=half, generator=random)
    torch.testing.assert_close(half, kept)
    torch.testing.assert_close(rest, gibbs_sample(network, 50, 8, generator=generator()))


def test_the_seed_decides():
    network = loopy()
    one, same, other = (gibbs_sample(network, 50, 3, generator=generator(seed=s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(gibbs_sample(network, 50, 3), one)


def test_every_chain_is_its_own():
    """The states of two chains are uncorrelated: |r| of a fair coin over 4,000 sweeps has s.e. 1/√4000."""
    network = MarkovNetwork([], isolated={"a": 2})
    x = 2.0 * gibbs_sample(network, 2, 4000, generator=generator(), record=True)[..., 0] - 1
    assert abs(float((x[:, 0] * x[:, 1]).mean())) < 4 / math.sqrt(4000)
    assert abs(float((x[1:, 0] * x[:-1, 0]).mean())) < 4 / math.sqrt(4000)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (3, 6), (10, 10)])
def test_a_grid_of_any_size_is_swept_in_two_strokes(size, monkeypatch):
    strokes = []
    draw = gibbs_sampling._draw
    monkeypatch.setattr(gibbs_sampling, "_draw", lambda p, g: strokes.append(len(p)) or draw(p, g))
    gibbs_sample(ising_grid(*size, 0.4, 0.1), 3, 1, generator=generator())
    assert sum(strokes) == size[0] * size[1]
    assert len(strokes) == min(2, size[0] * size[1])


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_chains": 0}, "n_chains must be a whole number of at least 1, got 0"),
        ({"n_chains": 2.5}, "n_chains must be a whole number of at least 1, got 2.5"),
        ({"n_sweeps": -1}, "n_sweeps must be a whole number of at least 0, got -1"),
        ({"n_sweeps": "3"}, "n_sweeps must be a whole number of at least 0, got '3'"),
        ({"generator": 0}, "generator must be a torch.Generator or None, got 0"),
        ({"evidence": {"z": 0}}, "no variable 'z'"),
        ({"evidence": {"a": 7}}, r"'a' has the states \(0, 1\), got 7"),
        ({"evidence": ["a"]}, "evidence must map variables to states"),
        (
            {"initial": {"a": 0, "b": 0}},
            r"initial must give a state to every variable, \['e', 'c', 'd'\] lack one",
        ),
        ({"initial": {"a": "red"}}, r"'a' has the states \(0, 1\), got 'red'"),
        ({"initial": {"q": 1}}, "no variable 'q'"),
        ({"initial": torch.zeros(3, 5, dtype=torch.long)}, r"initial must have shape \(2, 5\), got \(3, 5\)"),
        ({"initial": torch.zeros(2, 4, dtype=torch.long)}, r"initial must have shape \(2, 5\), got \(2, 4\)"),
        ({"initial": [0] * 5}, "initial must map variables to states"),
        ({"initial": torch.zeros(2, 5)}, "initial must be int64 .* got torch.float32"),
        (
            {"initial": torch.full((2, 5), 3)},
            "initial must hold positions in the states of its variables, got 3 for 'e', which has 3",
        ),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gibbs_sample(loopy(), **({"n_chains": 2, "n_sweeps": 1} | arguments))


def test_a_start_of_probability_zero_is_refused():
    network = odd_parity()
    start = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]])
    with pytest.raises(ValueError, match="initial must have positive probability, chain 2 has none"):
        gibbs_sample(network, 3, 1, initial=start)
    with pytest.raises(ValueError, match="chain 0 has none"):
        gibbs_sample(network, 3, 1, initial=dict.fromkeys(network.variables, 0))
    with pytest.raises(ValueError, match="chain 1 has none"):  # the evidence overrules what was possible
        gibbs_sample(network, 3, 1, {"x0": 1}, torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 0]]))


def test_impossible_evidence_is_refused():
    network = MarkovNetwork([Factor({"a": 2, "b": 2}, torch.eye(2))])
    evidence = {"a": 0, "b": 1}
    with pytest.raises(ValueError, match=r"If log_partition\(evidence\) is −inf, .* exclude every one"):
        gibbs_sample(network, 3, 1, evidence)
    assert network.log_partition(evidence) == -math.inf


def test_a_factor_that_is_zero_is_not_blamed_on_the_evidence():
    network = MarkovNetwork([Factor({}, 0.0), Factor({"a": 2}, [1, 1])])
    with pytest.raises(ValueError, match="the factors and the evidence exclude every one"):
        gibbs_sample(network, 3, 1)
