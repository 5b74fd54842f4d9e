"""Plans of an elimination: which variable goes next, and what that costs, before any table exists.

Any order gives the same answer; the cost of a bad one is exponential. Finding the best is NP-hard, so greedy
rules choose. The plan is the elimination game on the graph: the variable that goes leaves its neighbours
joined to one another, and the edges that this adds are the fill-in.

Source: Koller and Friedman (2009), section 9.4.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

from course_lib.factor import names

__all__ = ["COSTS", "EliminationPlan", "EliminationStep", "plan_elimination"]

BYTES_PER_CELL = 8  # float64

Neighbours = dict[str, set[str]]


COSTS: dict[str, Callable[[str, Neighbours, Mapping[str, int]], int]] = {
    "min_fill": lambda v, near, sizes: sum(len(near[v] - near[u]) - 1 for u in near[v]),  # each edge twice
    "min_degree": lambda v, near, sizes: len(near[v]),
    "min_weight": lambda v, near, sizes: math.prod(sizes[u] for u in near[v]),
}
"""The greedy rules, which eliminate next the variable that adds the fewest edges, has the fewest
neighbours, or sends the smallest message. Arguments: a variable, all neighbours, all numbers of states."""


@dataclass(frozen=True)
class EliminationStep:
    """One variable summed out."""

    variable: str
    scope: tuple[str, ...]
    """the variables of the table that is made, this one first, then its neighbours"""
    cells: int
    """the size of that table"""
    message_cells: int
    """the size of the message that is left of it"""
    inputs: tuple[int, ...]
    """the tables multiplied, of which the given ones are numbered first, then the messages in order"""
    fill_in: tuple[tuple[str, str], ...]
    """the edges that the message adds to the graph"""


@dataclass(frozen=True)
class EliminationPlan:
    """What an elimination will do and cost, worked out before any table exists."""

    steps: tuple[EliminationStep, ...]
    """what is done, in this order"""
    keep: tuple[str, ...]
    """the variables that are not summed out, which are the scope of the result"""
    result_cells: int
    """the size of the result"""
    scopes: tuple[tuple[str, ...], ...]
    """the variables of each table that is given"""

    @property
    def n_inputs(self) -> int:
        """How many tables are given."""
        return len(self.scopes)

    @property
    def order(self) -> tuple[str, ...]:
        """The variables in the order in which they are eliminated."""
        return tuple(step.variable for step in self.steps)

    @property
    def width(self) -> int:
        """The most neighbours that a variable has when it goes; for the best order, the treewidth."""
        return max((len(step.scope) - 1 for step in self.steps), default=0)

    @property
    def largest_table(self) -> int:
        """The cells of the largest table made, the result included."""
        return max([step.cells for step in self.steps] + [self.result_cells])

    @property
    def operations(self) -> int:
        """The additions of cells, where k tables multiplied and summed out cost k of them a cell."""
        return sum(step.cells * max(1, len(step.inputs)) for step in self.steps)

    @property
    def peak_bytes(self) -> int:
        """The most memory that tables made for a sum take up at one time, on top of the given ones."""
        live = peak = 0
        message_cells: dict[int, int] = {}
        for number, step in enumerate(self.steps, start=self.n_inputs):
            peak = max(peak, live + step.cells)  # the product is made next to the messages it multiplies
            live -= sum(message_cells.pop(i, 0) for i in step.inputs)
            peak = max(peak, live + step.cells + 2 * step.message_cells)  # the product, its maximum, its sum
            live += step.message_cells
            message_cells[number] = step.message_cells
        # The result is made next to the last messages, then normalised into a second table with two numbers.
        return BYTES_PER_CELL * max(peak, live + self.result_cells, 2 * self.result_cells + 2)

    @property
    def traceback_bytes(self) -> int:
        """The same for a maximum, whose messages are all kept until the states are read off them."""
        kept = [0, *accumulate(step.message_cells for step in self.steps)]
        return BYTES_PER_CELL * max(
            (kept[i + 1] + step.cells for i, step in enumerate(self.steps)), default=0
        )

    def refuse_above(self, memory_limit: float, traceback: bool = False) -> None:
        """Raise `MemoryError` if the tables would take more than `memory_limit` bytes."""
        needed = self.traceback_bytes if traceback else self.peak_bytes
        if not needed <= memory_limit:  # which NaN does not allow either
            cure = "try another order, observe more variables" if self.steps else "ask for fewer variables"
            raise MemoryError(
                f"the tables of this elimination would take {_gib(needed)}, the largest of them with "
                f"{_count(self.largest_table)} cells, and memory_limit is {_gib(memory_limit)}: {cure}, "
                "raise memory_limit, or sample with course_lib.gibbs_sampling"
            )


def plan_elimination(
    scopes: Iterable[Iterable[str]],
    cardinalities: Mapping[str, int],
    keep: Iterable[str] = (),
    order: str | Sequence[str] = "min_fill",
) -> EliminationPlan:
    """Decide the order of an elimination and count what it costs.

    Args:
        scopes: the variables of each table.
        cardinalities: the number of states of each variable.
        keep: the variables that stay.
        order: "min_fill", "min_degree" or "min_weight", where ties go to the variable that `cardinalities`
            names first; or all other variables, in the order in which to eliminate them.
    """
    given, kept = tuple(names(scope) for scope in scopes), names(keep)
    if unknown := [v for scope in (*given, kept) for v in scope if v not in cardinalities]:
        raise ValueError(f"cardinalities has no variable {unknown[0]!r}, it has {list(cardinalities)}")
    if wrong := [v for v, k in cardinalities.items() if not isinstance(k, int) or k < 1]:
        raise ValueError(
            f"cardinalities must be whole numbers ≥ 1, {wrong[0]!r} has {cardinalities[wrong[0]]}"
        )
    tables = {i: set(scope) for i, scope in enumerate(given)}
    neighbours: Neighbours = {variable: set() for variable in cardinalities}
    for scope in tables.values():
        for variable in scope:
            neighbours[variable] |= scope - {variable}

    steps: list[EliminationStep] = []
    for variable, around, fill_in in _eliminations(neighbours, cardinalities, kept, order):
        message_cells = math.prod(cardinalities[other] for other in around)
        inputs = tuple(i for i, scope in tables.items() if variable in scope)
        for i in inputs:
            del tables[i]
        tables[len(given) + len(steps)] = set(around)
        cells = cardinalities[variable] * message_cells
        steps.append(EliminationStep(variable, (variable, *around), cells, message_cells, inputs, fill_in))
    return EliminationPlan(tuple(steps), kept, math.prod(cardinalities[v] for v in kept), given)


def _eliminations(
    neighbours: Neighbours, cardinalities: Mapping[str, int], keep: Sequence[str], order: str | Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]]:
    """Each variable in turn, its neighbours at that moment, and the edges that its elimination adds."""
    left = [variable for variable in cardinalities if variable not in keep]
    if not isinstance(order, Sequence) or (isinstance(order, str) and order not in COSTS):
        raise ValueError(f"order must be one of {list(COSTS)} or a sequence of variables, got {order!r}")
    if not isinstance(order, str) and Counter(order) != Counter(left):
        raise ValueError(f"order must name each of {left} once, got {list(order)}")
    costs: dict[str, int] = {}
    for position in range(len(left)):
        if isinstance(order, str):
            costs |= {v: COSTS[order](v, neighbours, cardinalities) for v in left if v not in costs}
            variable = min(left, key=costs.__getitem__)
        else:
            variable = order[position]
        left.remove(variable)
        around = tuple(other for other in cardinalities if other in neighbours[variable])
        yield variable, around, tuple((a, b) for a, b in combinations(around, 2) if b not in neighbours[a])
        for other in around:
            neighbours[other] |= set(around) - {other}
            neighbours[other].remove(variable)
        for changed in set(around).union(*(neighbours[other] for other in around)):
            costs.pop(changed, None)


def _count(n: int) -> str:
    return str(n) if n < 10**18 else f"about 10^{math.log10(n):.0f}"


def _gib(n_bytes: float) -> str:
    """In GiB, also beyond what a float holds."""
    if n_bytes > 1e300:
        return f"about 10^{math.log10(n_bytes) - math.log10(2**30):.0f} GiB"
    return f"{n_bytes / 2**30:.3g} GiB"
