"""The importance-weighted autoencoder's published numbers, in fewer steps: what `reproduce.py` runs.

A run takes minutes on a GPU; on a CPU the one with 50 samples takes more than an hour.
"""

import time
from functools import partial
from typing import Any

import torch
from record import peak_memory_gib, reset_peak_memory
from recorded_steps import BitStream, Training, train_recorded
from torch import Tensor, nn

from course_lib.bounds import NegativeIwaeBound, elbo, estimate_log_likelihood
from course_lib.data import load_images
from course_lib.importance_weighted import active_units
from course_lib.latent_variable_model import LatentVariableModel
from course_lib.vae import BernoulliVAE

STEPS, BATCH, LEARNING_RATE, TEST_SAMPLES = 200_000, 20, 1e-3, 5000
CURVE = (300, 1000, 3000, 10_000, 30_000, 100_000)
CURVE_IMAGES, CURVE_SAMPLES = 1000, 100
PAIRS = 100_000  # of an image and a sample, at a time: a third of a gigabyte of pixels


def curve_key(step: int) -> str:
    """The name of a point of the learning curve; book/12_importance_weighted.md reads the step out of it."""
    return f"after {step:,} steps: first {CURVE_IMAGES:,} images, K = {CURVE_SAMPLES}"


@torch.no_grad()
def evaluate(model: LatentVariableModel, x: Tensor) -> dict[str, float]:
    """The log-likelihood from as many samples as in the paper, the negative ELBO, and the latents in use."""
    values = torch.cat([elbo(model, part).value for part in x.split(1000)])
    estimate = estimate_log_likelihood(model, x, TEST_SAMPLES, chunk=PAIRS)
    return {
        f"negative log-likelihood, K = {TEST_SAMPLES:,}": -float(estimate.mean()),
        "negative ELBO": -float(values.mean()),
        "active units": float(active_units(model, x).sum()),
    }


def iwae(seed: int, device: torch.device, n_samples: int, steps: int = STEPS) -> dict[str, float]:
    """Train and evaluate the 784-200-200-50 tanh model with K samples once; with its times in seconds."""
    images = load_images("mnist", device)
    torch.manual_seed(seed)
    model = BernoulliVAE(images.n_pixels, 50, (200, 200), nn.Tanh).to(device)
    x_test = images.evaluation("binarize", "test", seed=0)
    curve: dict[str, float] = {}
    watching = 0.0

    def watch(step: int, losses: list[float]) -> None:
        nonlocal watching
        begun = time.perf_counter()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            estimate = estimate_log_likelihood(model, x_test[:CURVE_IMAGES], CURVE_SAMPLES, PAIRS)
        curve[curve_key(step)] = -float(estimate.mean())
        watching += time.perf_counter() - begun
        nats = curve[curve_key(step)]
        print(f"K = {n_samples}: loss {losses[0]:.2f}, {nats:.2f} {curve_key(step)}", flush=True)

    start = time.perf_counter()
    objective: Any = NegativeIwaeBound(model, n_samples)
    if device.type == "cuda":
        objective = torch.compile(objective)  # a third of the kernels
    training = Training(objective, BitStream(images.train, BATCH), {model: LEARNING_RATE})
    train_recorded([training], steps, watch, [step for step in (*CURVE, steps) if step <= steps])
    trained = time.perf_counter()
    torch.manual_seed(seed)
    reset_peak_memory()
    values = evaluate(model, x_test)
    costs = {"training": trained - start - watching, "evaluation": time.perf_counter() - trained + watching}
    return values | curve | costs | {"evaluation memory": peak_memory_gib()}


def entry(n_samples: int, likelihood: str, units: str) -> dict[str, Any]:
    """The run with K samples beside its published numbers."""
    return {
        "run": partial(iwae, n_samples=n_samples),
        "seeds": [0],
        "model": f"Importance-weighted autoencoder, 784-200-200-50 tanh, K = {n_samples}",
        "protocol": (
            f"MNIST, fresh bits for every training batch as in the published table, {STEPS:,} steps of batch "
            f"{BATCH}, which is {STEPS * BATCH // 60_000} passes against the published 3,280; Adam with "
            f"learning rate {LEARNING_RATE:g} falling to 0 along a cosine, the published one fell from "
            "1e-3 to 1e-4 in eight stages; evaluated on all 10,000 test images, binarised once with seed 0, "
            f"with K = {TEST_SAMPLES:,} as published. "
            f"The learning curve is that of the first {CURVE_IMAGES:,} test images"
        ),
        "published": {f"negative log-likelihood, K = {TEST_SAMPLES:,}": likelihood, "active units": units},
        "source": "Burda, Grosse and Salakhutdinov (2016), table 1: one stochastic layer, log-likelihood "
        "from 5,000 samples",
        "unit": "nats per image",
        "steps": STEPS,
    }


IWAE_RUNS: dict[str, dict[str, Any]] = {
    "iwae_1": entry(1, "86.76", "19 of 50"),
    "iwae_50": entry(50, "84.78", "25 of 50"),
}
