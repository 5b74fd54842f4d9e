"""What models and methods refuse before they compute: wrong shapes and counts, gaps, floors that are none."""

import math

import torch
from torch import Tensor

__all__ = [
    "check_batches",
    "check_examples",
    "check_floor",
    "check_labels",
    "check_last_axis",
    "check_log_det",
    "check_n_latents",
    "check_stretches",
    "check_whole",
    "looked_at",
    "recorded",
]


def check_batches(name: str, context: torch.Size, x: torch.Size) -> None:
    """Refuse a context whose batch axes do not go with those of x."""
    pairs = zip(reversed(context[:-1]), reversed(x[:-1]), strict=False)
    if not all(n == m or 1 in (n, m) for n, m in pairs):
        raise ValueError(
            f"{name} of shape {tuple(context)} does not go with x of shape {tuple(x)}: all axes but the last "
            "must be equal, or 1"
        )


def check_examples(x: Tensor) -> None:
    """Refuse, with a ValueError, what is not a matrix of finite numbers with a row for each example."""
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(f"x must hold floats in the shape (N, D), N ≥ 1, got {x.dtype} of {tuple(x.shape)}")
    rows = (~torch.isfinite(x)).any(-1).nonzero().flatten()
    if len(rows):
        raise ValueError(
            f"x has NaN or infinite values in {len(rows)} of its {len(x)} rows, first in row {int(rows[0])}; "
            "leave those examples out, or fill the gaps in"
        )


def check_floor(variance_floor: float) -> None:
    """Refuse a floor that is none."""
    if not 0 < variance_floor < math.inf:
        raise ValueError(f"variance_floor must be > 0 and finite, got {variance_floor}")


def check_labels(name: str, labels: Tensor, n_classes: int) -> None:
    """Refuse labels that are no whole numbers 0 … n_classes − 1, where `looked_at` allows to look."""
    if labels.dtype not in (torch.int64, torch.int32, torch.uint8, torch.int16, torch.int8):
        raise ValueError(f"{name} must hold whole numbers, got {labels.dtype}; convert with .long()")
    if labels.numel() and looked_at(labels):
        smallest, largest = (int(extreme) for extreme in labels.aminmax())
        if smallest < 0 or largest >= n_classes:
            raise ValueError(
                f"{name} must be labels 0 … {n_classes - 1}, got values from {smallest} to {largest}"
            )


def check_last_axis(name: str, tensor: Tensor, size_name: str, size: int, cure: str = "") -> None:
    """Refuse a last axis of another size, which broadcasting would stretch without complaint if it is 1."""
    if tensor.ndim == 0 or tensor.shape[-1] != size:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; its last axis must have this model's {size_name}={size}"
            + (cure and f". {cure}")
        )


def check_log_det(log_det: Tensor) -> None:
    """Refuse, with a FloatingPointError, a map whose Jacobian is singular or not finite.

    The values are looked at as `looked_at` says.
    """
    if looked_at(log_det) and not torch.isfinite(log_det).all():
        bad = log_det[~torch.isfinite(log_det)]
        raise FloatingPointError(
            f"log|det J| is {float(bad[0])} in {bad.numel()} of {log_det.numel()} places: the Jacobian is "
            "singular (-inf), or the map has overflowed (inf, NaN). Lower the learning rate, look for NaN in "
            "the data, and begin with flow.initialise(x)."
        )


def check_n_latents(n_latents: int, n_pixels: int) -> None:
    """Refuse as many linear latents as pixels, or none."""
    if not 1 <= n_latents < n_pixels:
        raise ValueError(f"n_latents must be between 1 and {n_pixels - 1}, got {n_latents}")
    check_whole("n_latents", n_latents, 1)


def check_stretches(name: str, shape: torch.Size, target: torch.Size) -> None:
    """Refuse a shape that broadcasting would not stretch to the target's, or would stretch the target to."""
    pairs = zip(reversed(shape), reversed(target), strict=False)
    if len(shape) > len(target) or not all(n in (1, m) for n, m in pairs):
        raise ValueError(f"{name} must broadcast to {tuple(target)}, got {tuple(shape)}")


def recorded(values: Tensor) -> bool:
    """Whether `torch.compile` or a CUDA graph records what is done to these values: then nobody may wait."""
    if torch.compiler.is_compiling():
        return True
    return values.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def looked_at(values: Tensor) -> bool:
    """Whether a check may look: it makes the host wait for an accelerator, and breaks a compiled graph.

    So it may on a CPU and, elsewhere, where no gradients are recorded; never inside `torch.compile`, nor
    while a CUDA graph is recorded, nor inside `torch.func.vmap` and its relatives, which know no single
    value.
    """
    if recorded(values) or torch._C._functorch.is_functorch_wrapped_tensor(values):
        return False
    return values.device.type == "cpu" or not torch.is_grad_enabled()


def check_whole(name: str, number: int, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {number!r}")
