"""Checkpoints from which an interrupted run continues bit for bit."""

import os
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_lib.batches import Batches, ZippedBatches, describe_differences

__all__ = ["load_checkpoint", "save_checkpoint"]

CONTENT = {
    *("description", "step", "objective", "optimizer", "scheduler", "batches"),
    *("random_state", "cuda_random_state"),
}


def save_checkpoint(
    path: str | Path,
    description: dict[str, Any],
    step: int,
    objective: nn.Module,
    optimizer: Optimizer,
    batches: Batches | ZippedBatches,
    scheduler: LRScheduler | None = None,
) -> None:
    """Write everything the next step depends on, atomically: a reader sees the old file or the new one.

    Args:
        path: the file to write.
        description: what the run is (model, sizes, data, seed …); checked when the file is loaded.
        step: optimiser steps taken.
        objective: its parameters and buffers are saved.
        optimizer: its moments and step counts are saved.
        batches: its order, place and generator are saved, and torch's global generators with them.
        scheduler: the learning-rate schedule given to `fit`, if there is one; its place is saved.

    Raises:
        FloatingPointError: a parameter or buffer is NaN or infinite; no run could continue from it.
        OSError: the folder cannot be written to; nothing is left behind.
    """
    path = Path(path)
    _check_finite(objective, step)
    content = {
        "description": description,
        "step": step,
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "batches": batches.state_dict(),
        "random_state": torch.get_rng_state(),
        "cuda_random_state": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
        try:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise


def load_checkpoint(
    path: str | Path,
    description: dict[str, Any],
    objective: nn.Module,
    optimizer: Optimizer,
    batches: Batches | ZippedBatches,
    scheduler: LRScheduler | None = None,
) -> int:
    """Put a run back to where `save_checkpoint` left it. What is refused changes nothing.

    Args:
        path: a file written by `save_checkpoint`.
        description: must equal the saved one.
        objective: receives its parameters and buffers; likewise `optimizer`, `batches` and `scheduler`
            their state.
        optimizer: built on the objective's parameters.
        batches: built on the same data set with the same settings; its seed does not matter.
        scheduler: built on the optimiser; needed if, and only if, one was saved.

    Returns:
        the number of steps already taken.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, or one of another run; says what differs.
    """
    path = Path(path)
    content = _read(path)
    if differences := describe_differences(content["description"], description):
        raise ValueError(
            f"{path} belongs to another run ({differences}). Ask for the same settings, or choose another "
            "output folder."
        )
    if (content["scheduler"] is None) != (scheduler is None):
        saved, passed = ("a", "none") if scheduler is None else ("no", "one")
        raise ValueError(
            f"{path} was saved with {saved} scheduler and {passed} was passed. Pass the schedule of the "
            "saved run to load_checkpoint, and none if it had none."
        )
    schedule = {} if scheduler is None else scheduler.state_dict()
    for part, theirs, ours in (
        ("model", _shapes(content["objective"]), _shapes(objective.state_dict())),
        ("optimizer", _groups(content["optimizer"]), _groups(optimizer.state_dict())),
        ("scheduler", {"entries": sorted(content["scheduler"] or {})}, {"entries": sorted(schedule)}),
    ):
        if differences := describe_differences(theirs, ours):
            raise ValueError(
                f"{path} holds another {part} ({differences}). Build the one that was saved, or start a new "
                "run."
            )
    batches.check_state_dict(content["batches"])

    objective.load_state_dict(content["objective"])
    optimizer.load_state_dict(content["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(content["scheduler"])
    batches.load_state_dict(content["batches"])
    torch.set_rng_state(content["random_state"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["cuda_random_state"][: torch.cuda.device_count()])
    return int(content["step"])


def _check_finite(objective: nn.Module, step: int) -> None:
    broken = [name for name, value in objective.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise FloatingPointError(
            f"after step {step} the weights are no longer finite ({', '.join(broken)}), so no checkpoint was "
            "saved. Lower the learning rate; the last checkpoint, if there is one, is untouched."
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; start the run without --resume")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if missing := CONTENT - content.keys():
            raise KeyError(f"it lacks {sorted(missing)}")
    except Exception as error:  # a foreign or truncated file fails in torch's reader in many ways
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}: {error}). Delete it and start "
            "the run without --resume."
        ) from error
    return content


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every saved tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _groups(state: dict[str, Any]) -> dict[str, Any]:
    """The number of parameters and the names of the options, for every parameter group."""
    return {
        f"group {index}": {"parameters": len(group["params"]), "options": sorted(group)}
        for index, group in enumerate(state["param_groups"])
    }
