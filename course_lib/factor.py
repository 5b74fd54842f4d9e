r"""Factors: tables over a few named discrete variables, of which every Markov network is a product.

Tables hold log values in float64, so that products of thousands of factors neither overflow nor vanish.
A zero is kept exactly, as −∞, and no operation here turns one into NaN.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Assignment", "Factor", "States", "merge_states", "product"]

States = Mapping[str, Sequence[Hashable] | int]
"""The states of each variable; an integer k means the states 0, …, k − 1."""

Table = Tensor | np.ndarray | Sequence[Any] | float

LARGEST = 1e300
"""The largest size of a finite log value: the sum of a hundred million such is still finite."""

Assignment = Mapping[str, Hashable]
"""One state for each of some variables."""


class Factor:
    r"""A function :math:`\phi(x_S) \ge 0` of the discrete variables S, its scope.

    A factor is no probability: its values may sum to anything. `Factor({"rain": ("no", "yes"), "wet": 2},
    [[9, 1], [2, 8]])` has the value 1 where it does not rain and wet is 1.

    No operation changes its operands. Their tables are not copied without need: what `reduce` returns, and a
    sum or maximum over no variable, is a view of the same storage.

    Args:
        states: the scope, and the states of each of its variables, in a list or tuple.
        values: φ ≥ 0, with one axis for each variable, in the order of `states`.
        log_values: log φ instead, where −∞ stands for a zero; exactly one of the two is given.
    """

    states: dict[str, tuple[Hashable, ...]]
    """the states of each variable, in the order of the table's axes"""
    log_values: Tensor
    """the table of log φ, in float64"""

    def __init__(
        self,
        states: States,
        values: Table | None = None,
        *,
        log_values: Table | None = None,
    ) -> None:
        if (values is None) == (log_values is None):
            raise ValueError("give either values or log_values, and not both")
        name, given = ("log_values", log_values) if values is None else ("values", values)
        self.states = named_states(states)
        table = _real_numbers(given, f"{name} of {self}")
        if table.shape != (shape := tuple(map(len, self.states.values()))):
            raise ValueError(f"{name} of {self} must have shape {shape}, got {tuple(table.shape)}")
        if log_values is None:
            kind, allowed = "finite numbers ≥ 0", (table >= 0) & (table < torch.inf)
        else:
            kind = f"finite numbers or −∞ (at most {LARGEST:g} in size)"
            allowed = (table.abs() <= LARGEST) | (table == -torch.inf)
        if not allowed.all():
            raise ValueError(f"{name} of {self} must be {kind}, got {float(table[~allowed][0])}")
        self.log_values = table.log() if log_values is None else table.clone()

    @classmethod
    def from_table(cls, states: Mapping[str, tuple[Hashable, ...]], log_values: Tensor) -> "Factor":
        """A factor around a table that is known to be right: nothing is copied, nothing is checked."""
        factor = cls.__new__(cls)
        factor.states, factor.log_values = dict(states), log_values
        return factor

    @property
    def variables(self) -> tuple[str, ...]:
        """The scope, in the order of the table's axes."""
        return tuple(self.states)

    @property
    def values(self) -> Tensor:
        """φ itself; it may overflow or vanish where `log_values` does not."""
        return self.log_values.exp()

    def __repr__(self) -> str:
        return f"Factor({', '.join(f'{variable}: {len(s)}' for variable, s in self.states.items())})"

    def product(self, other: "Factor") -> "Factor":
        r""":math:`\phi(x_S)\,\psi(x_T)`, a factor of :math:`x_{S\cup T}`; the energies −log φ add."""
        if not isinstance(other, Factor):
            raise TypeError(f"a factor is multiplied by a Factor, got {other!r}: write c as Factor({{}}, c)")
        return product((self, other), merge_states((self.states, other.states)))

    __mul__ = product

    def marginalise(self, variables: Iterable[str]) -> "Factor":
        r""":math:`\sum_{x_V} \phi(x_S)`, a factor of what is left of S."""
        kept, axes = self._without(variables)
        return Factor.from_table(kept, self.log_values.logsumexp(axes) if axes else self.log_values)

    def maximise(self, variables: Iterable[str]) -> "Factor":
        r""":math:`\max_{x_V} \phi(x_S)`, a factor of what is left of S."""
        kept, axes = self._without(variables)
        return Factor.from_table(kept, self.log_values.amax(axes) if axes else self.log_values)

    def reduce(self, evidence: Assignment) -> "Factor":
        r""":math:`\phi(x_{S\setminus E}, x_E = e)`: the slice of this table where the evidence holds."""
        check_mapping(evidence, "evidence")
        kept, _ = self._without(evidence)
        index = tuple(
            state_index(self.states, variable, evidence[variable]) if variable in evidence else slice(None)
            for variable in self.states
        )
        return Factor.from_table(kept, self.log_values[index])

    def normalise(self) -> "Factor":
        r""":math:`\phi(x_S) / \sum_{x_S} \phi(x_S)`: the probabilities in proportion to the values."""
        log_total = self.log_values.flatten().logsumexp(0)
        if log_total == -torch.inf:
            raise ValueError(f"{self} is zero everywhere: there is no distribution in proportion to it")
        return Factor.from_table(self.states, self.log_values - log_total)

    def log_value(self, assignment: Assignment) -> float:
        r""":math:`\log \phi(x_S)`; states of variables outside the scope are ignored."""
        check_mapping(assignment, "assignment")
        if missing := [variable for variable in self.states if variable not in assignment]:
            raise ValueError(f"assignment must give a state to every variable of {self}, {missing} lack one")
        index = tuple(state_index(self.states, variable, assignment[variable]) for variable in self.states)
        return float(self.log_values[index])

    def aligned(self, scope: Iterable[str]) -> Tensor:
        """A view of the table with one axis for each variable of the larger `scope`, to be broadcast."""
        scope = tuple(scope)
        axes = sorted(range(len(self.states)), key=lambda axis: scope.index(self.variables[axis]))
        index = tuple(slice(None) if variable in self.states else None for variable in scope)
        return self.log_values.permute(axes)[index]

    def _without(self, variables: Iterable[str]) -> tuple[dict[str, tuple[Hashable, ...]], tuple[int, ...]]:
        """The states of the other variables, and the axes of these."""
        gone = names(variables)
        if unknown := [variable for variable in gone if variable not in self.states]:
            raise ValueError(f"{self} has no variable {unknown[0]!r}")
        kept = {variable: s for variable, s in self.states.items() if variable not in gone}
        return kept, tuple(axis for axis, variable in enumerate(self.states) if variable in gone)


