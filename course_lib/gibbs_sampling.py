r"""Gibbs sampling of a Markov network: many chains at once, and all variables that do not touch at once.

Each variable is redrawn from its distribution given all others, to which only its own factors contribute:

.. math:: p(x_v = s \mid x_{-v}) \propto \prod_{i:\, v \in S_i} \phi_i(x_v = s,\, x_{S_i \setminus v})

Variables that no edge joins are independent given the rest, so a colouring of the graph says which of them
may be redrawn in one stroke: the two colours of a chessboard do for a grid of any size.

Source: Geman and Geman (1984); Koller and Friedman (2009), section 12.3.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from math import prod
from typing import NamedTuple

import networkx as nx
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from course_lib.factor import Assignment, Factor, merge_states, product
from course_lib.markov_network import MarkovNetwork

__all__ = ["gibbs_sample"]

MERGED_CELLS = 1024
STARTS = 100  # random starts tried for each chain


@torch.no_grad()
def gibbs_sample(
    network: MarkovNetwork,
    n_chains: int,
    n_sweeps: int,
    evidence: Assignment | None = None,
    initial: Assignment | Tensor | None = None,
    generator: torch.Generator | None = None,
    record: bool = False,
) -> Tensor:
    """Run independent chains towards p(x | evidence), which they reach where no zeros lock them in.

    Args:
        network: the distribution.
        n_chains: how many chains, all advanced together.
        n_sweeps: how often every unobserved variable is redrawn.
        evidence: variables that are held at a state.
        initial: where to start, from a state of positive probability: an earlier result of shape
            (n_chains, V), or one assignment for all chains; the evidence overrules it. Otherwise states are
            drawn uniformly, and again where their probability is zero.
        generator: the source of randomness, on the device of the network's factors.
        record: return the states after every sweep, not only after the last.

    Returns:
        int64 of shape (n_chains, V), or (n_sweeps, n_chains, V) with `record`, which has a column for each of
        `network.variables` with positions in its `network.states`.
    """
    for name, number, least in (("n_chains", n_chains, 1), ("n_sweeps", n_sweeps, 0)):
        if not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}")
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator must be a torch.Generator or None, got {generator!r}")
    observed = network.indices(evidence or {}, "evidence")
    x = _start(network, n_chains, observed, initial, generator).T.contiguous()  # chains last
    blocks, log_values = _blocks(network, observed)
    history = x.new_empty(n_sweeps if record else 0, n_chains, len(x))
    for sweep in range(n_sweeps):
        for block in blocks:
            x[block.variables] = _draw(block.log_conditional(x, log_values), generator)
        if record:
            history[sweep] = x.T
    return history if record else x.T.contiguous()


class _Block(NamedTuple):
    """V variables that are redrawn at once, with k states each and F factors of up to M other variables."""

    variables: Tensor
    """their rows in x, shape (V,)"""
    others: Tensor
    """the rows of the other variables of each factor, shape (V, F, M)"""
    strides: Tensor
    """by how many cells of the factor's table one step of each of these moves, shape (V, F, M)"""
    cells: Tensor
    """where each state of the variable is found when the others are at 0, shape (V, F, k)"""

    def log_conditional(self, x: Tensor, log_values: Tensor) -> Tensor:
        r""":math:`\sum_i \log \phi_i(x_v = s, x_{S_i \setminus v})`, shape (V, k, C), for C chains x."""
        moves = (self.strides.unsqueeze(-1) * x[self.others]).sum(2)
        return log_values[self.cells.unsqueeze(-1) + moves.unsqueeze(2)].sum(1)


