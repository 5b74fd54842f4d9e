"""Exact inference against enumeration, pgmpy and transfer matrices; separation against independence."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
import time

import networkx as nx
import numpy as np
import pytest
import torch
from allocations import peak_allocated
from network_oracles import Case, Pgmpy, enumerate_tables, ising_log_partition, random_case

from course_lib import markov_network
from course_lib.factor import Factor
from course_lib.markov_network import MarkovNetwork, ising_grid

SEEDS = range(200)
SEVEN_CLIQUES = [("1", "2"), ("1", "3"), ("3", "4"), ("3", "5", "6"), ("5", "6", "7")]


def log(values):
    with np.errstate(divide="ignore"):
        return np.log(values)


def assert_close(actual, expected, tolerance=1e-10):
    """Absolutely, in nats or in probability; equal infinities are equal, and NaN is equal to nothing."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert not np.isnan(actual).any()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def seven_nodes(seed=0):
    rng = np.random.default_rng(seed)
    tables = [(clique, rng.lognormal(size=(2,) * len(clique))) for clique in SEVEN_CLIQUES]
    return Case({str(i): (0, 1) for i in range(1, 8)}, tables, {}, (), "min_fill")


# Random networks, against enumeration and pgmpy.


@pytest.mark.parametrize("seed", SEEDS)
def test_inference_agrees_with_enumeration_and_pgmpy(seed):
    case = random_case(seed)
    network, joint, peer = case.network(), case.joint(), Pgmpy(case)

    assert network.variables == tuple(case.states)
    assert_close(network.log_partition(order=_complete(case)), log(joint.sum()))
    assert_close(network.log_partition(order=_complete(case)), log(peer.partition()))

    given = case.joint_given_evidence()
    hidden_order = case.order if isinstance(case.order, str) else [*case.order, *case.query]
    assert_close(network.log_partition(case.evidence, hidden_order), log(given.sum()))
    log_evidence = network.log_partition(case.evidence) - network.log_partition()
    assert_close(log_evidence, peer.log_evidence())

    marginal = network.marginal(case.query, case.evidence, case.order)
    assert marginal.variables == case.query
    expected = enumerate_tables(case.states, [(tuple(case.states), joint)])
    for axis, variable in enumerate(case.states):
        if variable in case.evidence:
            expected = expected.take([case.states[variable].index(case.evidence[variable])], axis)
        elif variable not in case.query:
            expected = expected.sum(axis, keepdims=True)
    places = [list(case.states).index(variable) for variable in case.query]
    expected = expected.squeeze(tuple(set(range(expected.ndim)) - set(places)))
    expected = expected.transpose([sorted(places).index(place) for place in places]) / expected.sum()
    assert_close(marginal.values, expected)
    assert_close(marginal.values, peer.conditional())

    best, log_prob = network.most_probable(case.evidence, hidden_order)
    assert list(best) == [variable for variable in case.states if variable not in case.evidence]
    assert_close(log_prob, log(given.max() / given.sum()))
    for states in (best, peer.most_probable()):
        assert_close(
            network.log_potential(states | case.evidence) - network.log_partition(case.evidence), log_prob
        )


def _complete(case):
    """The case's order, for eliminating everything."""
    return case.order if isinstance(case.order, str) else [*case.evidence, *case.order, *case.query]


def test_the_random_networks_are_as_various_as_the_claim():
    cases = [random_case(seed) for seed in SEEDS]
    components = [list(nx.connected_components(case.network().graph)) for case in cases]
    assert sum(len(case.states) >= 4 for case in cases) >= 180
    assert sum(len(case.tables) >= 2 for case in cases) >= 170
    assert np.median([case.joint().size for case in cases]) >= 64
    assert all(case.query for case in cases)
    assert sum(not case.tables for case in cases) >= 3
    assert sum((case.joint() == 0).any() for case in cases) > 30
    assert sum(any(len(c) == 1 for c in of_one) for of_one in components) > 30
    assert sum(sum(len(c) > 1 for c in of_one) > 1 for of_one in components) > 15
    assert sum(len({len(states) for states in case.states.values()}) > 1 for case in cases) > 100
    assert sum(bool(case.evidence) for case in cases) > 100
    assert sum(len(case.query) > 1 for case in cases) > 30
    assert len({case.order for case in cases if isinstance(case.order, str)}) == 3
    assert sum(isinstance(case.order, list) and len(case.order) > 1 for case in cases) > 10


