r"""M1+M2: a VAE of images whose code is modelled in turn by a semi-supervised VAE, in stages or jointly."""

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from course_lib.semi_supervised_model import SSVAE
from course_lib.ssvae import SemiSupervisedObjective
from course_lib.vae import VAE

__all__ = ["StackedObjective", "StackedSSVAE"]


class StackedSSVAE(nn.Module):
    r"""Kingma et al.'s M1+M2: a label and a latent make a code, the code makes an image.

    .. math::
        p_\theta(x, z_1, z_2, y) = p(y)\, p(z_2)\, p_\theta(z_1 \mid y, z_2)\, p_\theta(x \mid z_1), \qquad
        q_\phi(z_1 \mid x)\, q_\phi(y \mid z_1)\, q_\phi(z_2 \mid z_1, y)

    The VAE's own prior N(0, I) serves only to train it alone, the first stage; in the stack, M2 is the prior
    of its code.

    Args:
        vae: M1, from images to codes :math:`z_1` of dimension L.
        ssvae: M2 of vectors with L entries.

    Raises:
        ValueError: the codes of M1 are not what M2 was built for.

    Source:
        Kingma, Rezende, Mohamed and Welling (2014), section 2.
    """

    def __init__(self, vae: VAE, ssvae: SSVAE) -> None:
        super().__init__()
        if vae.n_latents != ssvae.n_inputs:
            raise ValueError(
                f"the VAE's codes have {vae.n_latents} entries, but the SSVAE was built for {ssvae.n_inputs}"
            )
        self.vae, self.ssvae = vae, ssvae

    def label_posterior(self, x: Tensor) -> Categorical:
        r"""q(y | z₁) at the mean code of x: x of shape (\*batch, D); batch shape (\*batch,)."""
        return self.ssvae.label_posterior(self.vae.posterior(x).mean)


class StackedObjective(nn.Module):
    r"""The objective of M1+M2 for a labelled and an unlabelled batch of images, in nats per example.

    `SemiSupervisedObjective` of a sample :math:`z_1 \sim q_\phi(z_1 \mid x)` of each image, and, if `joint`,

    .. math::
        - \mathrm{mean}_x \bigl(\log p_\theta(x \mid z_1) - \log q_\phi(z_1 \mid x)\bigr)

    of the unlabelled images, and ρ times that of the labelled ones: together they are the bound of
    log p(x), or log p(x, y), of the whole stack. Without `joint` the VAE is frozen, which is the published
    recipe: then that term is a constant.

    Args:
        model: the two models.
        classifier_weight: α, as for `SemiSupervisedObjective`.
        labelled_weight: ρ, likewise.
        joint: whether the VAE is trained, too.
    """

    def __init__(
        self,
        model: StackedSSVAE,
        classifier_weight: float = 100.0,
        labelled_weight: float = 1.0,
        joint: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.joint = model, joint
        self.of_codes = SemiSupervisedObjective(model.ssvae, classifier_weight, labelled_weight)

    def forward(self, batch: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
        """((x, y) of shapes (B, D) and (B,), x without labels of shape (B', D)); the scalar to minimise."""
        (x, y), x_unlabelled = batch
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()):
            z, log_ratio = self._encode(x)
            z_unlabelled, log_ratio_unlabelled = self._encode(x_unlabelled)
        loss = self.of_codes(((z, y), z_unlabelled))
        if self.joint:
            loss = loss - log_ratio_unlabelled.mean() - self.of_codes.labelled_weight * log_ratio.mean()
        return loss

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A sample z₁ of shape (B, L), and log p(x | z₁) − log q(z₁ | x) of shape (B,), 0 if not needed."""
        q = self.model.vae.posterior(x)
        z = q.rsample()
        if not self.joint:
            return z, z.new_zeros(len(z))
        return z, self.model.vae.likelihood(z).log_prob(x) - q.log_prob(z)
