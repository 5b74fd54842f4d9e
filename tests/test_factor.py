"""Factors against numpy and pgmpy, with zeros that stay exact."""

import math

import numpy as np
import pytest
import torch
from network_oracles import DiscreteFactor

from course_lib.factor import Factor, merge_states, product

STATES = {"a": (0, 1), "b": ("x", "y", "z"), "c": (3, 2, 1, 0), "d": ("only",)}


def pair(scope, seed=0, device="cpu"):
    """A factor with about a third zeros, and the same in pgmpy, whose values are not in logarithms."""
    rng = np.random.default_rng(seed)
    sizes = [len(STATES[v]) for v in scope]
    values = rng.lognormal(sigma=2, size=sizes) * (rng.random(sizes) > 0.3)
    states = {v: STATES[v] for v in scope}
    return Factor(states, torch.as_tensor(values, device=device)), DiscreteFactor(list(scope), sizes, values)


def assert_same(factor, peer):
    """The same values, zeros included, whatever the order of the axes, and never NaN."""
    assert set(factor.variables) == set(peer.variables)
    values = peer.values.transpose([peer.variables.index(v) for v in factor.variables])
    np.testing.assert_allclose(factor.values.cpu(), values, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(factor.log_values.cpu() == -math.inf, values == 0)


# What a factor is.


def test_a_factor_keeps_names_states_and_logarithms(device):
    values = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 0.5]], device=device)
    factor = Factor({"a": np.int64(2), "b": ["x", "y", "z"]}, values)
    assert factor.variables == ("a", "b")
    assert factor.states == {"a": (0, 1), "b": ("x", "y", "z")}
    assert factor.log_values.dtype == torch.float64
    assert factor.log_values.device == values.device
    np.testing.assert_allclose(factor.log_values[1].cpu(), np.log([3, 4, 0.5]), rtol=1e-15)
    assert factor.log_values[0, 0] == -math.inf
    assert factor.values[0, 0] == 0
    assert repr(factor) == "Factor(a: 2, b: 3)"


def test_values_may_be_given_as_logarithms_that_no_float_can_hold_exponentiated():
    factor = Factor({"a": 3}, log_values=[-math.inf, 5000.0, 5001.0])
    assert factor.values.tolist() == [0, math.inf, math.inf]
    weights = factor.normalise().values
    np.testing.assert_allclose(weights, [0, 1 / (1 + math.e), math.e / (1 + math.e)], rtol=1e-12)
    total = factor.marginalise("a").log_values
    assert float(total) == pytest.approx(5001 + math.log1p(math.exp(-1)), rel=1e-15)


def test_a_factor_has_its_own_table_and_no_gradients():
    log_values = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    factor = Factor({"a": 2}, log_values=log_values)
    with torch.no_grad():
        log_values += 1
    assert factor.log_values.tolist() == [0, 0]
    assert not (factor * factor).log_values.requires_grad


def test_a_factor_of_nothing_is_a_number():
    constant = Factor({}, 3.0)
    assert constant.variables == ()
    assert constant.log_value({"a": 1}) == pytest.approx(math.log(3))
    np.testing.assert_allclose((constant * Factor({"a": 2}, [1, 2])).values, [3, 6])


def test_log_value_finds_the_cell_by_the_names_of_states():
    values = np.arange(24.0).reshape(2, 3, 4)
    factor = Factor({v: STATES[v] for v in "abc"}, values)
    assert factor.log_value({"c": 1, "d": "elsewhere", "b": "z", "a": 0}) == math.log(values[0, 2, 2])
    assert factor.log_value({"a": 0, "b": "x", "c": 3}) == -math.inf


# The operations.

SCOPES = [("a",), ("a", "b"), ("c", "a"), ("b", "d", "c"), ("c", "b", "a", "d")]


@pytest.mark.parametrize("one", SCOPES)
@pytest.mark.parametrize("other", SCOPES)
def test_product_agrees_with_pgmpy(one, other, device):
    (f, f_peer), (g, g_peer) = pair(one, 1, device), pair(other, 2, device)
    assert_same(f * g, f_peer * g_peer)
    assert (f * g).variables == tuple(dict.fromkeys((*one, *other)))
    torch.testing.assert_close(f.product(g).log_values, (f * g).log_values, rtol=0, atol=0)


@pytest.mark.parametrize("scope", SCOPES)
def test_sums_and_maxima_agree_with_pgmpy(scope, device):
    for seed, gone in ((0, scope[:1]), (1, scope[-1:]), (2, scope[::2]), (3, scope[1:])):
        factor, peer = pair(scope, seed, device)
        if len(gone) < len(scope):
            assert_same(factor.marginalise(gone), peer.marginalize(list(gone), inplace=False))
            assert_same(factor.maximise(gone), peer.maximize(list(gone), inplace=False))
        else:  # pgmpy has no factors without variables
            assert float(factor.marginalise(gone).values) == pytest.approx(peer.values.sum())
            assert float(factor.maximise(gone).values) == pytest.approx(peer.values.max())
    assert_same(factor.marginalise([]), peer)
    assert_same(factor.maximise(()), peer)


