r"""A label and a style: what every semi-supervised model is, whatever its networks.

Images are x, of shape (\*batch, D), labels y whole numbers 0 … C − 1. Wherever all labels are tried at once,
the label axis comes **before** the batch axis: (C, B), as the sample axis does.
"""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent

from course_lib.checks import check_labels, check_last_axis, check_whole
from course_lib.latent_variable_model import LatentVariableModel
from course_lib.networks import StandardNormal

__all__ = ["SSVAE", "GivenLabel"]


class SSVAE(nn.Module):
    r"""Kingma et al.'s model M2, in which an image owes to a label y and to a latent z.

    .. math::
        p(y) = \tfrac1C, \quad p(z) = \mathcal N(0, I), \quad p_\theta(x \mid y, z); \qquad
        q_\phi(y, z \mid x) = q_\phi(y \mid x)\, q_\phi(z \mid x, y)

    With y given it is an ordinary latent-variable model, `given(y)`, and all of `course_lib.bounds` applies.

    Args:
        classifier: network from x, shape (\*batch, D), to the C logits of q(y | x).
        encoder: network from x and y to a distribution over z.
        decoder: network from z and y to a distribution over x.
        n_inputs: the number D of pixels or features.
        n_classes: the number C of labels.
        n_latents: the number L of latents.

    Source:
        Kingma, Rezende, Mohamed and Welling (2014).
    """

    def __init__(
        self,
        classifier: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        n_inputs: int,
        n_classes: int,
        n_latents: int,
    ) -> None:
        super().__init__()
        check_whole("n_classes", n_classes, 2)
        check_whole("n_latents", n_latents, 1)
        self.classifier, self.encoder, self.decoder = classifier, encoder, decoder
        self.prior_network = StandardNormal(n_latents)
        self.n_inputs, self.n_classes, self.n_latents = n_inputs, n_classes, n_latents
        self.register_buffer("label_logits", torch.zeros(n_classes))
        self.register_buffer("labels", torch.arange(n_classes), persistent=False)

    label_logits: Tensor
    labels: Tensor

    def label_prior(self) -> Categorical:
        """p(y): every label equally probable, event ()."""
        return Categorical(logits=self.label_logits, validate_args=False)

    def label_posterior(self, x: Tensor) -> Categorical:
        r"""q(y | x), the classifier: x of shape (\*batch, D); batch shape (\*batch,)."""
        check_last_axis("x", x, "n_inputs", self.n_inputs)
        return Categorical(logits=self.classifier(x), validate_args=False)

    def prior(self) -> Independent:
        """p(z) = N(0, I), event (L,)."""
        return self.prior_network()

    def likelihood(self, y: Tensor, z: Tensor) -> Distribution:
        r"""p(x | y, z): y whole numbers, z of shape (\*batch, L); batch shape as y and \*batch broadcast."""
        return self.decoder(z, y)

    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        r"""q(z | x, y): x of shape (\*batch, D); batch shape as y and \*batch broadcast, event (L,)."""
        check_last_axis("x", x, "n_inputs", self.n_inputs)
        return self.encoder(x, y)

    def given(self, y: Tensor) -> "GivenLabel":
        r"""The latent-variable model p(x, z | y) of some labels.

        Args:
            y: whole numbers 0 … C − 1, in a shape that broadcasts with the batch of x: (B,) for a label an
                image, (C, 1) for every label with every image, () for one label.
        """
        return GivenLabel(self, y)

    def given_every_label(self) -> "GivenLabel":
        """`given` for all labels at once, on an axis of their own before the batch: y has shape (C, 1)."""
        return GivenLabel(self, self.labels.unsqueeze(-1))


class GivenLabel(LatentVariableModel):
    """One view of an `SSVAE`: the latent-variable model that is left when the label is known.

    Args:
        model: the model with all its labels.
        y: the labels, as in `SSVAE.given`.

    Raises:
        ValueError: labels that are no whole numbers, or outside 0 … C − 1. To look at their values makes
            the host wait for an accelerator, so there they are looked at under `torch.no_grad()` only.
    """

    def __init__(self, model: SSVAE, y: Tensor) -> None:
        super().__init__()
        check_labels("y", y, model.n_classes)
        self.model, self.y = model, y

    def prior(self) -> Independent:
        """p(z), event (L,)."""
        return self.model.prior()

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x | y, z), event (D,)."""
        return self.model.likelihood(self.y, z)

    def posterior(self, x: Tensor) -> Distribution:
        """q(z | x, y), event (L,)."""
        return self.model.posterior(x, self.y)
