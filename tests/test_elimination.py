"""Elimination: its plans against the game played on networkx graphs, its memory against torch's allocator."""

import itertools
import math
import re

import networkx as nx
import numpy as np
import pytest
import torch
from allocations import peak_allocated
from network_oracles import random_case

from course_lib.elimination import eliminate, most_probable_states
from course_lib.elimination_plan import plan_elimination
from course_lib.factor import Factor
from course_lib.markov_network import MarkovNetwork, ising_grid

CHAIN = [("a", "b"), ("b", "c"), ("c", "d")]
SIZES = {"a": 2, "b": 3, "c": 4, "d": 5}


# Plans by hand.


def test_a_chain_eliminated_from_its_end_step_by_step():
    plan = plan_elimination(CHAIN, SIZES, keep=["d"], order=["a", "b", "c"])
    assert [step.scope for step in plan.steps] == [("a", "b"), ("b", "c"), ("c", "d")]
    assert [step.inputs for step in plan.steps] == [(0,), (1, 3), (2, 4)]
    assert [step.cells for step in plan.steps] == [6, 12, 20]
    assert [step.message_cells for step in plan.steps] == [3, 4, 5]
    assert [step.fill_in for step in plan.steps] == [(), (), ()]
    assert (plan.order, plan.keep, plan.n_inputs, plan.result_cells) == (("a", "b", "c"), ("d",), 3, 5)
    assert (plan.width, plan.largest_table) == (1, 20)
    assert plan.operations == 6 * 1 + 12 * 2 + 20 * 2


def test_a_chain_eliminated_from_its_middle_fills_in():
    plan = plan_elimination(CHAIN, SIZES, order=["b", "c", "a", "d"])
    assert [step.scope for step in plan.steps] == [("b", "a", "c"), ("c", "a", "d"), ("a", "d"), ("d",)]
    assert [step.fill_in for step in plan.steps] == [(("a", "c"),), (("a", "d"),), (), ()]
    assert [step.inputs for step in plan.steps] == [(0, 1), (2, 3), (4,), (5,)]
    assert (plan.width, plan.largest_table, plan.result_cells) == (2, 40, 1)


def test_what_is_kept_counts_towards_the_tables():
    plan = plan_elimination([], {"a": 10, "b": 20}, keep=["b", "a"])
    assert (plan.steps, plan.width, plan.largest_table, plan.operations) == ((), 0, 200, 0)
    assert plan.keep == ("b", "a")
    alone = plan_elimination([], {"a": 10})
    assert [(step.scope, step.inputs, step.cells) for step in alone.steps] == [(("a",), (), 10)]
    assert alone.operations == 10


# Plans against the elimination game, played on a networkx graph without any bookkeeping.


def random_scopes(seed):
    rng = np.random.default_rng(seed)
    variables = [f"v{i}" for i in rng.permutation(int(rng.integers(1, 14)))]
    sizes = {v: int(rng.integers(1, 6)) for v in variables}
    scopes = [
        [str(v) for v in rng.permutation(variables)[: rng.integers(0, 4)]] for _ in range(len(variables) + 2)
    ]
    return scopes, sizes, [str(v) for v in rng.permutation(variables)[: rng.integers(0, 3)]]


def new_edges(graph, variable):
    return {frozenset(p) for p in itertools.combinations(graph[variable], 2) if not graph.has_edge(*p)}


def play(scopes, sizes, keep, order):
    """Each variable, its neighbours, its new edges, and the tables that mention it."""
    graph, tables = nx.Graph(), [set(scope) for scope in scopes]
    graph.add_nodes_from(sizes)
    for scope in scopes:
        graph.add_edges_from(itertools.combinations(scope, 2))
    cost = {
        "min_fill": lambda v: len(new_edges(graph, v)),
        "min_degree": graph.degree,
        "min_weight": lambda v: math.prod(sizes[other] for other in graph[v]),
    }
    left, spent = [v for v in sizes if v not in keep], set()
    while left:
        variable = min(left, key=cost[order]) if isinstance(order, str) else order[-len(left)]
        left.remove(variable)
        around, fill = set(graph[variable]), new_edges(graph, variable)
        inputs = {i for i, table in enumerate(tables) if variable in table} - spent
        yield variable, around, fill, inputs
        spent |= inputs
        tables.append(around)
        graph.add_edges_from(tuple(edge) for edge in fill)
        graph.remove_node(variable)