@pytest.mark.parametrize("seed", range(20))
def test_joint_log_prob_and_log_potentials_agree_with_enumeration(seed, device):
    case = random_case(seed)
    network, joint = case.network(device), case.joint()
    assert_close(network.joint().values.cpu(), joint / joint.sum())
    assert network.joint().states == case.states
    assert_close(network.log_partition(case.evidence), log(case.joint_given_evidence().sum()))
    assert network.marginal(case.query, case.evidence).log_values.device == network.device
    everything = torch.tensor(list(np.ndindex(joint.shape)), device=device)
    assert_close(network.log_potentials(everything).cpu(), log(joint).flatten())
    assert_close(network.log_potentials(everything.unflatten(0, (-1, 1))).cpu(), log(joint).reshape(-1, 1))
    for index in list(np.ndindex(joint.shape))[::17]:
        assignment = {v: states[i] for (v, states), i in zip(case.states.items(), index, strict=True)}
        assert_close(network.log_potential(assignment), log(joint[index]))
        assert_close(network.log_prob(assignment), log(joint[index] / joint.sum()))
        assert network.indices(assignment) == dict(zip(case.states, index, strict=True))


def test_thousands_of_factors_neither_overflow_nor_vanish():
    """A chain of 1000 spins whose Z is far outside float64: Z = 2 (2 cosh J)^(n−1), times the scales."""
    n, coupling, shift = 1000, 2.0, 15.0
    table = torch.tensor([[coupling, -coupling], [-coupling, coupling]], dtype=torch.float64) + shift
    network = MarkovNetwork([Factor({f"x{i}": 2, f"x{i + 1}": 2}, log_values=table) for i in range(n - 1)])
    truth = math.log(2) + (n - 1) * (math.log(2 * math.cosh(coupling)) + shift)
    assert truth > 20 * math.log(sys.float_info.max)
    assert network.log_partition() == pytest.approx(truth, rel=1e-13)
    end, correlation = f"x{n - 1}", math.tanh(coupling) ** (n - 1)
    assert_close(network.marginal(end, {"x0": 1}).values, [(1 - correlation) / 2, (1 + correlation) / 2])
    states, log_prob = network.most_probable({"x0": 1})
    assert set(states.values()) == {1}
    assert log_prob == pytest.approx(-(n - 1) * math.log1p(math.exp(-2 * coupling)), abs=1e-8)


# The graph.


def test_the_seven_node_network_has_the_cliques_it_is_made_of():
    network = seven_nodes().network()
    assert network.maximal_cliques() == SEVEN_CLIQUES
    assert repr(network) == "MarkovNetwork(7 variables, 5 factors, 8 edges)"


@pytest.mark.parametrize("seed", range(30))
def test_maximal_cliques_agree_with_trying_every_subset(seed):
    case = random_case(seed)
    together = {pair for scope, _ in case.tables for pair in itertools.permutations(scope, 2)}

    def complete(subset):
        return all(pair in together for pair in itertools.permutations(subset, 2))

    subsets = [s for k in range(1, 8) for s in itertools.combinations(case.states, k) if complete(s)]
    maximal = [s for s in subsets if not any(set(s) < set(other) for other in subsets)]
    cliques = case.network().maximal_cliques()
    assert sorted(cliques) == sorted(maximal)
    position = list(case.states).index
    assert cliques == sorted(cliques, key=lambda clique: [position(v) for v in clique])


def dependence(joint, x, y, given):
    """The largest |p(x, y | given) − p(x | given) p(y | given)| over all states of all three."""
    others = tuple(axis for axis in range(joint.ndim) if axis not in (*x, *y, *given))
    p = joint.sum(others, keepdims=True)
    p = p / p.sum((*x, *y), keepdims=True)
    return np.abs(p - p.sum(y, keepdims=True) * p.sum(x, keepdims=True)).max()


