r"""Variable elimination: sum variables out one after another, as a plan says.

Summing out v multiplies the tables that mention v, and replaces them by one message:

.. math:: \tau(x_{N(v)}) = \sum_{x_v} \prod_{i:\, v \in S_i} \phi_i(x_{S_i})

The message joins all neighbours N(v) of v. What comes out does not depend on the order, what it costs does:
see `course_lib.elimination_plan`.

Source: Koller and Friedman (2009), chapter 9.
"""

from collections.abc import Hashable, Sequence

import torch

from course_lib.elimination_plan import EliminationPlan
from course_lib.factor import Factor, merge_states, product

__all__ = ["eliminate", "most_probable_states"]


def eliminate(factors: Sequence[Factor], plan: EliminationPlan) -> Factor:
    r"""The sum over all variables except the kept ones K.

    .. math:: \tau(x_K) = \sum_{x_{V \setminus K}} \prod_i \phi_i(x_{S_i})

    Args:
        factors: the tables that the plan was made for, in that order.
        plan: what to do.

    Returns:
        a factor of `plan.keep`, not normalised.
    """
    tables, states = _numbered(factors, plan)
    for number, step in enumerate(plan.steps, start=plan.n_inputs):
        # One expression, so that no name keeps the product alive while the next one is made.
        tables[number] = _sum_out_first(
            product([tables.pop(i) for i in step.inputs], {v: states[v] for v in step.scope})
        )
    return product(tables.values(), {variable: states[variable] for variable in plan.keep})


def most_probable_states(factors: Sequence[Factor], plan: EliminationPlan) -> dict[str, Hashable]:
    r"""The states :math:`\arg\max_x \prod_i \phi_i(x_{S_i})` of all variables; ties go to the first state.

    The same elimination with maxima for sums; then, from the last variable back to the first, each takes its
    best state given those already chosen.
    """
    tables, states = _numbered(factors, plan)
    for number, step in enumerate(plan.steps, start=plan.n_inputs):
        tables[number] = product(
            [tables[i] for i in step.inputs], {v: states[v] for v in step.scope}
        ).maximise([step.variable])
    chosen: dict[str, Hashable] = {}
    for step in reversed(plan.steps):
        slices = [
            tables[i].reduce({v: s for v, s in chosen.items() if v in tables[i].states}) for i in step.inputs
        ]
        scores = product(slices, {step.variable: states[step.variable]}).log_values
        chosen[step.variable] = states[step.variable][int(scores.argmax())]
    return chosen


def _sum_out_first(table: Factor) -> Factor:
    r""":math:`\log \sum_s e^{t_s} = m + \log \sum_s e^{t_s - m}`, worked out in the memory of the table."""
    rest = table.variables[1:]
    t = table.log_values
    # Where everything is −∞ the maximum is made finite: −∞ − (−∞) would be NaN.
    maximum = t.amax(0).clamp_(min=torch.finfo(t.dtype).min)
    log_sum = t.sub_(maximum).exp_().sum(0).log_().add_(maximum)
    return Factor.from_table({v: table.states[v] for v in rest}, log_sum)


def _numbered(
    factors: Sequence[Factor], plan: EliminationPlan
) -> tuple[dict[int, Factor], dict[str, tuple[Hashable, ...]]]:
    """The tables by number, which must be those that the plan is for; and the states of all variables."""
    if len(factors) != plan.n_inputs:
        raise ValueError(
            f"factors must be the {plan.n_inputs} that the plan was made for, got {len(factors)}"
        )
    for factor, scope in zip(factors, plan.scopes, strict=True):
        if set(factor.variables) != set(scope):
            raise ValueError(f"factors must be those of the plan, in order: it has {scope} for {factor}")
    states = merge_states(factor.states for factor in factors)
    if missing := [v for v in (*plan.order, *plan.keep) if v not in states]:
        raise ValueError(f"no factor mentions {missing[0]!r}: plan with one that is 1 everywhere for it")
    return dict(enumerate(factors)), states
