r"""The Gaussian-mixture VAE: a VAE whose prior is a learned mixture. Nothing else changes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from course_lib.checks import check_whole, looked_at
from course_lib.distributions import DiagonalNormalMixture, diagonal_normal_mixture
from course_lib.elementwise import ELU
from course_lib.vae import BernoulliVAE

__all__ = ["GMVAE", "MixturePrior"]


class MixturePrior(nn.Module):
    r"""A learned mixture of Gaussians: a network without input that gives a distribution over z.

    .. math:: p_\theta(z) = \sum_{c=1}^{C} \pi_c\, \mathcal N\bigl(z; m_c, \operatorname{diag} s_c^2\bigr)

    The means start as draws from N(0, I) times `spread`, so that no two components are alike; the standard
    deviations start at 1.

    Args:
        n_latents: the number L of latents.
        n_components: the number C of components.
        learn_weights: whether the weights π are learned, too; else they stay 1/C.
        spread: standard deviation of the means at the start.
    """

    def __init__(
        self, n_latents: int, n_components: int, learn_weights: bool = False, spread: float = 1.0
    ) -> None:
        super().__init__()
        check_whole("n_latents", n_latents, 1)
        check_whole("n_components", n_components, 1)
        self.mean = nn.Parameter(spread * torch.randn(n_components, n_latents))
        self.log_std = nn.Parameter(torch.zeros(n_components, n_latents))
        self.logits = nn.Parameter(torch.zeros(n_components), requires_grad=learn_weights)

    def forward(self) -> DiagonalNormalMixture:
        """The mixture, event (L,).

        Raises:
            FloatingPointError: a component has collapsed to zero width or its parameters are NaN. The look
                makes the host wait for an accelerator, so there it is taken under `torch.no_grad()` only,
                which is every evaluation; in training `fit` refuses the loss that is not finite.
        """
        std = self.log_std.exp()
        if looked_at(self.mean):
            check_width(std.detach())
        return diagonal_normal_mixture(self.logits, self.mean, std)


class GMVAE(BernoulliVAE):
    r"""The VAE of binary images with a learned mixture as its prior.

    .. math::
        p_\theta(z) = \sum_{c=1}^{C} \pi_c\, \mathcal N\bigl(z; m_c, \operatorname{diag} s_c^2\bigr), \qquad
        p_\theta(x \mid z), \; q_\phi(z \mid x) \text{ as in the VAE}

    The KL from a Gaussian to a mixture has no closed form; `elbo` estimates it from its own samples.

    Args:
        n_pixels: the number D of pixels.
        n_latents: the number L of latents.
        n_components: the number C of components.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        activation: module class applied after each hidden layer.
        learn_weights: whether the weights π of the components are learned, too.

    Source:
        Dilokthanakul et al. (2016) for mixtures in VAEs; Tomczak and Welling (2018) for learned priors.
    """

    def __init__(
        self,
        n_pixels: int,
        n_latents: int = 10,
        n_components: int = 500,
        hidden: Sequence[int] = (300, 300),
        activation: type[nn.Module] = ELU,
        learn_weights: bool = False,
    ) -> None:
        prior = MixturePrior(n_latents, n_components, learn_weights)
        super().__init__(n_pixels, n_latents, hidden, activation, prior)

    def component_posterior(self, z: Tensor) -> Categorical:
        r"""p(c | z) ∝ π_c N(z; m_c, diag s_c²): z of shape (\*batch, L); batch shape (\*batch,).

        Raises:
            ValueError: z has another number of latents than the prior.
        """
        return Categorical(logits=self.prior_network().component_log_prob(z), validate_args=False)


def check_width(std: Tensor) -> None:
    """Refuse a component whose width is nothing beside 1, the scale of z, at the precision of its type."""
    narrowest = float(std.min())
    least = math.sqrt(torch.finfo(std.dtype).eps)  # below it, z²/s² has lost all digits of the density
    if not narrowest >= least:  # also true of NaN
        component, latent = divmod(int(std.argmin()), std.shape[-1])
        raise FloatingPointError(
            f"component {component} of the prior has collapsed: its standard deviation along latent {latent} "
            f"is {narrowest:.3g}, below {least:.3g}. Lower the learning rate, or use fewer components."
        )