def test_separation_in_the_seven_node_network_is_independence_to_1e_12():
    """All disjoint x, y and given, in both directions: random positive factors hide no path."""
    case = seven_nodes()
    network, joint = case.network(), case.joint()
    seen = {True: 0, False: 0}
    for owner in itertools.product("xyg-", repeat=7):
        x, y, given = (tuple(i for i in range(7) if owner[i] == letter) for letter in "xyg")
        if not x or not y or x > y:
            continue
        separated = network.separated(*([str(i + 1) for i in chosen] for chosen in (x, y, given)))
        measured = dependence(joint, x, y, given)
        assert measured < 1e-12 if separated else measured > 1e-6
        seen[separated] += 1
    assert min(seen.values()) > 100


def test_separation_takes_single_names_and_nothing_given():
    network = seven_nodes().network()
    assert network.separated("2", "7", "3")
    assert not network.separated("2", "7")
    assert not network.separated(["2", "4"], "7", "1")
    weather = MarkovNetwork([Factor({"rain": 2, "wet": 2}, torch.ones(2, 2))], {"wind": 3})
    assert weather.separated("wind", ["rain", "wet"])
    assert not weather.separated("rain", "wet", "wind")


def test_isolated_variables_are_uniform_and_may_also_be_mentioned():
    network = MarkovNetwork([Factor({"a": 2}, [1, 3])], isolated={"c": ("x", "y", "z"), "a": 2})
    assert network.states == {"c": ("x", "y", "z"), "a": (0, 1)}
    assert_close(network.log_partition(), math.log(12))
    assert_close(network.marginal(["a", "c"]).values, np.outer([0.25, 0.75], np.ones(3) / 3))
    only = MarkovNetwork([], isolated={"a": 4})
    assert_close(only.log_partition(), math.log(4))
    assert_close(only.log_prob({"a": 2}), -math.log(4))


# The Ising grid.


def test_ising_grid_has_the_energy_of_its_definition():
    network = ising_grid(2, 3, coupling=0.7, field=-0.3)
    assert network.variables == tuple(f"s[{i},{j}]" for i in range(2) for j in range(3))
    assert set(network.states.values()) == {(-1, 1)}
    for spins in itertools.product((-1, 1), repeat=6):
        s = np.array(spins).reshape(2, 3)
        energy = 0.7 * ((s[1:] * s[:-1]).sum() + (s[:, 1:] * s[:, :-1]).sum()) - 0.3 * s.sum()
        assert_close(network.log_potential(dict(zip(network.variables, spins, strict=True))), energy)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 3), (3, 5)])
@pytest.mark.parametrize(("coupling", "field"), [(0.0, 0.0), (0.4, 0.0), (-0.9, 0.3), (3.0, 0.1)])
def test_ising_log_partition_agrees_with_transfer_matrices(size, coupling, field):
    network = ising_grid(*size, coupling, field)
    assert_close(network.log_partition(), ising_log_partition(*size, coupling, field), 1e-9)


@pytest.mark.parametrize("order", ["min_fill", "min_degree", "min_weight"])
def test_a_ten_by_ten_grid_is_exact_within_a_second_and_a_gibibyte(order):
    network = ising_grid(10, 10, coupling=0.44, field=0.05)
    truth = ising_log_partition(10, 10, 0.44, 0.05)
    start = time.perf_counter()
    log_partition = network.log_partition(order=order)
    assert time.perf_counter() - start < 1
    assert log_partition == pytest.approx(truth, rel=1e-12)
    assert network.plan(order=order).peak_bytes < 2**30
    assert peak_allocated(lambda: network.log_partition(order=order)) < 2**30
    spin = network.marginal("s[4,5]", order=order).values
    step = 1e-3  # the mean spin is the derivative of log Z by the field there: by central difference

    def with_extra_field(h):
        extra = Factor({"s[4,5]": (-1, 1)}, log_values=[-h, h])
        return MarkovNetwork([*network.factors, extra], isolated=network.states).log_partition()

    slope = (with_extra_field(step) - with_extra_field(-step)) / (2 * step)
    assert float(spin[1] - spin[0]) == pytest.approx(slope, abs=1e-6)