def product(factors: Iterable[Factor], states: Mapping[str, tuple[Hashable, ...]]) -> Factor:
    r""":math:`\prod_i \phi_i(x_{S_i})` as a factor of all of `states`, which contain every scope.

    One table is made and the log values are added into it, so nothing larger than the result exists.
    """
    tables = [factor.aligned(states) for factor in factors]
    device = tables[0].device if tables else None
    total = torch.zeros([len(s) for s in states.values()], dtype=torch.float64, device=device)
    for table in tables:
        total += table
    return Factor.from_table(states, total)


def merge_states(all_states: Iterable[Mapping[str, tuple[Hashable, ...]]]) -> dict[str, tuple[Hashable, ...]]:
    """The states of all variables, in order of first appearance; a variable has the same ones everywhere."""
    merged: dict[str, tuple[Hashable, ...]] = {}
    for states in all_states:
        for variable, s in states.items():
            if merged.setdefault(variable, s) != s:
                raise ValueError(
                    f"{variable!r} has the states {merged[variable]} in one factor and {s} in another: "
                    "give it the same ones, in the same order, everywhere"
                )
    return merged


def names(variables: Iterable[str]) -> tuple[str, ...]:
    """The variables as a tuple; a single string is one name, not a sequence of letters."""
    chosen = (variables,) if isinstance(variables, str) else tuple(variables)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"every variable may be named once, got {chosen}")
    return chosen


def state_index(states: Mapping[str, tuple[Hashable, ...]], variable: str, state: Hashable) -> int:
    """The position of a state on the axis of its variable."""
    if state not in states[variable]:
        raise ValueError(f"variable {variable!r} has the states {states[variable]}, got {state!r}")
    return states[variable].index(state)


def check_mapping(given: object, name: str) -> None:
    """Refuse what is no mapping from variables; `name` is what the error calls it."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{name} must map variables to states, like {{'rain': ...}}, got {given!r}")


def named_states(states: States, name: str = "states") -> dict[str, tuple[Hashable, ...]]:
    """The states of each variable, at least one and all different; an integer k means 0, …, k − 1.

    They must come in an order: a set has another one in every run of Python.
    """
    check_mapping(states, name)
    named: dict[str, tuple[Hashable, ...]] = {}
    for variable, given in states.items():
        if not isinstance(variable, str):
            raise ValueError(f"{name} must have strings for variables, got {variable!r}")
        chosen = range(given) if isinstance(given, int | np.integer) else given
        if not isinstance(chosen, Sequence) or isinstance(chosen, str):
            raise ValueError(f"{name} of {variable!r} must be a list, a tuple or a number, got {given!r}")
        if not all(isinstance(state, Hashable) and state == state for state in chosen):
            raise ValueError(
                f"{name} of {variable!r} must be hashable and equal to themselves, got {given!r}"
            )
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"{variable!r} needs at least one state and different ones, got {given!r}")
        named[variable] = tuple(chosen)
    return named


def _real_numbers(given: Table | None, name: str) -> Tensor:
    """A table in float64, without gradients."""
    if "complex" in str(getattr(given, "dtype", "")):
        raise ValueError(f"{name} must be real numbers, got {given!r}")
    try:
        return torch.as_tensor(given, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be real numbers, got {given!r}") from error
