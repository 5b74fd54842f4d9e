r"""Markov networks: products of factors as distributions, with exact inference by variable elimination."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations

import networkx as nx
import torch
from torch import Tensor

from course_lib.elimination import eliminate, most_probable_states
from course_lib.elimination_plan import EliminationPlan, plan_elimination
from course_lib.factor import (
    Assignment,
    Factor,
    States,
    check_mapping,
    merge_states,
    named_states,
    names,
    product,
    state_index,
)

__all__ = ["MarkovNetwork", "ising_grid"]

GIBIBYTE = 2**30

Order = str | Sequence[str]


class MarkovNetwork:
    r"""A Gibbs distribution over named discrete variables.

    .. math:: p(x) = \frac1Z \prod_i \phi_i(x_{S_i}), \qquad Z = \sum_x \prod_i \phi_i(x_{S_i})

    A zero is allowed in any factor, and exact. Where a method takes `evidence`, a state for each observed
    variable, it answers for the rest given that evidence. It first plans the elimination, in the given
    `order` (see `plan_elimination`), and raises `MemoryError` when the tables would take more than
    `memory_limit` bytes.

    Args:
        factors: any number of factors; shared variables must have the same states in the same order.
        isolated: variables that no factor needs to mention, with their states; they come first in order.

    Source:
        Koller and Friedman (2009), chapters 4 and 9.
    """

    factors: tuple[Factor, ...]
    """the factors, with one that is 1 everywhere for each variable that no other mentions"""
    states: dict[str, tuple[Hashable, ...]]
    """the states of each variable"""
    graph: nx.Graph
    """the variables, joined where a factor mentions both"""

    def __init__(self, factors: Iterable[Factor], isolated: States | None = None) -> None:
        given = tuple(factors)
        if wrong := [factor for factor in given if not isinstance(factor, Factor)]:
            raise ValueError(f"factors must be of the type Factor, got {wrong[0]!r}")
        if not given and not isolated:
            raise ValueError("a network needs at least one factor, or one isolated variable")
        device = given[0].log_values.device if given else None
        extra = [
            Factor.from_table({variable: s}, torch.zeros(len(s), dtype=torch.float64, device=device))
            for variable, s in named_states(isolated or {}, "isolated").items()
        ]
        self.states = merge_states(factor.states for factor in (*extra, *given))
        mentioned = {variable for factor in given for variable in factor.states}
        self.factors = given + tuple(factor for factor in extra if not mentioned & set(factor.states))
        self.graph = nx.Graph()
        self.graph.add_nodes_from(self.states)
        for factor in given:
            self.graph.add_edges_from(combinations(factor.variables, 2))

    @property
    def variables(self) -> tuple[str, ...]:
        """All variables, in order of first appearance."""
        return tuple(self.states)

    @property
    def device(self) -> torch.device:
        """Where the factors' tables are."""
        return self.factors[0].log_values.device

    def __repr__(self) -> str:
        edges = self.graph.number_of_edges()
        return f"MarkovNetwork({len(self.states)} variables, {len(self.factors)} factors, {edges} edges)"

    def indices(self, assignment: Assignment, name: str = "assignment") -> dict[str, int]:
        """The position of each given state in `states`; `name` is what an error calls the assignment."""
        check_mapping(assignment, name)
        self._check_known(assignment)
        return {variable: state_index(self.states, variable, state) for variable, state in assignment.items()}

    def maximal_cliques(self) -> list[tuple[str, ...]]:
        """The largest sets of variables that are all joined to one another, in the order of `variables`."""
        position = {variable: i for i, variable in enumerate(self.states)}
        cliques = (tuple(sorted(clique, key=position.__getitem__)) for clique in nx.find_cliques(self.graph))
        return sorted(cliques, key=lambda clique: [position[variable] for variable in clique])

    def log_potential(self, assignment: Assignment) -> float:
        r""":math:`\sum_i \log \phi_i(x_{S_i})` of a state for every variable: log p(x) + log Z."""
        self.indices(assignment)
        if missing := [variable for variable in self.states if variable not in assignment]:
            raise ValueError(f"assignment must give a state to every variable, {missing} lack one")
        return sum(factor.log_value(assignment) for factor in self.factors)

    def log_potentials(self, x: Tensor, name: str = "x") -> Tensor:
        r"""The same for many assignments at once, as `gibbs_sample` returns them.

        Args:
            x: int64 of shape (\*batch, V), positions in `states`, with a column for each of `variables`.
            name: what an error calls x.

        Returns:
            shape (\*batch,), in nats.
        """
        sizes = torch.tensor([len(s) for s in self.states.values()], device=x.device)
        if x.dtype != torch.long or x.shape[-1:] != sizes.shape:
            raise ValueError(
                f"{name} must be int64 of shape (*batch, {len(sizes)}), got {x.dtype} of {tuple(x.shape)}"
            )
        if (wrong := (x < 0) | (x >= sizes)).any():
            variable = self.variables[int(wrong.nonzero()[0, -1])]
            raise ValueError(
                f"{name} must hold positions in the states of its variables, got {int(x[wrong][0])} "
                f"for {variable!r}, which has {len(self.states[variable])}"
            )
        column = dict(zip(self.states, x.unbind(-1), strict=True))
        total = torch.zeros(x.shape[:-1], dtype=torch.float64, device=x.device)
        for factor in self.factors:
            total += factor.log_values[tuple(column[variable] for variable in factor.states)]
        return total

    def log_prob(
        self, assignment: Assignment, order: Order = "min_fill", memory_limit: float = GIBIBYTE
    ) -> float:
        """log p(x) of a state for every variable, in nats; −∞ where a factor is zero."""
        log_potential = self.log_potential(assignment)
        return log_potential - float(self._eliminate((), {}, order, memory_limit, positive=True).log_values)

    def joint(self, memory_limit: float = GIBIBYTE) -> Factor:
        """p(x) as one table over all variables, by enumeration: for small networks, to check the rest."""
        plan_elimination([], self._cardinalities({}), keep=self.states).refuse_above(memory_limit)
        return product(self.factors, self.states).normalise()

    def plan(
        self, evidence: Assignment | None = None, keep: Iterable[str] = (), order: Order = "min_fill"
    ) -> EliminationPlan:
        """What it will cost to sum out everything but `keep` and the observed variables."""
        observed, kept = self.indices(evidence or {}, "evidence"), names(keep)
        self._check_known(kept)
        if both := [variable for variable in kept if variable in observed]:
            raise ValueError(f"{both} are asked for, and also given as evidence")
        scopes = ([v for v in factor.variables if v not in observed] for factor in self.factors)
        return plan_elimination(scopes, self._cardinalities(observed), kept, order)

    def log_partition(
        self, evidence: Assignment | None = None, order: Order = "min_fill", memory_limit: float = GIBIBYTE
    ) -> float:
        r""":math:`\log Z(e) = \log \sum_{x_{V \setminus E}} \prod_i \phi_i(x_{S_i}, e)`, in nats.

        Without evidence it is log Z. With it, log p(e) = log Z(e) − log Z; −∞ if the evidence is impossible.
        """
        return float(self._eliminate((), evidence, order, memory_limit, positive=False).log_values)

    def marginal(
        self,
        variables: Iterable[str],
        evidence: Assignment | None = None,
        order: Order = "min_fill",
        memory_limit: float = GIBIBYTE,
    ) -> Factor:
        """p(variables | evidence), a normalised factor with its axes in the order asked for."""
        return self._eliminate(names(variables), evidence, order, memory_limit, positive=True).normalise()

    def most_probable(
        self, evidence: Assignment | None = None, order: Order = "min_fill", memory_limit: float = GIBIBYTE
    ) -> tuple[dict[str, Hashable], float]:
        """The most probable states of all unobserved variables together, and their log p(x | evidence).

        This need not be the most probable state of each by itself. Which of equals it is depends on `order`.
        """
        plan = self.plan(evidence, (), order)
        observed = dict(evidence or {})
        plan.refuse_above(memory_limit, traceback=True)
        log_total = float(self._eliminate((), observed, order, memory_limit, positive=True).log_values)
        best = most_probable_states(self._reduced(observed), plan)
        states = {variable: best[variable] for variable in self.states if variable in best}
        return states, self.log_potential(states | observed) - log_total

    def separated(self, x: Iterable[str], y: Iterable[str], given: Iterable[str] = ()) -> bool:
        """Whether every path from x to y passes through `given`; then x and y are independent given it."""
        sets = names(x), names(y), names(given)
        for chosen in sets:
            self._check_known(chosen)
        for one, other in combinations(sets, 2):
            if both := [variable for variable in one if variable in other]:
                raise ValueError(f"x, y and given must not overlap, {both} are in two of them")
        rest = self.graph.subgraph(set(self.states) - set(sets[2]))
        return not any(nx.has_path(rest, a, b) for a in sets[0] for b in sets[1])

    def _eliminate(
        self, keep: Sequence[str], evidence: Assignment | None, order: Order, limit: float, positive: bool
    ) -> Factor:
        """The sum over everything but `keep` and the evidence; `positive` demands that it is not all zero."""
        plan = self.plan(evidence, keep, order)
        plan.refuse_above(limit)
        table = eliminate(self._reduced(evidence or {}), plan)
        if positive and table.log_values.max() == -torch.inf:
            what = f"the evidence {dict(evidence)} has" if evidence else "every assignment has"
            raise ValueError(
                f"{what} probability zero: the factors are never all positive, there is no distribution"
            )
        return table

    def _reduced(self, evidence: Assignment) -> list[Factor]:
        return [f.reduce({v: evidence[v] for v in f.variables if v in evidence}) for f in self.factors]

    def _cardinalities(self, evidence: Assignment) -> dict[str, int]:
        return {variable: len(s) for variable, s in self.states.items() if variable not in evidence}

    def _check_known(self, variables: Iterable[str]) -> None:
        if unknown := [variable for variable in variables if variable not in self.states]:
            raise ValueError(f"the network has no variable {unknown[0]!r}, it has {list(self.states)}")