@pytest.mark.parametrize("order", ["min_fill", "min_degree", "min_weight", "explicit"])
@pytest.mark.parametrize("seed", range(40))
def test_plans_agree_with_the_elimination_game(seed, order):
    scopes, sizes, keep = random_scopes(seed)
    if order == "explicit":
        hidden = [v for v in sizes if v not in keep]
        order = [str(v) for v in np.random.default_rng(seed).permutation(hidden)]
    plan = plan_elimination(scopes, sizes, keep, order)
    game = list(play(scopes, sizes, keep, order))
    assert len(plan.steps) == len(game)
    for step, (variable, around, fill, inputs) in zip(plan.steps, game, strict=True):
        assert (step.variable, step.scope[0]) == (variable, variable)
        assert (set(step.scope[1:]), len(step.scope)) == (around, len(around) + 1)
        assert ({frozenset(edge) for edge in step.fill_in}, len(step.fill_in)) == (fill, len(fill))
        assert set(step.inputs) == inputs
        assert step.message_cells == math.prod(sizes[v] for v in around)
        assert step.cells == step.message_cells * sizes[variable]
    assert plan.width == max((len(around) for _, around, _, _ in game), default=0)
    assert plan.operations == sum(
        math.prod(sizes[v] for v in (variable, *around)) * max(1, len(inputs))
        for variable, around, _, inputs in game
    )
    kept_cells = math.prod(sizes[v] for v in keep)
    assert plan.result_cells == kept_cells
    assert plan.largest_table == max([kept_cells, *(step.cells for step in plan.steps)])


def test_the_rules_are_three_different_rules():
    orders = [
        [
            plan_elimination(scopes, sizes, keep, rule).order
            for rule in ("min_fill", "min_degree", "min_weight")
        ]
        for scopes, sizes, keep in map(random_scopes, range(40))
    ]
    for i, j in itertools.combinations(range(3), 2):
        assert sum(of_one[i] != of_one[j] for of_one in orders) > 5


@pytest.mark.parametrize("order", ["min_fill", "min_degree", "min_weight"])
def test_greedy_orders_are_best_on_trees_and_cycles(order):
    """Their treewidths are 1 and 2."""
    for seed in range(5):
        tree = nx.relabel_nodes(nx.random_labeled_tree(30, seed=seed), str)
        assert plan_elimination(tree.edges, dict.fromkeys(tree, 2), order=order).width == 1
    cycle = nx.relabel_nodes(nx.cycle_graph(12), str)
    assert plan_elimination(cycle.edges, dict.fromkeys(cycle, 2), order=order).width == 2


def test_a_bad_order_is_exponentially_worse():
    star = [("hub", f"leaf{i}") for i in range(20)]
    sizes = {"hub": 2} | {f"leaf{i}": 2 for i in range(20)}
    leaves_first = plan_elimination(star, sizes)
    hub_first = plan_elimination(star, sizes, order=["hub", *(f"leaf{i}" for i in range(20))])
    assert (leaves_first.width, leaves_first.largest_table) == (1, 4)
    assert (hub_first.width, hub_first.largest_table) == (20, 2**21)


@pytest.mark.parametrize("n", [4, 7])
def test_a_grid_row_by_row_has_the_width_of_a_row(n):
    network = ising_grid(9, n, 0.4)
    assert network.plan(order=network.variables).width == n
    assert network.plan().width >= n  # the treewidth of the grid, which no order beats


# What the plans are followed to.


@pytest.mark.parametrize("seed", range(40))
def test_eliminate_sums_what_the_plan_does_not_keep(seed):
    case = random_case(seed)
    factors, joint = case.network().factors, case.joint()
    rule = ("min_fill", "min_degree", "min_weight")[seed % 3]
    sizes = {v: len(s) for v, s in case.states.items()}
    plan = plan_elimination([f.variables for f in factors], sizes, case.query, rule)
    before = [factor.log_values.clone() for factor in factors]
    result = eliminate(factors, plan)
    kept = [list(sizes).index(v) for v in case.query]
    summed = joint.sum(tuple(set(range(joint.ndim)) - set(kept)))
    expected = summed.transpose([sorted(kept).index(place) for place in kept])
    assert result.variables == case.query
    np.testing.assert_allclose(result.values, expected, rtol=1e-11, atol=0)
    for factor, table in zip(factors, before, strict=True):
        torch.testing.assert_close(factor.log_values, table, rtol=0, atol=0)


def test_among_equals_the_first_state_is_chosen():
    flat = [Factor({"a": 2, "b": 3}, np.ones((2, 3))), Factor({"b": 3, "c": 2}, np.ones((3, 2)))]
    plan = plan_elimination([f.variables for f in flat], {"a": 2, "b": 3, "c": 2})
    assert most_probable_states(flat, plan) == {"a": 0, "b": 0, "c": 0}