@pytest.mark.parametrize("scope", SCOPES)
def test_reduce_and_normalise_agree_with_pgmpy(scope, device):
    factor, peer = pair(scope, 4, device)
    normalised = peer.normalize(inplace=False)
    assert_same(factor.normalise(), normalised)
    assert float(factor.normalise().values.sum()) == pytest.approx(1)
    for variable in scope:
        for index, state in enumerate(STATES[variable]):
            if len(scope) > 1:
                assert_same(factor.reduce({variable: state}), peer.reduce([(variable, index)], inplace=False))
    everything = factor.reduce({v: STATES[v][-1] for v in scope})
    assert everything.variables == ()
    assert float(everything.values) == peer.values[(-1,) * len(scope)]
    assert_same(factor.reduce({}), peer)


def test_one_name_is_a_name_and_not_its_letters():
    factor = Factor({"ab": 2, "a": 2, "b": 2}, np.arange(8.0).reshape(2, 2, 2))
    assert factor.marginalise("ab").variables == ("a", "b")
    assert factor.maximise("ab").variables == ("a", "b")


def test_operations_leave_their_operands_as_they_are():
    f, g = pair("ab")[0], pair("bc")[0]
    before = f.log_values.clone(), g.log_values.clone()
    f * g, f.marginalise("a"), f.maximise("b"), f.normalise(), f.reduce({"a": 1}), product([f, g], STATES)
    torch.testing.assert_close((f.log_values, g.log_values), before, rtol=0, atol=0)


def test_zeros_everywhere_stay_zeros_and_are_no_distribution(device):
    nothing = Factor({"a": 2, "b": 2}, torch.zeros(2, 2, device=device))
    for result in (
        nothing.marginalise("a"),
        nothing.maximise("b"),
        nothing * nothing,
        nothing.reduce({"a": 0}),
    ):
        assert (result.log_values == -math.inf).all()
    with pytest.raises(ValueError, match=r"Factor\(a: 2, b: 2\) is zero everywhere"):
        nothing.normalise()


def test_product_of_many_factors_over_more_variables_than_they_mention():
    f, g = Factor({"c": 2}, [1, 2]), Factor({"a": 2, "c": 2}, [[1, 0], [3, 4]])
    result = product([f, g], {"a": (0, 1), "b": (0, 1, 2), "c": (0, 1)})
    np.testing.assert_allclose(result.values, np.broadcast_to([[[1, 0]], [[3, 8]]], (2, 3, 2)), rtol=1e-15)
    assert product([], {"a": (0, 1)}).values.tolist() == [1, 1]
    assert product([], {}).log_values == 0


