"""The RBM's published numbers, trained again: what `reproduce.py` runs."""

import time
from typing import Any

import torch
from record import peak_memory_gib, reset_peak_memory
from torch.optim.lr_scheduler import LinearLR

from course_lib.annealed_importance_sampling import (
    annealed_importance_sampling,
    linear_schedule,
    raise_bound,
)
from course_lib.contrastive_divergence import ContrastiveDivergence
from course_lib.data import load_images
from course_lib.rbm import RBM
from course_lib.training import fit

HIDDEN, BATCH, PASSES, LEARNING_RATE = 500, 100, 120, 0.1
STEPS = PASSES * 60_000 // BATCH
TEMPERATURES, CHAINS, RAISE_IMAGES = 10_000, 500, 500


def rbm(seed: int, device: torch.device) -> dict[str, float]:
    """Train and evaluate a machine with 500 hidden units once; with its times in seconds."""
    images = load_images("mnist", device)
    mean = (images.train / (images.n_levels - 1)).mean(0)
    torch.manual_seed(seed)
    model = RBM(images.n_pixels, HIDDEN, mean).to(device)
    objective = ContrastiveDivergence(model, n_steps=1, persistent=True, n_chains=BATCH, centring=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, fused=True)
    scheduler = LinearLR(optimizer, 1.0, 0.0, STEPS)
    start = time.perf_counter()
    fit(objective, images.batches(BATCH, "binarize", seed=seed), STEPS, optimizer, scheduler)
    trained = time.perf_counter()
    torch.manual_seed(seed)
    reset_peak_memory()
    values = evaluate(model, images.evaluation("binarize", "test", seed=0), mean)
    costs = {"training": trained - start, "evaluation": time.perf_counter() - trained}
    return values | costs | {"evaluation memory": peak_memory_gib()}


@torch.no_grad()
def evaluate(model: RBM, v: torch.Tensor, mean: torch.Tensor) -> dict[str, float]:
    """The test log-likelihood by AIS, what vouches for it, and the RAISE bound on the first test images."""
    base_bias = torch.logit(mean, 1e-3)
    once, twice = (
        annealed_importance_sampling(model, linear_schedule(n), CHAINS, base_bias, progress=True)
        for n in (TEMPERATURES, 2 * TEMPERATURES)
    )
    log_likelihood = model.log_likelihood(v, twice.log_partition)
    some, theirs = v[:RAISE_IMAGES], log_likelihood[:RAISE_IMAGES]
    coarse, fine = (
        raise_bound(model, some, linear_schedule(n), 1, base_bias, progress=True) - theirs
        for n in (TEMPERATURES, 2 * TEMPERATURES)
    )
    return {
        "test log-likelihood, AIS": float(log_likelihood.mean()),
        "log Z": twice.log_partition,
        "standard error of log Z": twice.standard_error,
        f"effective sample size of {CHAINS} chains": twice.effective_sample_size,
        "log Z, less that at half as many temperatures": twice.log_partition - once.log_partition,
        f"AIS on the first {RAISE_IMAGES} images": float(theirs.mean()),
        f"RAISE on the first {RAISE_IMAGES} images": float((theirs + fine).mean()),
        "RAISE less AIS": float(fine.mean()),
        "standard error of RAISE less AIS": float(fine.std() / len(fine) ** 0.5),
        "RAISE less AIS, at half as many temperatures": float(coarse.mean()),
    }


RBM_RUNS: dict[str, dict[str, Any]] = {
    "rbm": {
        "run": rbm,
        "seeds": [0],
        "model": "RBM, 784-500, persistent contrastive divergence, centred",
        "protocol": (
            f"MNIST, fresh bits for every training batch, {PASSES} passes of batch {BATCH} with as many "
            "persistent chains and one Gibbs step a batch, plain gradient steps with a rate falling linearly "
            f"from {LEARNING_RATE} to 0; evaluated on all 10,000 test images, binarised once with seed 0; "
            f"AIS with {CHAINS} chains and {2 * TEMPERATURES:,} equal temperature steps from the logits of "
            "the training mean; RAISE with the same steps, one chain an image. The rate was the better of "
            "0.05 and 0.1, for training as for test images, in trials of one seed"
        ),
        "published": {"test log-likelihood, AIS": "-86.34"},
        "source": "Salakhutdinov and Murray (2008): 500 hidden units, CD-25, AIS with 100 chains and 14,500 "
        "temperatures; CD-1 gave -125.53 there",
        "unit": "nats per image",
        "steps": STEPS,
    },
}