def test_the_most_probable_states_are_those_of_the_whole_and_not_of_each():
    """p(a) favours 0, but the best pair has a = 1."""
    factor = Factor({"a": 2, "b": 3}, [[0.2, 0.2, 0.2], [0.4, 0.0, 0.0]])
    plan = plan_elimination([factor.variables], {"a": 2, "b": 3})
    assert factor.marginalise("b").values.argmax() == 0
    assert most_probable_states([factor], plan) == {"a": 1, "b": 0}


# Memory: what the plan predicts is what torch allocates.


def dense(n, size, seed, cardinality=4):
    rng = np.random.default_rng(seed)
    states = {f"v{i}": cardinality for i in range(n)}
    scopes = [[str(v) for v in rng.permutation(list(states))[:size]] for _ in range(n)]
    return MarkovNetwork(
        [
            Factor(dict.fromkeys(scope, cardinality), rng.lognormal(size=(cardinality,) * size))
            for scope in scopes
        ],
        isolated=states,
    )


def funnel():
    """A plan whose peak is a product: the message that goes into it is larger than those that come out."""
    sizes = {"u": 1, "v": 20, "a": 100, "b": 3}
    scopes = (("u", "v", "a"), ("v", "b"))
    return MarkovNetwork(
        [Factor({x: sizes[x] for x in scope}, np.ones([sizes[x] for x in scope])) for scope in scopes]
    )


GRID = ising_grid(12, 12, 0.4)
ROWS = list(GRID.variables)
PLANS = [
    (GRID, {}, (), "min_fill"),
    (GRID, {}, (), "min_degree"),
    (GRID, {}, (), ROWS),
    (GRID, {}, tuple(ROWS[:14]), "min_fill"),
    (GRID, {ROWS[30]: 1}, tuple(ROWS[::25]), "min_weight"),
    (dense(12, 3, seed=0), {}, (), "min_fill"),
    (dense(10, 4, seed=1), {"v3": 1}, ("v1", "v7", "v4"), "min_fill"),
    (dense(10, 4, seed=2, cardinality=3), {}, ("v1", "v7", "v4"), "min_degree"),
    (dense(9, 4, seed=2), {}, tuple(f"v{i}" for i in range(9)), "min_fill"),
    (dense(9, 2, seed=3), {}, (), [f"v{i}" for i in range(9)]),
    (funnel(), {}, (), list("uvab")),
]


@pytest.mark.parametrize(("network", "evidence", "keep", "order"), PLANS)
def test_the_predicted_peak_of_a_sum_is_what_is_allocated(network, evidence, keep, order):
    predicted = network.plan(evidence, keep, order).peak_bytes
    measured = peak_allocated(lambda: network.marginal(keep, evidence, order))
    assert predicted - 64 <= measured <= predicted


@pytest.mark.parametrize(("network", "evidence", "keep", "order"), PLANS)
def test_the_predicted_peak_of_a_maximum_is_what_is_allocated(network, evidence, keep, order):
    plan = network.plan(evidence, (), order)
    factors = [f.reduce({v: s for v, s in evidence.items() if v in f.states}) for f in network.factors]
    measured = peak_allocated(lambda: most_probable_states(factors, plan))
    assert plan.traceback_bytes - 64 <= measured <= plan.traceback_bytes


def test_peaks_of_sums_and_maxima_differ_where_messages_are_many():
    plan = GRID.plan(order=ROWS)
    assert plan.traceback_bytes > 10 * plan.peak_bytes > 10 * 8 * plan.largest_table


def test_refusals_name_the_prediction_the_limit_and_the_cure():
    plan = GRID.plan(order=ROWS)
    plan.refuse_above(plan.peak_bytes)
    plan.refuse_above(plan.traceback_bytes, traceback=True)
    size = re.escape(f"{plan.peak_bytes / 2**30:.3g} GiB")
    with pytest.raises(MemoryError, match=rf"{size}, .* 8192 cells, and memory_limit is 9.31e-10 GiB: try"):
        plan.refuse_above(1)
    size = re.escape(f"{plan.traceback_bytes / 2**30:.3g} GiB")
    with pytest.raises(MemoryError, match=f"would take {size}"):
        plan.refuse_above(plan.peak_bytes, traceback=True)


