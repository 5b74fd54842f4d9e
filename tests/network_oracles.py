"""Random Markov networks, and what enumeration, pgmpy and transfer matrices say about them."""

import itertools
import math
import warnings
from typing import NamedTuple

import numpy as np
import torch

from course_lib.factor import Factor
from course_lib.markov_network import MarkovNetwork

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # pgmpy's, about its own modules
    from pgmpy.factors.discrete import DiscreteFactor
    from pgmpy.inference import VariableElimination
    from pgmpy.models import DiscreteMarkovNetwork

STATE_NAMES = ("red", 7, ("a", "pair"), None, "blue")


class Case(NamedTuple):
    """A network as plain numbers: what the library and its oracles are both given."""

    states: dict[str, tuple]
    tables: list[tuple[tuple[str, ...], np.ndarray]]  # scope and values
    evidence: dict[str, object]
    query: tuple[str, ...]
    order: str | list[str]

    def network(self, device="cpu"):
        factors = [
            Factor({v: self.states[v] for v in scope}, torch.as_tensor(values, device=device))
            for scope, values in self.tables
        ]
        return MarkovNetwork(factors, isolated=self.states)

    def joint(self):
        """The unnormalised table over all variables, in the order of `states`."""
        return enumerate_tables(self.states, self.tables)

    def joint_given_evidence(self):
        """The same with axes of length 1 where the evidence decides."""
        joint = self.joint()
        for axis, (v, states) in enumerate(self.states.items()):
            if v in self.evidence:
                joint = joint.take([states.index(self.evidence[v])], axis)
        return joint


def enumerate_tables(states, tables):
    """The product of tables over every combination of states, by numpy's einsum."""
    axis = {v: i for i, v in enumerate(states)}
    operands = []
    for scope, values in [*tables, *(((v,), np.ones(len(s))) for v, s in states.items())]:
        operands += [values, [axis[v] for v in scope]]
    return np.einsum(*operands, list(axis.values()))


def random_case(seed):
    """Up to 7 variables of 1 to 4 states, factors of up to 4; some isolated, some zero, some observed.

    Every tenth network has at most two variables, and perhaps no factor; the others have at least four.
    """
    rng = np.random.default_rng(seed)
    tiny = seed % 10 == 9
    variables = [f"v{i}" for i in rng.permutation(int(rng.integers(1, 3) if tiny else rng.integers(4, 8)))]
    states = {v: tuple(STATE_NAMES[i] for i in rng.permutation(5)[: rng.integers(1, 5)]) for v in variables}
    parts = [variables]
    if seed % 4 == 0 and len(variables) > 3:
        parts = [variables[:2], variables[2:]]
    while True:
        tables = []
        for part in parts:
            for _ in range(rng.integers(0 if tiny else len(part) // 2, len(part) + 2)):
                size = min(int(rng.choice([0, 1, 2, 2, 2, 3, 3, 4])), len(part))
                scope = tuple(str(v) for v in rng.permutation(part)[:size])
                values = rng.lognormal(sigma=1.5, size=[len(states[v]) for v in scope])
                if seed % 3 == 0 and size:
                    values = values * (rng.random(values.shape) > 0.3)
                tables.append((scope, values))
        joint = enumerate_tables(states, tables)
        if joint.sum() > 0:
            break
    possible = np.argwhere(joint > 0)
    witness = dict(zip(states, possible[rng.integers(len(possible))], strict=True))
    n_observed = int(rng.integers(0, len(variables)))
    n_asked = int(rng.integers(1, min(3, len(variables) - n_observed) + 1))
    mixed = [str(v) for v in rng.permutation(variables)]
    evidence = {v: states[v][witness[v]] for v in mixed[:n_observed]}
    query = tuple(mixed[n_observed : n_observed + n_asked])
    hidden = mixed[n_observed + n_asked :]
    order = ["min_fill", "min_degree", "min_weight", hidden][seed % 4]
    return Case(states, tables, evidence, query, order)


class Pgmpy:
    """The same network in pgmpy, where states are their positions."""

    def __init__(self, case):
        self.case = case
        self.size = {v: len(s) for v, s in case.states.items()}
        self.model = DiscreteMarkovNetwork()
        self.model.add_nodes_from(case.states)
        for scope, values in case.tables:
            self.model.add_edges_from(itertools.combinations(scope, 2))
            if scope:
                self.model.add_factors(DiscreteFactor(list(scope), [self.size[v] for v in scope], values))
        self.model.add_factors(*(DiscreteFactor([v], [k], np.ones(k)) for v, k in self.size.items()))
        self.constant = math.prod(float(values) for scope, values in case.tables if not scope)
        self.evidence = {v: case.states[v].index(state) for v, state in case.evidence.items()}

    def partition(self):
        return self.model.get_partition_function() * self.constant

    def log_evidence(self):
        """log p(evidence), read off its joint distribution."""
        if not self.evidence:
            return 0.0
        joint = VariableElimination(self.model).query(list(self.evidence), show_progress=False)
        joint.normalize()
        return math.log(joint.values[tuple(self.evidence[v] for v in joint.variables)])

    def conditional(self):
        """p(query | evidence), axes as asked for."""
        answer = VariableElimination(self.model).query(
            list(self.case.query), evidence=self.evidence, show_progress=False
        )
        answer.normalize()
        return answer.values.transpose([answer.variables.index(v) for v in self.case.query])

    def most_probable(self):
        hidden = [v for v in self.case.states if v not in self.evidence]
        found = VariableElimination(self.model).map_query(hidden, evidence=self.evidence, show_progress=False)
        return {v: self.case.states[v][found[v]] for v in hidden}


def ising_log_partition(n_rows, n_columns, coupling, field=0.0):
    """log Z by transfer matrices: the sum over rows of all 2^n_columns configurations, row after row."""
    spins = np.array(list(itertools.product((-1, 1), repeat=n_columns)))
    within = coupling * (spins[:, 1:] * spins[:, :-1]).sum(1) + field * spins.sum(1)
    between = np.exp(coupling * spins @ spins.T)
    log_scale, weights = 0.0, np.exp(within)
    for _ in range(n_rows - 1):
        weights = np.exp(within) * (between @ weights)
        log_scale += np.log(weights.sum())
        weights /= weights.sum()
    return log_scale + np.log(weights.sum())