def _blocks(network: MarkovNetwork, observed: Mapping[str, int]) -> tuple[list[_Block], Tensor]:
    """The unobserved variables, grouped by colour, number of states and of factors; and all log values."""
    row = {variable: i for i, variable in enumerate(network.variables)}
    factors = {v: _merged([f for f in network.factors if v in f.states]) for v in row if v not in observed}
    tables = {id(factor): factor.log_values.flatten() for of_one in factors.values() for factor in of_one}
    firsts = dict(zip(tables, accumulate(map(len, tables.values()), initial=0), strict=False))

    def locate(variable: str, factor: Factor) -> tuple[list[int], list[int], list[int]]:
        """The rows of the other variables, their strides, and the cells of the variable's own states."""
        stride = dict(zip(factor.variables, factor.log_values.contiguous().stride(), strict=True))
        cells = [firsts[id(factor)] + stride[variable] * s for s in range(len(factor.states[variable]))]
        others = [other for other in factor.variables if other != variable]
        return [row[other] for other in others], [stride[other] for other in others], cells

    graph = network.graph.copy()
    graph.remove_nodes_from(observed)
    groups: dict[tuple[int, int, int], list[str]] = defaultdict(list)
    for variable, colour in nx.greedy_color(graph).items():
        groups[colour, len(network.states[variable]), len(factors[variable])].append(variable)

    blocks = []
    for variables in groups.values():
        # Where a factor has fewer others it is filled up with zeros: a move of row 0 by no cell.
        others, strides, cells = (
            pad_sequence([torch.tensor(part, dtype=torch.long) for part in parts], batch_first=True)
            .unflatten(0, (len(variables), -1))
            .to(network.device)
            for parts in zip(*(locate(v, factor) for v in variables for factor in factors[v]), strict=True)
        )
        rows = torch.tensor([row[variable] for variable in variables], device=network.device)
        blocks.append(_Block(rows, others, strides, cells))
    return blocks, torch.cat([torch.empty(0, dtype=torch.float64, device=network.device), *tables.values()])


def _merged(factors: list[Factor]) -> list[Factor]:
    """The product of a variable's factors where it is small: one table is looked up faster than many."""
    states = merge_states(factor.states for factor in factors)
    return [product(factors, states)] if prod(map(len, states.values())) <= MERGED_CELLS else factors


def _draw(log_conditional: Tensor, generator: torch.Generator | None) -> Tensor:
    """One state for each variable and chain, by inverting cumulated probabilities: (V, k, C) to (V, C)."""
    cumulated = log_conditional.softmax(1).cumsum(1)
    total = cumulated[:, -1:]
    u = torch.rand(total.shape, generator=generator, dtype=total.dtype, device=total.device)
    # u ≤ 1 − 2⁻⁵³, so u · total stays below the total when rounded: a last state of zero is never chosen.
    return (cumulated[:, :-1] <= u * total).sum(1)


def _start(
    network: MarkovNetwork,
    n_chains: int,
    observed: Mapping[str, int],
    initial: Assignment | Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """The first states, all of positive probability; shape (n_chains, V)."""
    sizes = torch.tensor([len(s) for s in network.states.values()], device=network.device)
    columns = [network.variables.index(variable) for variable in observed]
    held = torch.tensor(list(observed.values()), dtype=torch.long, device=network.device)

    def uniform(n: int) -> Tensor:
        u = torch.rand((n, len(sizes)), generator=generator, dtype=torch.float64, device=network.device)
        x = (u * sizes).long()
        x[:, columns] = held
        return x

    if initial is None:
        x = uniform(n_chains)
        for _ in range(STARTS):
            impossible = network.log_potentials(x) == -torch.inf
            if not impossible.any():
                return x
            x[impossible] = uniform(int(impossible.sum()))
        raise ValueError(
            f"no state of positive probability among {STARTS} random starts. If log_partition(evidence) is "
            "−inf, the factors and the evidence exclude every one; otherwise such states are rare, and you "
            "can start at initial=most_probable(evidence)[0]"
        )
    if isinstance(initial, Tensor):
        x = initial.clone()
    else:
        start = network.indices(initial, "initial") | dict(observed)
        if missing := [variable for variable in network.variables if variable not in start]:
            raise ValueError(f"initial must give a state to every variable, {missing} lack one")
        x = torch.tensor([[start[v] for v in network.variables]] * n_chains, device=network.device)
    if x.shape != (n_chains, len(sizes)):
        raise ValueError(f"initial must have shape {(n_chains, len(sizes))}, got {tuple(x.shape)}")
    x[:, columns] = held.to(x.dtype)
    if (impossible := network.log_potentials(x, "initial") == -torch.inf).any():
        raise ValueError(
            f"initial must have positive probability, chain {int(impossible.nonzero()[0])} has none"
        )
    return x