# Memory.


def test_an_elimination_beyond_the_limit_is_refused_before_anything_is_allocated(monkeypatch):
    network = ising_grid(30, 30, 0.4)
    plan = network.plan()
    assert plan.peak_bytes > 2**40
    monkeypatch.setattr(markov_network, "eliminate", lambda *_: pytest.fail("the elimination began"))
    monkeypatch.setattr(markov_network, "most_probable_states", lambda *_: pytest.fail("it began"))
    predicted = re.escape(f"would take {plan.peak_bytes / 2**30:.3g} GiB")
    wanted = (
        rf"{predicted}, the largest of them with {plan.largest_table} cells, and memory_limit is 1 GiB: try"
    )

    def refused(call, message):
        def run():
            with pytest.raises(MemoryError, match=message):
                call()

        assert peak_allocated(run) < 10_000

    refused(network.log_partition, wanted)
    refused(lambda: network.log_prob(dict.fromkeys(network.variables, 1)), wanted)
    refused(lambda: network.marginal("s[0,0]"), "would take .* GiB")
    refused(network.most_probable, "would take .* GiB")
    refused(network.joint, "GiB: ask for fewer variables, raise memory_limit, or sample")
    refused(lambda: ising_grid(6, 6, 0.4).marginal(ising_grid(6, 6, 0.4).variables), "would take .* GiB")


def test_tables_beyond_all_numbers_are_refused_like_others():
    bits = MarkovNetwork([], isolated={f"bit{i}": 2 for i in range(15_000)})
    with pytest.raises(MemoryError, match=r"take about 10\^4508 GiB, .* about 10\^4515 cells"):
        bits.joint()
    with pytest.raises(MemoryError, match=r"about 10\^482 cells"):
        ising_grid(40, 40, 0.4).joint()


def test_log_prob_takes_the_order_and_the_limit_that_its_refusal_names():
    network = ising_grid(1, 30, 0.4, 0.1)
    everywhere, bad = dict.fromkeys(network.variables, 1), sorted(network.variables, key=lambda v: v[-2])
    needed = network.plan().peak_bytes
    assert network.plan(order=bad).peak_bytes > needed
    assert_close(network.log_prob(everywhere, bad), network.log_prob(everywhere, memory_limit=needed))
    for order, limit in (("min_fill", needed - 1), (bad, needed), ("min_fill", math.nan)):
        with pytest.raises(MemoryError, match=r"try another order.* raise memory_limit"):
            network.log_prob(everywhere, order, limit)


@pytest.mark.parametrize("seed", [1, 5, 9, 13])
def test_the_limit_is_the_predicted_peak_to_the_byte(seed):
    case = random_case(seed)
    network = case.network()
    plan, whole = network.plan(case.evidence, case.query), network.plan(case.evidence)
    calls = [
        (plan.peak_bytes, lambda limit: network.marginal(case.query, case.evidence, memory_limit=limit)),
        (whole.peak_bytes, lambda limit: network.log_partition(case.evidence, memory_limit=limit)),
        (
            max(whole.peak_bytes, whole.traceback_bytes),
            lambda limit: network.most_probable(case.evidence, memory_limit=limit),
        ),
        (network.plan(keep=network.variables).peak_bytes, lambda limit: network.joint(limit)),
    ]
    for needed, call in calls:
        call(needed)
        with pytest.raises(MemoryError, match="memory_limit is"):
            call(needed - 1)


def test_the_most_probable_states_need_their_messages_and_the_limit_counts_them():
    network = ising_grid(8, 8, 0.4)
    plan = network.plan(order=network.variables)
    assert plan.traceback_bytes > 2 * plan.peak_bytes
    network.most_probable(order=network.variables, memory_limit=plan.traceback_bytes)
    with pytest.raises(MemoryError, match="memory_limit is"):
        network.most_probable(order=network.variables, memory_limit=plan.traceback_bytes - 1)


# Zeros.


def exclusive():
    """a = b = c by hard constraints, so that a ≠ c is impossible."""
    same = torch.eye(2)
    return MarkovNetwork([Factor({"a": 2, "b": 2}, same), Factor({"b": 2, "c": 2}, same)])


