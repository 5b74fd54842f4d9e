"""Flows on MNIST, as densities of images and inside a VAE: what `reproduce.py` runs."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from record import peak_memory_gib, reset_peak_memory
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.optim.lr_scheduler import CosineAnnealingLR
from vae_runs import PROTOCOL as VAE_PROTOCOL
from vae_runs import STEPS as VAE_STEPS
from vae_runs import train_and_evaluate

from course_lib.affine_flows import MaskedAutoregressive
from course_lib.bijections import Bijection, Composition, Permutation
from course_lib.data import Images, load_images
from course_lib.dequantisation import Logit, bits_per_dimension
from course_lib.flow import (
    Flow,
    FlowEncoder,
    NegativeLogLikelihood,
    autoregressive_layers,
    coupling_layers,
)
from course_lib.networks import BernoulliNetwork, NormalNetwork
from course_lib.planar import Planar
from course_lib.training import fit
from course_lib.vae import VAE

ALPHA, BATCH, LEARNING_RATE = 1e-6, 100, 1e-3
HIDDEN, LATENTS, CONTEXT = (300, 300), 10, 50


@torch.no_grad()
def bits_of_gaussian(images: Images, x: Tensor) -> Tensor:
    """Bits per dimension of each x under the full-covariance Gaussian of the training images' logits."""
    logit = Logit(ALPHA)
    z = logit(images.evaluation("dequantize", "train", seed=0).double())
    gaussian = MultivariateNormal(z.mean(0), torch.cov(z.T, correction=0))
    z, log_det = logit.forward_and_log_det(x.double())
    return bits_per_dimension(gaussian.log_prob(z) + log_det, images.n_pixels, images.n_levels)


def flow(
    seed: int, device: torch.device, layers: Callable[[int], list[Bijection]], steps: int
) -> dict[str, float]:
    """Train a flow on dequantised MNIST once and evaluate it on the test set."""
    images = load_images("mnist", device)
    torch.manual_seed(seed)
    model = Flow(images.n_pixels, [Logit(ALPHA), *layers(images.n_pixels)]).to(device)
    model.initialise(images.evaluation("dequantize", "train", seed=seed)[:10_000])
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    scheduler = CosineAnnealingLR(optimizer, steps)
    batches = images.batches(BATCH, "dequantize", seed=seed)
    start = time.perf_counter()
    fit(NegativeLogLikelihood(model), batches, steps, optimizer, scheduler)
    trained = time.perf_counter()
    reset_peak_memory()
    x = images.evaluation("dequantize", "test", seed=0)
    with torch.no_grad():
        log_prob = torch.cat([model.log_prob(part) for part in x.split(1000)])
    bits = bits_per_dimension(log_prob, images.n_pixels, images.n_levels).double()
    gaussian = bits_of_gaussian(images, x)
    difference = gaussian - bits
    return {
        "bits per dimension": float(bits.mean()),
        "bits per dimension, full-covariance Gaussian": float(gaussian.mean()),
        "Gaussian minus flow": float(difference.mean()),
        "Gaussian minus flow, standard error": float(difference.std() / math.sqrt(len(difference))),
        "training": trained - start,
        "evaluation": time.perf_counter() - trained,
        "evaluation memory": peak_memory_gib(),
    }


def flow_entry(
    model: str,
    layers: Callable[[int], list[Bijection]],
    steps: int,
    published: str,
    source: str,
) -> dict[str, Any]:
    """A density of images beside its published number."""
    return {
        "run": partial(flow, layers=layers, steps=steps),
        "seeds": [0],
        "model": model,
        "protocol": (
            f"MNIST, dequantised with fresh uniform noise for every batch, logits with margin {ALPHA:g}; "
            f"{steps:,} steps of batch {BATCH}, Adam with learning rate {LEARNING_RATE:g} falling to 0 along "
            "a cosine; evaluated on all 10,000 test images, dequantised once with seed 0. The Gaussian is "
            "fitted to the logits of all training images and evaluated on the same test images"
        ),
        "published": {
            "bits per dimension": published,
            "bits per dimension, full-covariance Gaussian": "2.01",
        },
        "source": source,
        "unit": "bits per pixel",
        "steps": steps,
    }


