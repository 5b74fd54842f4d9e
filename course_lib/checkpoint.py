"""Checkpoints from which an interrupted run continues bit for bit."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from course_lib.batches import Batches

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: str | Path,
    description: dict[str, Any],
    step: int,
    objective: nn.Module,
    optimizer: Optimizer,
    batches: Batches,
) -> None:
    """Write everything the next step depends on, atomically: a reader sees the old file or the new one.

    Args:
        path: the file to write.
        description: what the run is (model, sizes, data, seed …); checked when the file is loaded.
        step: optimiser steps taken.
        objective: its parameters and buffers are saved.
        optimizer: its moments and step counts are saved.
        batches: its order, place and generator are saved, and torch's global generators with them.

    Raises:
        OSError: the folder cannot be written to; nothing is left behind.
    """
    path = Path(path)
    content = {
        "description": description,
        "step": step,
        "objective": objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "batches": batches.state_dict(),
        "random_state": torch.get_rng_state(),
        "cuda_random_state": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
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
    batches: Batches,
) -> int:
    """Put a run back to where `save_checkpoint` left it.

    Args:
        path: a file written by `save_checkpoint`.
        description: must equal the saved one.
        objective: receives its parameters and buffers; likewise `optimizer` and `batches` their state.
        optimizer: built on the objective's parameters.
        batches: built on the same data set.

    Returns:
        the number of steps already taken.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, or one of another run; says what differs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; start the run without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        saved = content["description"]
    except Exception as error:  # a foreign or truncated file fails in torch's reader in many ways
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}: {error}). Delete it and start "
            "the run without --resume."
        ) from error
    differences = [
        f"{key}: saved {saved.get(key)!r}, asked for {description.get(key)!r}"
        for key in sorted(saved.keys() | description.keys())
        if saved.get(key) != description.get(key)
    ]
    if differences:
        raise ValueError(
            f"{path} belongs to another run ({'; '.join(differences)}). Ask for the same settings, or "
            "choose another output folder."
        )
    try:
        objective.load_state_dict(content["objective"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} holds another model ({reason}). Build the one that was saved, or start a new run."
        ) from error
    optimizer.load_state_dict(content["optimizer"])
    batches.load_state_dict(content["batches"])
    torch.set_rng_state(content["random_state"])
    if content["cuda_random_state"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["cuda_random_state"])
    return int(content["step"])
