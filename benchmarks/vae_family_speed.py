"""Seconds for one pass over MNIST with a VAE, a GMVAE and an IWAE: ours, the bare products, pythae, Pyro.

    .venv/bin/pip install -c constraints.txt pythae==0.1.2
    .venv/bin/python benchmarks/vae_family_speed.py [--threads 2] [--repeats 5] [--device cpu]

The networks are 784-300-300-10 with ELU, the batches 100 grey-level images, the optimiser Adam; the GMVAE has
500 components, the IWAE 5 samples. All runs of a model in one process, interleaved, medians over the repeats:

- products: only the matrix products of the forward and backward pass, into preallocated memory. No training
  loop on this machine can be faster.
- course_lib: `NegativeElbo` or `NegativeIwaeBound`, and `fit` with fused Adam.
- pythae: its `VAE` or `IWAE` with its `BaseTrainer`, of which one epoch is timed, without what the trainer
  does before the first and writes after the last. It has no GMVAE.
- Pyro: its `SVI.step`, with `Trace_ELBO` as in its VAE tutorial, or `RenyiELBO(alpha=0)`, which is the IWAE's
  bound. Distributions are not validated, as in that tutorial; the images are tensors in memory, which is
  kinder than the tutorial's decoding of every image in every pass.

On a GPU ours has the images there, and the peers' loaders bring each batch from the CPU, as their examples
do.

The peers' layers are torch's own. The script refuses to time what does not agree: with equal weights, the
losses of all must be within one per cent of each other.
"""

import argparse
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported; a bar would cost time

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from pyro.optim import Adam  # type: ignore[attr-defined]  # made at run time
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from record import interleaved_seconds, report_speed
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training_speed import products

from course_lib.bounds import NegativeElbo, NegativeIwaeBound
from course_lib.data import load_images
from course_lib.gmvae import GMVAE
from course_lib.training import fit
from course_lib.vae import BernoulliVAE

BATCH, PIXELS, HIDDEN, LATENTS, COMPONENTS, SAMPLES = 100, 784, (300, 300), 10, 500, 5
LEARNING_RATE = 1e-3


def networks(name: str, activation: type[nn.Module] | None = None) -> BernoulliVAE:
    """A model of ours, with its own activation or another; peers take only its layers."""
    options: dict[str, Any] = {} if activation is None else {"activation": activation}
    if name == "gmvae":
        return GMVAE(PIXELS, LATENTS, COMPONENTS, HIDDEN, **options)
    return BernoulliVAE(PIXELS, LATENTS, HIDDEN, **options)


def layers(name: str) -> list[tuple[int, int, int]]:
    """Rows, inputs and outputs of every layer, the mixture's one product included."""
    first, second = HIDDEN
    codes = SAMPLES * BATCH if name == "iwae" else BATCH
    encoder = [(PIXELS, first), (first, second), (second, LATENTS), (second, LATENTS)]
    decoder = [(LATENTS, second), (second, first), (first, PIXELS)]
    mixture = [(2 * LATENTS, COMPONENTS)] if name == "gmvae" else []
    return [(BATCH, *widths) for widths in encoder] + [(codes, *widths) for widths in decoder + mixture]


class Course:
    """Our own: loss of a batch, and one pass."""

    def __init__(self, name: str, device: torch.device) -> None:
        images = load_images("mnist", device)
        self.model = networks(name).to(device)
        self.objective = (
            NegativeIwaeBound(self.model, SAMPLES) if name == "iwae" else NegativeElbo(self.model)
        )
        self.stream = images.batches(BATCH, transform=None)
        self.steps = len(images.train) // BATCH

    def loss(self, x: Tensor) -> float:
        """Nats per image."""
        return float(self.objective(x).detach())

    def run(self) -> None:
        """One pass."""
        fit(self.objective, self.stream, self.steps, log_every=self.steps, progress=False)


class Pyro:
    """Pyro's, with layers of torch."""

    def __init__(self, name: str, model: Any, images: Tensor) -> None:
        self.name, self.networks, self.device = name, model, images.device
        bound = RenyiELBO(alpha=0, num_particles=SAMPLES, vectorize_particles=True, max_plate_nesting=1)
        self.bound = bound if name == "iwae" else Trace_ELBO()
        self.svi = SVI(self.generate, self.infer, Adam({"lr": LEARNING_RATE}), self.bound)
        self.loader = DataLoader(TensorDataset(images.cpu()), batch_size=BATCH, shuffle=True)

    def prior(self, x: Tensor) -> Any:
        """p(z)."""
        if self.name != "gmvae":
            return dist.Normal(x.new_zeros(LATENTS), 1.0).to_event(1)
        mixture: Any = pyro.module("gmvae prior", self.networks.prior_network)  # the weights stay 1/C
        components = dist.Normal(mixture.mean, mixture.log_std.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=mixture.logits), components)

    def generate(self, x: Tensor) -> None:
        """p(x, z)."""
        decoder: Any = pyro.module(f"{self.name} decoder", self.networks.decoder)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", self.prior(x))
            logits = decoder.logits(decoder.trunk(z))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def infer(self, x: Tensor) -> None:
        """q(z | x)."""
        encoder: Any = pyro.module(f"{self.name} encoder", self.networks.encoder)
        with pyro.plate("images", len(x)):
            features = encoder.trunk(x)
            mean, std = encoder.mean(features), encoder.log_std(features).exp()
            pyro.sample("z", dist.Normal(mean, std).to_event(1))

    def loss(self, x: Tensor) -> float:
        """Nats per image."""
        return float(self.bound.loss(self.generate, self.infer, x)) / len(x)

    def run(self) -> None:
        """One pass."""
        for (x,) in self.loader:
            self.svi.step(x.to(self.device))


