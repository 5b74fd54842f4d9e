"""Many independent estimates of one gradient at once: where its bias and its variance are measured."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from course_lib.checks import check_whole
from course_lib.gradient_estimators import Integrand

__all__ = ["estimate_gradients"]


def estimate_gradients(
    estimator: Callable[[Distribution, Integrand], Tensor],
    make_distribution: Callable[..., Distribution],
    parameters: Sequence[Tensor],
    integrand: Integrand,
    n_repeats: int,
) -> tuple[Tensor, ...]:
    r"""Many independent estimates of what a gradient owes to the distribution, from one backward pass.

    Every parameter is repeated along a new first axis, so that each of `n_repeats` copies of the distribution
    keeps its own gradient. What the integrand itself owes to the parameters is **not** in it.

    Args:
        estimator: of `course_lib.gradient_estimators`, with its options fixed by `functools.partial`.
        make_distribution: maps parameters of shapes (n_repeats, \*parameter shape) to a distribution of batch
            shape (n_repeats, \*batch).
        parameters: one or more tensors of floats.
        integrand: f, of z of shape (n_samples, n_repeats, \*batch, \*event).
        n_repeats: how many estimates, each of them with the estimator's own `n_samples`.

    Returns:
        for each parameter the gradients of E f, summed over \*batch; shape (n_repeats, \*parameter shape).
    """
    if isinstance(parameters, Tensor) or not parameters:
        raise ValueError("parameters must be a sequence of tensors, like (mean, std)")
    for p in parameters:
        if not isinstance(p, Tensor) or not p.is_floating_point():
            raise ValueError(f"parameters must be tensors of floats, got {p!r}")
    check_whole("n_repeats", n_repeats, 1)
    repeated = [p.detach().expand(n_repeats, *p.shape).clone().requires_grad_() for p in parameters]
    with torch.enable_grad():
        distribution = make_distribution(*repeated)
        if distribution.batch_shape[:1] != (n_repeats,):
            raise ValueError(
                "make_distribution must return batch shape (n_repeats, *batch) with n_repeats = "
                f"{n_repeats}, got {tuple(distribution.batch_shape)}"
            )
        total = estimator(distribution, integrand).sum()
    if not total.isfinite():
        raise FloatingPointError(
            f"the estimate is {float(total.detach())}: the integrand must be finite. Look for NaN among the "
            "parameters, and for samples outside the integrand's domain."
        )
    if not total.requires_grad:
        raise ValueError("the estimate does not depend on the parameters: is something detached?")
    return torch.autograd.grad(total, repeated, allow_unused=True, materialize_grads=True)