def test_impossible_evidence_has_log_partition_minus_infinity_and_nothing_to_condition_on():
    network, evidence = exclusive(), {"a": 0, "c": 1}
    assert network.log_partition(evidence) == -math.inf
    assert network.log_prob({"a": 0, "b": 0, "c": 1}) == -math.inf
    for call in (lambda: network.marginal("b", evidence), lambda: network.most_probable(evidence)):
        with pytest.raises(ValueError, match=r"evidence \{'a': 0, 'c': 1\} has probability zero"):
            call()


def test_factors_that_exclude_each_other_leave_no_distribution():
    network = MarkovNetwork([Factor({"a": 2}, [0, 1]), Factor({"a": 2}, [1, 0])])
    assert network.log_partition() == -math.inf
    calls = (network.most_probable, lambda: network.marginal("a"), lambda: network.log_prob({"a": 0}))
    for call in calls:
        with pytest.raises(ValueError, match="every assignment has probability zero"):
            call()
    with pytest.raises(ValueError, match="zero everywhere"):
        network.joint()


def test_hammersley_clifford_needs_positivity():
    """Moussouris's square: eight of sixteen states, uniformly. Separation implies independence, and yet there
    are no edge factors: they would be positive wherever an edge's marginal is, which is everywhere."""
    support = [(0, 0, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0), (1, 1, 1, 0)]
    support += [tuple(1 - bit for bit in state) for state in support]
    joint = np.zeros((2,) * 4)
    joint[tuple(zip(*support, strict=True))] = 1 / 8
    square = MarkovNetwork([Factor(dict.fromkeys("abcd", 2), joint)])
    for x, y, given in ((0, 2, (1, 3)), (1, 3, (0, 2))):
        for states in itertools.product((0, 1), repeat=2):
            evidence = {"abcd"[i]: state for i, state in zip(given, states, strict=True)}
            pair = square.marginal(("abcd"[x], "abcd"[y]), evidence).values
            assert_close(pair, pair.sum(1, keepdim=True) * pair.sum(0))
    for edge in ("ab", "bc", "cd", "da"):
        assert square.marginal(tuple(edge)).values.min() > 0.1
    assert square.log_prob({"a": 0, "b": 1, "c": 0, "d": 1}) == -math.inf


# Bad input.