class PythaeEncoder(BaseEncoder):
    """Our encoder's layers in the form that pythae asks for."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        """Mean and log σ²."""
        features = self.network.trunk(x)
        log_std = self.network.log_std(features)
        return ModelOutput(embedding=self.network.mean(features), log_covariance=2 * log_std)


class PythaeDecoder(BaseDecoder):
    """Our decoder's layers in the form that pythae asks for."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        """Probabilities: its loss is a cross-entropy of those."""
        logits = self.network.logits(self.network.trunk(z))
        return ModelOutput(reconstruction=logits.sigmoid())


class Pythae:
    """pythae's, with layers of torch."""

    def __init__(self, name: str, model: Any, images: Tensor, folder: str) -> None:
        common = {"input_dim": (PIXELS,), "latent_dim": LATENTS, "reconstruction_loss": "bce"}
        modules = PythaeEncoder(model.encoder), PythaeDecoder(model.decoder)
        if name == "iwae":
            self.model = IWAE(IWAEConfig(**common, number_samples=SAMPLES), *modules)
        else:
            self.model = VAE(VAEConfig(**common), *modules)
        settings = BaseTrainerConfig(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_epochs=1,
            learning_rate=LEARNING_RATE,
            no_cuda=images.device.type == "cpu",
        )
        data = BaseDataset(images.cpu(), torch.zeros(len(images)))
        self.trainer = BaseTrainer(self.model, data, training_config=settings)
        self.trainer.prepare_training()

    def loss(self, x: Tensor) -> float:
        """Nats per image."""
        return float(self.model({"data": x}).loss.detach())

    def run(self) -> None:
        """One pass."""
        self.trainer.train_step(1)


def contestants(name: str, images: Tensor, folder: str) -> Iterator[tuple[str, Course | Pyro | Pythae]]:
    """Every run of a model; all start from the same weights."""
    ours = Course(name, images.device)
    yield "course_lib", ours

    def same() -> BernoulliVAE:
        other = networks(name, nn.ELU).to(images.device)
        other.load_state_dict(ours.model.state_dict())
        other.train(False)  # nothing here has a training mode; Pyro would warn of each fixed parameter
        return other

    if name != "gmvae":
        yield "pythae", Pythae(name, same(), images, folder)
    yield "Pyro", Pyro(name, same(), images)


def refuse_if_different(runs: dict[str, Course | Pyro | Pythae], images: Tensor) -> None:
    """Stop unless all agree on the loss of some images, within one per cent: the draws differ."""
    losses = {who: run.loss(images) for who, run in runs.items()}
    ours = losses["course_lib"]
    if not all(math.isclose(loss, ours, rel_tol=0.01) for loss in losses.values()):
        raise SystemExit(f"the losses of one batch with equal weights differ: {losses}; nothing was timed")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    pyro.distributions.enable_validation(False)
    logging.disable(logging.INFO)  # pythae says where it would write
    device = torch.device(options.device)
    images = load_images("mnist", device).evaluation(None, "train")
    steps = len(images) // BATCH
    with tempfile.TemporaryDirectory() as folder:
        for name in ("vae", "gmvae", "iwae"):
            torch.manual_seed(0)
            contest = dict(contestants(name, images, folder))
            refuse_if_different(contest, images[:2000])
            runs: dict[str, Callable[[], None]] = {"products": products(layers(name), device, steps)}
            runs |= {who: contestant.run for who, contestant in contest.items()}
            times = interleaved_seconds(runs, device, options.repeats)
            work = f"one pass over MNIST, {name.upper()}: {steps} steps of {BATCH}, 784-300-300-10 ELU"
            details = {"vae": "", "gmvae": f", {COMPONENTS} components", "iwae": f", K = {SAMPLES}"}[name]
            peers = [who for who in contest if who != "course_lib"]
            report_speed(f"family_{name}", times, device, peers, work, details)


if __name__ == "__main__":
    main()