def flow_prior() -> Flow:
    """Four couplings of the latents."""
    return Flow(LATENTS, coupling_layers(LATENTS, 4, [64, 64]))


def iaf_posterior() -> Bijection:
    """Two inverse autoregressive layers that see the image."""
    layers = [MaskedAutoregressive(LATENTS, [100], CONTEXT) for _ in range(2)]
    return Composition([layers[0], Permutation.reversing(LATENTS), layers[1]])


def planar_posterior() -> Bijection:
    """Ten planar layers whose parameters are read off the image."""
    return Composition(Planar(LATENTS, CONTEXT) for _ in range(10))


def flow_vae(
    seed: int,
    device: torch.device,
    prior: Callable[[], Flow] | None,
    posterior: Callable[[], Bijection] | None,
    cosine: bool,
) -> dict[str, float]:
    """Train and evaluate the 784-300-300-10 ELU VAE once, with flows in the places named."""
    images = load_images("mnist", device)
    torch.manual_seed(seed)
    encoder = (
        NormalNetwork(images.n_pixels, HIDDEN, LATENTS)
        if posterior is None
        else FlowEncoder(images.n_pixels, HIDDEN, LATENTS, posterior(), CONTEXT)
    )
    decoder = BernoulliNetwork(LATENTS, tuple(reversed(HIDDEN)), images.n_pixels)
    model = VAE(encoder, decoder, images.n_pixels, LATENTS, prior() if prior else None).to(device)
    return train_and_evaluate(model, images, seed, cosine)


def vae_entry(
    where: str,
    prior: Callable[[], Flow] | None = None,
    posterior: Callable[[], Bijection] | None = None,
    cosine: bool = False,
) -> dict[str, Any]:
    """A VAE with a flow, for which nothing is published: beside the run `vae`, or `vae_cosine`."""
    rate = "Adam with learning rate 2e-3 falling to 0 along a cosine" if cosine else "Adam 1e-3"
    return {
        "run": partial(flow_vae, prior=prior, posterior=posterior, cosine=cosine),
        "seeds": [0],
        "model": f"VAE, 784-300-300-10 ELU, {where}" + (", cosine learning rate" if cosine else ""),
        "protocol": VAE_PROTOCOL.replace("Adam 1e-3", rate),
        "published": {},
        "source": "none: beside the VAE of this page that has the same networks, budget and schedule",
        "unit": "nats per image",
        "steps": VAE_STEPS,
    }


FLOW_RUNS: dict[str, dict[str, Any]] = {
    "flow_autoregressive": flow_entry(
        "Masked autoregressive flow, 5 layers of 1,024 SiLU units, fully connected",
        lambda n_pixels: autoregressive_layers(n_pixels, 5, [1024]),
        4000,
        "1.89",
        "Papamakarios, Pavlakou and Murray (2017): MAF of 5 layers of 1,024 units, fully connected, and "
        "their Gaussian. Convolutional flows reach more: RealNVP 1.06, Glow 1.05, FFJORD 0.99 (table 2 of "
        "Grathwohl et al., 2019)",
    ),
    "flow_coupling": flow_entry(
        "RealNVP, 6 couplings of 512-512 SiLU units, fully connected",
        lambda n_pixels: coupling_layers(n_pixels, 6, [512, 512]),
        4000,
        "1.06",
        "RealNVP with its multi-scale convolutional residual networks, in table 2 of Grathwohl et al. "
        "(2019). The Gaussian: Papamakarios, Pavlakou and Murray (2017), whose fully connected RealNVP of 5 "
        "couplings has 1.93",
    ),
    "vae_flow_prior": vae_entry("a flow of four couplings as prior", prior=flow_prior),
    "vae_planar": vae_entry("ten planar layers in the posterior", posterior=planar_posterior),
    "vae_iaf": vae_entry("two inverse autoregressive layers in the posterior", posterior=iaf_posterior),
    "vae_flow_both": vae_entry(
        "a flow prior and an inverse autoregressive posterior", flow_prior, iaf_posterior
    ),
    "vae_flow_prior_cosine": vae_entry("a flow of four couplings as prior", flow_prior, cosine=True),
    "vae_iaf_cosine": vae_entry(
        "two inverse autoregressive layers in the posterior", posterior=iaf_posterior, cosine=True
    ),
}