def test_what_no_number_of_bytes_holds_is_refused_in_powers_of_ten():
    """A hub with 1,100 leaves that stay: a table of 2^1101 cells, beyond any float."""
    leaves = [f"leaf{i}" for i in range(1100)]
    sizes = dict.fromkeys(["hub", *leaves], 2)
    plan = plan_elimination([("hub", leaf) for leaf in leaves], sizes, keep=leaves, order=["hub"])
    assert (plan.width, plan.largest_table) == (1100, 2**1101)
    cells, gib = round(1101 * math.log10(2)), round(math.log10(plan.peak_bytes // 2**30))
    with pytest.raises(
        MemoryError, match=rf"about 10\^{gib} GiB, .* about 10\^{cells} cells, .* is 1 GiB: try"
    ):
        plan.refuse_above(2**30)
    plan.refuse_above(math.inf)


def test_a_limit_that_is_no_number_is_no_permission():
    plan = plan_elimination(CHAIN, SIZES)
    for traceback in (False, True):
        with pytest.raises(MemoryError, match="memory_limit is nan GiB"):
            plan.refuse_above(math.nan, traceback)


# Bad input.


def chain_factors():
    return [Factor({v: SIZES[v] for v in scope}, np.ones([SIZES[v] for v in scope])) for scope in CHAIN]


@pytest.mark.parametrize("call", [eliminate, most_probable_states])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: [*f, Factor({}, 42.0)], "factors must be the 3 that the plan was made for, got 4"),
        (lambda f: f[:2], "factors must be the 3 that the plan was made for, got 2"),
        (lambda f: f[::-1], r"in order: it has \('a', 'b'\) for Factor\(c: 4, d: 5\)"),
        (lambda f: [f[0].reduce({"a": 0}), *f[1:]], r"it has \('a', 'b'\) for Factor\(b: 3\)"),
        (lambda f: [f[0] * Factor({"z": 2}, [1, 1]), *f[1:]], r"for Factor\(a: 2, b: 3, z: 2\)"),
    ],
)
def test_factors_that_the_plan_was_not_made_for_are_refused(call, change, message):
    plan = plan_elimination(CHAIN, SIZES)
    call(chain_factors(), plan)
    with pytest.raises(ValueError, match=message):
        call(change(chain_factors()), plan)


def test_axes_in_another_order_are_the_same_factor():
    turned = [Factor({"b": 3, "a": 2}, np.ones((3, 2))), *chain_factors()[1:]]
    assert float(eliminate(turned, plan_elimination(CHAIN, SIZES)).values) == pytest.approx(2 * 3 * 4 * 5)


@pytest.mark.parametrize("keep", [(), ("x",)])
@pytest.mark.parametrize("call", [eliminate, most_probable_states])
def test_a_variable_that_no_factor_mentions_has_unknown_states(call, keep):
    plan = plan_elimination(CHAIN, SIZES | {"x": 2}, keep)
    with pytest.raises(ValueError, match="no factor mentions 'x': plan with one that is 1 everywhere"):
        call(chain_factors(), plan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"order": "worst"},
            r"one of \['min_fill', 'min_degree', 'min_weight'\] or a sequence .* got 'worst'",
        ),
        ({"order": ["a", "b", "c"]}, r"each of \['a', 'b', 'c', 'd'\] once, got \['a', 'b', 'c'\]"),
        ({"order": ["a", "b", "c", "d", "a"]}, "once, got"),
        ({"order": ["a", "b", "c", "d"], "keep": ["d"]}, r"each of \['a', 'b', 'c'\] once"),
        ({"order": ["a", "b", "c", 4]}, r"once, got \['a', 'b', 'c', 4\]"),
        ({"keep": ["z"]}, r"cardinalities has no variable 'z', it has \['a', 'b', 'c', 'd'\]"),
        ({"keep": ["a", "a"]}, "may be named once"),
        ({"scopes": [("a", "y")]}, "cardinalities has no variable 'y'"),
        ({"scopes": [["a", 1]], "cardinalities": {}}, r"cardinalities has no variable 'a', it has \[\]"),
        ({"scopes": ["ab"]}, "cardinalities has no variable 'ab'"),
        ({"cardinalities": SIZES | {"c": -4}}, "cardinalities must be whole numbers ≥ 1, 'c' has -4"),
        ({"cardinalities": SIZES | {"c": 0}}, "whole numbers ≥ 1, 'c' has 0"),
        ({"cardinalities": SIZES | {"c": 2.5}}, "whole numbers ≥ 1, 'c' has 2.5"),
        ({"order": None}, "order must be one of .* or a sequence of variables, got None"),
        ({"order": iter("abcd")}, "or a sequence of variables, got <str"),
        ({"order": SIZES.keys()}, "or a sequence of variables, got dict_keys"),
        ({"order": dict.fromkeys("abcd", 1)}, "or a sequence of variables, got {'a': 1"),
        ({"order": set("abcd")}, "or a sequence of variables, got {"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_elimination(**({"scopes": CHAIN, "cardinalities": SIZES} | arguments))
