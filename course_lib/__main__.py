"""`python -m course_lib train MODEL …` trains a model without a notebook."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib.batches import Batches, ZippedBatches
from course_lib.bounds import NegativeElbo, NegativeIwaeBound, elbo
from course_lib.checkpoint import load_checkpoint, save_checkpoint
from course_lib.data import DATASETS, Images, default_device, load_images
from course_lib.gmvae import GMVAE
from course_lib.labels import balanced_indices
from course_lib.latent_variable_model import LatentVariableModel
from course_lib.semi_supervised_model import SSVAE
from course_lib.ssvae import BernoulliSSVAE, SemiSupervisedObjective, unlabelled_bound
from course_lib.training import History, fit
from course_lib.vae import BernoulliVAE

MODELS: dict[str, Callable[[argparse.Namespace, Images], LatentVariableModel | SSVAE]] = {
    "vae": lambda given, images: BernoulliVAE(images.n_pixels, given.n_latents, given.hidden),
    "gmvae": lambda given, images: GMVAE(images.n_pixels, given.n_latents, given.n_components, given.hidden),
    "ssvae": lambda given, images: BernoulliSSVAE(
        images.n_pixels, n_classes(images), given.n_latents, given.hidden
    ),
}
# The options of one model only: whose they are, and their defaults.
OWN_OPTIONS = {
    "n_components": ("gmvae", 500),
    "labels": ("ssvae", 100),
    "classifier_weight": ("ssvae", 100.0),
}
SHARED_OPTIONS = ("model", "objective", "batch_size", "learning_rate", "n_latents", "hidden", "seed")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m course_lib", description=__doc__)
    train = top.add_subparsers(dest="command", required=True).add_parser("train", help="train a model")
    train.add_argument("model", choices=list(MODELS))
    train.add_argument("--objective", choices=["elbo", "iwae"], default="elbo")
    train.add_argument(
        "--n-samples", type=int, help="posterior samples (elbo 1, iwae 50; ssvae has 5 a label with iwae)"
    )
    train.add_argument("--dataset", choices=DATASETS, default=None, help="default: $COURSE_DATASET or digits")
    train.add_argument("--steps", type=int, default=20_000)
    train.add_argument("--batch-size", type=int, default=100)
    train.add_argument("--learning-rate", type=float, default=1e-3)
    train.add_argument("--n-latents", type=int, default=10)
    train.add_argument("--hidden", type=int, nargs="*", default=[300, 300], help="encoder layer widths")
    train.add_argument("--n-components", type=int, help="gmvae only: components of the prior (500)")
    train.add_argument("--labels", type=int, help="ssvae only: how many, equally many of each class (100)")
    train.add_argument("--classifier-weight", type=float, help="ssvae only: of the cross-entropy (100)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default=None, help="default: $COURSE_DEVICE, else the GPU if there is one")
    train.add_argument("--out", type=Path, default=Path("runs/latest"), help="folder for the results")
    train.add_argument("--checkpoint-every", type=int, default=1000, help="steps between checkpoints")
    train.add_argument("--resume", action="store_true", help="continue from the checkpoint in --out")
    train.add_argument("--quiet", action="store_true", help="no progress bar")
    return top


def settle(arguments: argparse.Namespace) -> list[str]:
    """Fill in what was not given, and refuse what makes no run; the names of the options that define it."""
    for name in ("steps", "checkpoint_every", "n_latents"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"{flag(name)} must be at least 1, got {getattr(arguments, name)}")
    if min(arguments.hidden, default=1) < 1:
        raise ValueError(f"--hidden must be widths of at least 1, got {arguments.hidden}")
    if arguments.model == "ssvae" and not arguments.hidden:
        raise ValueError("--hidden must name at least one width: the labels of ssvae enter a hidden layer")
    if arguments.n_samples is None:
        weighted = 5 if arguments.model == "ssvae" else 50
        arguments.n_samples = {"elbo": 1, "iwae": weighted}[arguments.objective]
    defining = [*SHARED_OPTIONS, "n_samples"]
    for name, (owner, default) in OWN_OPTIONS.items():
        if arguments.model == owner:
            defining.append(name)
            if getattr(arguments, name) is None:
                setattr(arguments, name, default)
        elif getattr(arguments, name) is not None:
            raise ValueError(
                f"{flag(name)} belongs to {owner}, got it with {arguments.model}; leave it out, or train "
                f"{owner}"
            )
    return defining


def flag(name: str) -> str:
    """How an option is written on the command line."""
    return f"--{name.replace('_', '-')}"


def n_classes(images: Images) -> int:
    """How many classes the labels name."""
    return int(images.train_labels.max()) + 1


def build(
    given: argparse.Namespace, images: Images
) -> tuple[LatentVariableModel | SSVAE, nn.Module, Batches | ZippedBatches]:
    """The model, its objective and its batches."""
    model = MODELS[given.model](given, images).to(images.device)
    weighted = given.objective == "iwae"
    if isinstance(model, SSVAE):
        if given.labels < 1 or given.labels % model.n_classes:
            raise ValueError(
                f"--labels must be a multiple of the {model.n_classes} classes, so that each has equally "
                f"many, got {given.labels}"
            )
        if not 0 <= given.classifier_weight < math.inf:
            raise ValueError(f"--classifier-weight must be at least 0, got {given.classifier_weight}")
        labelled = balanced_indices(images.train_labels, given.labels // model.n_classes, given.seed)
        objective: nn.Module = SemiSupervisedObjective(
            model, given.classifier_weight, n_samples=given.n_samples, importance_weighted=weighted
        )
        return model, objective, images.semi_supervised_batches(labelled, given.batch_size, seed=given.seed)
    objective = (
        NegativeIwaeBound(model, given.n_samples)
        if weighted
        else NegativeElbo(model, n_samples=given.n_samples)
    )
    return model, objective, images.batches(given.batch_size, seed=given.seed)


def train(arguments: argparse.Namespace) -> None:
    """Train, writing `metrics.jsonl` (a JSON object a line) and `checkpoint.pt` into the output folder."""
    defining = settle(arguments)
    device = default_device(arguments.device)
    images = load_images(arguments.dataset, device)
    torch.manual_seed(arguments.seed)
    model, objective, batches = build(arguments, images)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.learning_rate, fused=True)
    description = {name: getattr(arguments, name) for name in defining} | {
        "dataset": images.name,
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
    results = {"test_negative_elbo": test_negative_elbo(model, images.evaluation())}
    if not math.isfinite(results["test_negative_elbo"]):
        raise FloatingPointError(
            f"the negative ELBO of the test set is {results['test_negative_elbo']} after step "
            f"{arguments.steps}: the weights have run away. Start again with a lower --learning-rate and "
            "another --out."
        )
    if isinstance(model, SSVAE):
        results["test_accuracy"] = test_accuracy(model, images.evaluation(), images.test_labels)
    append(metrics, {"step": arguments.steps, **results})
    print(f"results in {arguments.out}: {metrics.name}, {checkpoint.name}")


@torch.no_grad()
def test_negative_elbo(model: LatentVariableModel | SSVAE, x: torch.Tensor) -> float:
    """Mean negative ELBO of a whole set in nats, one sample an image (and label, which is summed out)."""
    bounds = [
        unlabelled_bound(model, part) if isinstance(model, SSVAE) else elbo(model, part).value
        for part in x.split(1000)
    ]
    return -float(torch.cat(bounds).mean())


@torch.no_grad()
def test_accuracy(model: SSVAE, x: torch.Tensor, y: torch.Tensor) -> float:
    """The share of images whose most probable label under q(y | x) is the right one."""
    return float((model.label_posterior(x).logits.argmax(-1) == y).double().mean())


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