def test_merge_states_keeps_the_order_of_first_appearance():
    merged = merge_states([{"b": (0, 1)}, {}, {"a": ("x",), "b": (0, 1)}])
    assert list(merged.items()) == [("b", (0, 1)), ("a", ("x",))]


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: Factor({"a": 2}), "either values or log_values, and not both"),
        (lambda f: Factor({"a": 2}, [1, 2], log_values=[0, 0]), "either values or log_values, and not both"),
        (
            lambda f: Factor({"a": 2, "b": 3}, np.ones((3, 2))),
            r"values of Factor\(a: 2, b: 3\) must have shape \(2, 3\), got \(3, 2\)",
        ),
        (lambda f: Factor({"a": 2}, log_values=[0.0]), r"log_values of .* shape \(2,\), got \(1,\)"),
        (lambda f: Factor({"a": 2}, 1.0), r"must have shape \(2,\), got \(\)"),
        (
            lambda f: Factor({"a": 2}, [1, -0.5]),
            r"values of Factor\(a: 2\) must be finite numbers ≥ 0, got -0.5",
        ),
        (lambda f: Factor({"a": 2}, [math.nan, 1]), "must be finite numbers ≥ 0, got nan"),
        (lambda f: Factor({"a": 2}, [1, math.inf]), "must be finite numbers ≥ 0, got inf"),
        (
            lambda f: Factor({"a": 2}, log_values=[0, math.nan]),
            r"finite numbers or −∞ \(at most 1e\+300 in size\), got nan",
        ),
        (lambda f: Factor({"a": 2}, log_values=[0, math.inf]), "must be finite numbers or −∞ .* got inf"),
        (lambda f: Factor({"a": 2}, log_values=[0, 1e301]), r"at most 1e\+300 in size\), got 1e\+301"),
        (lambda f: Factor({"a": 2}, log_values=[-1e308, 0]), r"at most 1e\+300 in size\), got -1e\+308"),
        (lambda f: Factor({"a": 2}, [1, 1j]), r"values of .* must be real numbers, got \[1, 1j\]"),
        (lambda f: Factor({"a": 1}, np.array([1 + 0j])), "must be real numbers, got array"),
        (
            lambda f: Factor({"a": 1}, torch.ones(1, dtype=torch.complex64)),
            "must be real numbers, got tensor",
        ),
        (lambda f: Factor({"a": 2}, ["x", "y"]), r"must be real numbers, got \['x', 'y'\]"),
        (lambda f: Factor({"a": 2}, [[1], [1, 2]]), r"must be real numbers, got \[\[1\], \[1, 2\]\]"),
        (lambda f: Factor(["a", "b"], [1, 1]), r"states must map variables to states.* got \['a', 'b'\]"),
        (lambda f: Factor({7: 2}, [1, 1]), "states must have strings for variables, got 7"),
        (lambda f: Factor({"a": {"x", "y"}}, [1, 1]), "'a' must be a list, a tuple or a number, got {"),
        (lambda f: Factor({"a": {"x": 1}.keys()}, [1]), "must be a list, a tuple or a number, got dict_keys"),
        (lambda f: Factor({"a": 2.0}, [1, 1]), "must be a list, a tuple or a number, got 2.0"),
        (lambda f: Factor({"a": torch.arange(2)}, [1, 1]), "must be a list, a tuple or a number, got tensor"),
        (lambda f: Factor({"a": ([], 1)}, [1, 1]), r"'a' must be hashable .* got \(\[\], 1\)"),
        (lambda f: Factor({"a": (math.nan, 1)}, [1, 1]), r"equal to themselves, got \(nan, 1\)"),
        (lambda f: Factor({"a": 0}, []), "'a' needs at least one state and different ones, got 0"),
        (lambda f: Factor({"a": -1}, []), "'a' needs at least one state and different ones, got -1"),
        (lambda f: Factor({"a": ()}, []), r"'a' needs at least one state and different ones, got \(\)"),
        (lambda f: Factor({"a": ("x", "x")}, [1, 1]), r"different ones, got \('x', 'x'\)"),
        (
            lambda f: Factor({"a": "no"}, [1, 1]),
            "states of 'a' must be a list, a tuple or a number, got 'no'",
        ),
        (
            lambda f: f * Factor({"b": 2}, [1, 1]),
            r"'b' has the states \('x', 'y', 'z'\) in one factor and \(0, 1\)",
        ),
        (lambda f: Factor({"b": ("z", "y", "x")}, [1, 1, 1]) * f, "the same ones, in the same order"),
        (lambda f: f.marginalise(["z"]), r"Factor\(a: 2, b: 3\) has no variable 'z'"),
        (lambda f: f.maximise("z"), "has no variable 'z'"),
        (lambda f: f.marginalise(["a", "a"]), r"named once, got \('a', 'a'\)"),
        (lambda f: f.reduce({"z": 0}), "has no variable 'z'"),
        (lambda f: f.reduce({"b": 0}), r"variable 'b' has the states \('x', 'y', 'z'\), got 0"),
        (lambda f: f.reduce(["a"]), r"evidence must map variables to states.* got \['a'\]"),
        (lambda f: f.reduce("a"), "evidence must map variables to states.* got 'a'"),
        (lambda f: f.log_value([0, "x"]), "assignment must map variables to states"),
        (lambda f: f.log_value({"a": 0}), r"every variable of Factor\(a: 2, b: 3\), \['b'\] lack one"),
        (lambda f: f.log_value({"a": 2, "b": "x"}), r"variable 'a' has the states \(0, 1\), got 2"),
    ],
)
def test_bad_input_is_refused_with_the_name_the_value_and_the_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call(pair("ab")[0])


@pytest.mark.parametrize("other", [2, 2.0, None, torch.ones(2, 3)])
def test_a_factor_is_multiplied_by_factors_only(other):
    with pytest.raises(TypeError, match=r"(?s)multiplied by a Factor, got .*: write c as Factor\(\{\}, c\)"):
        pair("ab")[0] * other


@pytest.mark.parametrize("largest", [1e300, -1e300])
def test_sums_of_the_largest_logarithms_stay_finite(largest):
    factor = Factor({"a": 2, "b": 2}, log_values=[[largest, 0], [largest, -math.inf]])
    total = factor
    for _ in range(10):
        total = total * factor
    assert total.log_values[0, 0] == pytest.approx(11 * largest)
    for result in (
        total.marginalise("b"),
        total.maximise("a"),
        total.normalise(),
        total.marginalise("a"),
    ):
        assert not result.log_values.isnan().any()
        assert result.log_values.max() > -math.inf


def test_what_shares_storage_is_what_the_documentation_says():
    factor = pair("ab")[0]
    views = factor.reduce({"a": 1}), factor.reduce({}), factor.marginalise([]), factor.maximise([])
    own = factor.marginalise("a"), factor.maximise("a"), factor.normalise(), factor * Factor({}, 1.0)
    storage = factor.log_values.untyped_storage().data_ptr()
    assert {view.log_values.untyped_storage().data_ptr() for view in views} == {storage}
    assert storage not in {result.log_values.untyped_storage().data_ptr() for result in own}