def two_factors(**other):
    return [Factor({"a": 2, "b": 3}, torch.ones(2, 3)), Factor(**other)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: MarkovNetwork([]), "at least one factor, or one isolated variable"),
        (
            lambda n: MarkovNetwork(two_factors(states={"b": 2}, values=[1, 1])),
            r"'b' has the states \(0, 1, 2\) in one factor and \(0, 1\) in another",
        ),
        (
            lambda n: MarkovNetwork(two_factors(states={"b": ("x", "y", "z")}, values=[1, 1, 1])),
            r"'b' has the states \(0, 1, 2\) in one factor and \('x', 'y', 'z'\) in another",
        ),
        (
            lambda n: MarkovNetwork(two_factors(states={"b": (2, 1, 0)}, values=[1, 1, 1])),
            "in the same order, everywhere",
        ),
        (
            lambda n: MarkovNetwork(two_factors(states={"c": 2}, values=[1, 1]), {"a": 3}),
            r"'a' has the states \(0, 1, 2\) in one factor and \(0, 1\) in another",
        ),
        (lambda n: MarkovNetwork([torch.ones(2)]), "factors must be of the type Factor, got tensor"),
        (lambda n: MarkovNetwork([], ["a"]), r"isolated must map variables to states.* got \['a'\]"),
        (lambda n: MarkovNetwork([], {"a": {0, 1}}), "isolated of 'a' must be a list, a tuple or a number"),
        (lambda n: MarkovNetwork([], {7: 2}), "isolated must have strings for variables, got 7"),
        (lambda n: n.plan(order=None), "order must be one of .* or a sequence of variables, got None"),
        (lambda n: n.log_partition({"a": [1]}), r"'a' has the states \(0, 1\), got \[1\]"),
        (lambda n: n.log_partition({"z": 0}), r"no variable 'z', it has \['a', 'b', 'c'\]"),
        (lambda n: n.log_partition({"a": 2}), r"'a' has the states \(0, 1\), got 2"),
        (lambda n: n.log_partition(["a"]), r"evidence must map variables to states.* got \['a'\]"),
        (lambda n: n.marginal("z"), r"the network has no variable 'z', it has \['a', 'b', 'c'\]"),
        (lambda n: n.marginal(["a", "a"]), r"named once, got \('a', 'a'\)"),
        (lambda n: n.marginal(["a", "b"], {"a": 0}), r"\['a'\] are asked for, and also given as evidence"),
        (lambda n: n.marginal("a", {"b": "one"}), r"'b' has the states \(0, 1\), got 'one'"),
        (lambda n: n.most_probable({"a": -1}), r"'a' has the states \(0, 1\), got -1"),
        (lambda n: n.plan(order="best"), r"order must be one of \['min_fill', 'min_degree', 'min_weight'\]"),
        (
            lambda n: n.plan(order=["a", "b"]),
            r"order must name each of \['a', 'b', 'c'\] once, got \['a', 'b'\]",
        ),
        (lambda n: n.plan(order=["a", "b", "b", "c"]), "order must name each of"),
        (lambda n: n.marginal("c", order=["a", "b", "c"]), r"order must name each of \['a', 'b'\] once"),
        (lambda n: n.log_partition({"c": 1}, order=["a", 7]), r"order must name each of \['a', 'b'\] once"),
        (lambda n: n.log_potential({"a": 0, "b": 1}), r"a state to every variable, \['c'\] lack one"),
        (lambda n: n.log_prob({"a": 0, "b": 1, "c": 1, "d": 1}), "no variable 'd'"),
        (lambda n: n.log_prob({"a": 0, "b": 1, "c": "on"}), r"'c' has the states \(0, 1\), got 'on'"),
        (lambda n: n.separated("a", ["b", "a"]), r"must not overlap, \['a'\] are in two of them"),
        (lambda n: n.separated("a", "b", "b"), r"must not overlap, \['b'\] are in two of them"),
        (lambda n: n.separated(["a", "c"], "b", "c"), r"must not overlap, \['c'\] are in two of them"),
        (lambda n: n.separated("a", "z"), "no variable 'z'"),
        (lambda n: n.separated("a", "b", "z"), "no variable 'z'"),
        (
            lambda n: n.log_potentials(torch.zeros(5, 2, dtype=torch.long)),
            r"shape \(\*batch, 3\), got .*\(5, 2\)",
        ),
        (lambda n: n.log_potentials(torch.zeros(3)), "x must be int64 .* got torch.float32"),
        (lambda n: n.log_potentials(torch.tensor([[0, 0, 0], [0, -1, 0]])), "got -1 for 'b', which has 2"),
        (lambda n: n.log_potentials(torch.tensor([0, 0, 2])), "got 2 for 'c', which has 2"),
        (lambda n: ising_grid(0, 3, 1.0), "n_rows and n_columns must be at least 1, got 0 and 3"),
        (lambda n: ising_grid(3, -1, 1.0), "n_rows and n_columns must be at least 1, got 3 and -1"),
        (lambda n: ising_grid(2, 2, math.nan), "log_values of .* must be finite numbers or −∞ .* got nan"),
        (lambda n: ising_grid(2, 2, 1.0, math.inf), "must be finite numbers or −∞ .* got inf"),
    ],
)
def test_bad_input_is_refused_with_the_name_the_value_and_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call(exclusive())


# Reproducibility.


def test_results_do_not_depend_on_the_hashes_of_strings():
    script = """
import json, torch
from course_lib.gibbs_sampling import gibbs_sample
from course_lib.markov_network import ising_grid
from course_lib.network_layout import network_layout
network = ising_grid(3, 4, 0.5)
x = gibbs_sample(network, 3, 4, generator=torch.Generator().manual_seed(0))
print(json.dumps([
    [network.plan(order=order).order for order in ("min_fill", "min_degree", "min_weight")],
    network.maximal_cliques(), network.most_probable()[0], x.tolist(), network_layout(network),
]))
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(json.loads(outputs[0])) == 5