def ising_grid(n_rows: int, n_columns: int, coupling: float, field: float = 0.0) -> MarkovNetwork:
    r"""Spins :math:`s_i \in \{-1, +1\}` on a grid, each joined to those above, below, left and right.

    .. math:: p(s) = \frac1Z \exp\Bigl(J \sum_{i \sim j} s_i s_j + h \sum_i s_i\Bigr)

    Spin (row, column) is the variable "s[row,column]"; they are ordered row by row.

    Args:
        n_rows, n_columns: the size of the grid, at least 1 each.
        coupling: J; positive values make neighbours agree. The inverse temperature is a factor of J and h.
        field: h; positive values favour +1.
    """
    if min(n_rows, n_columns) < 1:
        raise ValueError(f"n_rows and n_columns must be at least 1, got {n_rows} and {n_columns}")
    spin = (-1, 1)
    site = {(i, j): f"s[{i},{j}]" for i in range(n_rows) for j in range(n_columns)}
    bonds = [((i, j), end) for i, j in site for end in ((i, j + 1), (i + 1, j)) if end in site]
    agree = coupling * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    align = field * torch.tensor(spin, dtype=torch.float64)
    factors = [Factor({site[a]: spin, site[b]: spin}, log_values=agree) for a, b in bonds]
    factors += [Factor({name: spin}, log_values=align) for name in site.values() if field]
    return MarkovNetwork(factors, isolated={name: spin for name in site.values()})
