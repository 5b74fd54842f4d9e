r"""The variational autoencoder: a Gaussian prior, and two networks whose outputs are distributions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from course_lib.checks import recorded
from course_lib.elementwise import ELU
from course_lib.latent_variable_model import LatentVariableModel
from course_lib.networks import BernoulliNetwork, NormalNetwork, StandardNormal

__all__ = ["VAE", "BernoulliVAE", "GaussianVAE"]


class VAE(LatentVariableModel):
    r"""A latent-variable model with prior N(0, I), amortised posterior and neural likelihood.

    .. math::
        p(z) = \mathcal N(0, I), \qquad p_\theta(x \mid z) = \mathrm{decoder}(z), \qquad
        q_\phi(z \mid x) = \mathcal N\bigl(\mu_\phi(x), \operatorname{diag} \sigma_\phi^2(x)\bigr)

    Args:
        encoder: network from x, shape (\*batch, D), to a distribution over z.
        decoder: network from z, shape (\*batch, L), to a distribution over x.
        n_pixels: the number D of pixels.
        n_latents: the number L of latents.
        prior: network without input that gives a distribution over z, event (L,), in place of N(0, I).

    Source:
        Kingma and Welling (2014); Rezende, Mohamed and Wierstra (2014).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        n_pixels: int,
        n_latents: int,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.prior_network = StandardNormal(n_latents) if prior is None else prior
        self.n_pixels, self.n_latents = n_pixels, n_latents

    def prior(self) -> Distribution:
        """p(z), event (L,): N(0, I) unless another was given."""
        return self.prior_network()

    def likelihood(self, z: Tensor) -> Independent:
        """The decoder's distribution over x, event (D,)."""
        return self.decoder(z)

    def posterior(self, x: Tensor) -> Independent:
        """The encoder's N(μ(x), diag σ²(x)), event (L,).

        Raises:
            ValueError: x has another number of pixels than the model.
        """
        if x.shape[-1] != self.n_pixels:
            raise ValueError(
                f"x has {x.shape[-1]} pixels on its last axis (shape {tuple(x.shape)}); this model was "
                f"built for n_pixels={self.n_pixels}. Flatten images with x.flatten(1)."
            )
        return self.encoder(x)


class BernoulliVAE(VAE):
    r"""The VAE of binary images.

    .. math:: p_\theta(x \mid z) = \prod_d \mathrm{Bernoulli}\bigl(x_d; \sigma(\ell_d(z))\bigr)

    The defaults are the 784-300-300-10 ELU networks of the course's reproductions.

    A Bernoulli scores pixels outside [0, 1] without complaint, so `posterior` refuses them. Looking at the
    values makes the host wait for an accelerator; what is looked at is therefore

    - on the CPU: every x;
    - on an accelerator: the first x for which gradients are recorded, which is the first training batch, and
      every x under `torch.no_grad()`, which is every evaluation; later training batches are not;
    - inside `torch.compile`, or while a CUDA graph is recorded: nothing, because a look would break it.

    Args:
        n_pixels: the number D of pixels.
        n_latents: the number L of latents.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: module class applied after each hidden layer.
        prior: as for `VAE`.
    """

    def __init__(
        self,
        n_pixels: int,
        n_latents: int = 10,
        hidden: Sequence[int] = (300, 300),
        activation: type[nn.Module] = ELU,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__(
            NormalNetwork(n_pixels, hidden, n_latents, activation),
            BernoulliNetwork(n_latents, tuple(reversed(hidden)), n_pixels, activation),
            n_pixels,
            n_latents,
            prior,
        )
        self.training_batch_checked = False

    def posterior(self, x: Tensor) -> Independent:
        """The encoder's N(μ(x), diag σ²(x)), event (L,), after a check that x can be bits.

        Raises:
            ValueError: x has the wrong number of pixels, or pixels outside [0, 1] where those are looked at
                (see the class).
        """
        if not recorded(x):
            training = torch.is_grad_enabled()
            if x.device.type == "cpu" or not training or not self.training_batch_checked:
                check_unit_interval(x)
                self.training_batch_checked = self.training_batch_checked or training
        return super().posterior(x)


class GaussianVAE(VAE):
    r"""The VAE of continuous images.

    .. math:: p_\theta(x \mid z) = \mathcal N\bigl(\mu_\theta(z), \operatorname{diag}\sigma_\theta^2(z)\bigr)

    Args:
        n_pixels: the number D of pixels.
        n_latents: the number L of latents.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: module class applied after each hidden layer.
        min_std: floor of the decoder's standard deviation, in units of the data.
    """

    def __init__(
        self,
        n_pixels: int,
        n_latents: int = 10,
        hidden: Sequence[int] = (300, 300),
        activation: type[nn.Module] = nn.Tanh,
        min_std: float = 0.05,
    ) -> None:
        super().__init__(
            NormalNetwork(n_pixels, hidden, n_latents, activation),
            NormalNetwork(n_latents, tuple(reversed(hidden)), n_pixels, activation, min_std=min_std),
            n_pixels,
            n_latents,
        )


def check_unit_interval(x: Tensor) -> None:
    """Refuse pixels outside [0, 1]."""
    if x.numel() == 0:
        return
    smallest, largest = x.aminmax()
    if not (smallest >= 0 and largest <= 1):  # also true of NaN
        raise ValueError(
            f"x has pixels in [{float(smallest):g}, {float(largest):g}], outside [0, 1]. "
            "Divide grey levels by the highest one (255 in 8-bit images), or use "
            "batches(transform='binarize')."
        )
