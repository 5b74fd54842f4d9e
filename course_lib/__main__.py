"""`python -m course_lib train MODEL …` trains a model without a notebook."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from course_lib.bounds import NegativeElbo, NegativeIwaeBound, elbo
from course_lib.checkpoint import load_checkpoint, save_checkpoint
from course_lib.data import DATASETS, default_device, load_images
from course_lib.latent_variable_model import LatentVariableModel
from course_lib.training import History, fit
from course_lib.vae import BernoulliVAE

MODELS = {"vae": BernoulliVAE}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m course_lib", description=__doc__)
    train = top.add_subparsers(dest="command", required=True).add_parser("train", help="train a model")
    train.add_argument("model", choices=sorted(MODELS))
    train.add_argument("--objective", choices=["elbo", "iwae"], default="elbo")
    train.add_argument("--n-samples", type=int, default=None, help="posterior samples (elbo 1, iwae 50)")
    train.add_argument("--dataset", choices=DATASETS, default=None, help="default: $COURSE_DATASET or digits")
    train.add_argument("--steps", type=int, default=20_000)
    train.add_argument("--batch-size", type=int, default=100)
    train.add_argument("--learning-rate", type=float, default=1e-3)
    train.add_argument("--n-latents", type=int, default=10)
    train.add_argument("--hidden", type=int, nargs="*", default=[300, 300], help="encoder layer widths")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default=None, help="default: $COURSE_DEVICE, else the GPU if there is one")
    train.add_argument("--out", type=Path, default=Path("runs/latest"), help="folder for the results")
    train.add_argument("--checkpoint-every", type=int, default=1000, help="steps between checkpoints")
    train.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    return top


def train(arguments: argparse.Namespace) -> None:
    """Train, writing `metrics.jsonl` (a JSON object a line) and `checkpoint.pt` into the output folder."""
    for name in ("steps", "checkpoint_every", "n_latents"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    if min(arguments.hidden, default=1) < 1:
        raise ValueError(f"--hidden must be widths of at least 1, got {arguments.hidden}")
    device = default_device(arguments.device)
    images = load_images(arguments.dataset, device)
    torch.manual_seed(arguments.seed)
    model = MODELS[arguments.model](images.n_pixels, arguments.n_latents, arguments.hidden).to(device)
    n_samples = (
        arguments.n_samples
        if arguments.n_samples is not None
        else {"elbo": 1, "iwae": 50}[arguments.objective]
    )
    objective = (
        NegativeElbo(model, n_samples=n_samples)
        if arguments.objective == "elbo"
        else NegativeIwaeBound(model, n_samples)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate, fused=True)
    batches = images.batches(arguments.batch_size, seed=arguments.seed)
    description = {
        name: getattr(arguments, name)
        for name in ("model", "objective", "batch_size", "learning_rate", "n_latents", "hidden", "seed")
    } | {
        "dataset": images.name,
        "n_samples": n_samples,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }

    checkpoint, metrics = arguments.out / "checkpoint.pt", arguments.out / "metrics.jsonl"
    first_step = 0
    if arguments.resume:
        first_step = load_checkpoint(checkpoint, description, objective, optimizer, batches)
        if first_step > arguments.steps:
            raise ValueError(
                f"{checkpoint} has taken {first_step} steps; ask for --steps {first_step} or more"
            )
    prepare_folder(arguments.out, resume=arguments.resume)
    keep_records(metrics, first_step)
    log_every = min(50, arguments.checkpoint_every)

    def record(step: int, history: History) -> None:
        append(metrics, {"step": step, "loss": history.losses[-1], "seconds": history.seconds[-1]})
        if step % arguments.checkpoint_every < log_every or step == arguments.steps:
            save_checkpoint(checkpoint, description, step, objective, optimizer, batches)

    fit(
        objective,
        batches,
        arguments.steps,
        optimizer,
        callback=record,
        log_every=log_every,
        first_step=first_step,
        progress=not arguments.quiet,
    )
    test_value = test_negative_elbo(model, images.evaluation())
    if not math.isfinite(test_value):
        raise FloatingPointError(
            f"the negative ELBO of the test set is {test_value} after step {arguments.steps}: the weights "
            "have run away. Start again with a lower --learning-rate and another --out."
        )
    append(metrics, {"step": arguments.steps, "test_negative_elbo": test_value})
    print(f"results in {arguments.out}: {metrics.name}, {checkpoint.name}")


@torch.no_grad()
def test_negative_elbo(model: LatentVariableModel, x: torch.Tensor) -> float:
    """Mean negative ELBO of a whole set, one sample an image, in nats."""
    return -float(torch.cat([elbo(model, part).value for part in x.split(1000)]).mean())


def prepare_folder(folder: Path, resume: bool) -> None:
    """Make the output folder; refuse one that cannot be written to or that holds another run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise PermissionError(f"cannot write to --out {folder} ({error}); choose another folder") from error
    if not resume and (folder / "checkpoint.pt").exists():
        raise FileExistsError(
            f"{folder} holds a run already; continue it with --resume or choose another --out"
        )


def append(metrics: Path, values: dict[str, Any]) -> None:
    """Add one JSON line; JSON has no NaN."""
    line = json.dumps(values, allow_nan=False)
    with metrics.open("a") as file:
        file.write(line + "\n")


def keep_records(metrics: Path, last_step: int) -> None:
    """Drop what an interrupted run wrote after its last checkpoint, a half-written line included."""
    text = metrics.read_text() if last_step and metrics.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    kept = [line for line in lines if (values := json.loads(line))["step"] <= last_step and "loss" in values]
    partial = metrics.with_name(f".{metrics.name}")
    partial.write_text("".join(line + "\n" for line in kept))
    partial.replace(metrics)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; user errors become one line on stderr and exit code 2."""
    arguments = parser().parse_args(argv)
    try:
        train(arguments)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"course_lib: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
