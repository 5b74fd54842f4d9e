"""The semi-supervised VAE (M2): its networks, the bound that sums labels out, and its objective."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.bounds import elbo, iwae_bound
from course_lib.checks import check_whole
from course_lib.elementwise import ELU
from course_lib.latent_variable_model import LatentVariableModel
from course_lib.networks import BernoulliNetwork, LabelledNetwork, NormalNetwork, mlp
from course_lib.semi_supervised_model import SSVAE

__all__ = [
    "BernoulliSSVAE",
    "GaussianSSVAE",
    "SemiSupervisedObjective",
    "unlabelled_bound",
]


class BernoulliSSVAE(SSVAE):
    r"""The M2 of binary images; its first layers see the image and the label.

    Args:
        n_pixels: the number D of pixels.
        n_classes: the number C of labels.
        n_latents: the number L of latents.
        hidden: widths, at least one, of the hidden layers of classifier and encoder; the decoder has them in
            reverse.
        activation: module class applied after each hidden layer.
    """

    def __init__(
        self,
        n_pixels: int,
        n_classes: int = 10,
        n_latents: int = 10,
        hidden: Sequence[int] = (300, 300),
        activation: type[nn.Module] = ELU,
    ) -> None:
        sizes = n_pixels, n_classes, n_latents
        super().__init__(*_networks(BernoulliNetwork, *sizes, hidden, activation), *sizes)


class GaussianSSVAE(SSVAE):
    r"""The M2 of real features, such as the codes of a VAE: then the two together are M1+M2.

    Args:
        n_features: the number D of features.
        n_classes: the number C of labels.
        n_latents: the number L of latents.
        hidden: as for `BernoulliSSVAE`.
        activation: module class applied after each hidden layer.
        min_std: floor of the decoder's standard deviation, in units of the features.
    """

    def __init__(
        self,
        n_features: int,
        n_classes: int = 10,
        n_latents: int = 10,
        hidden: Sequence[int] = (300,),
        activation: type[nn.Module] = ELU,
        min_std: float = 0.05,
    ) -> None:
        sizes, output = (n_features, n_classes, n_latents), partial(NormalNetwork, min_std=min_std)
        super().__init__(*_networks(output, *sizes, hidden, activation), *sizes)


def _networks(
    output: Callable[..., nn.Module],
    n_inputs: int,
    n_classes: int,
    n_latents: int,
    hidden: Sequence[int],
    activation: type[nn.Module],
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Classifier, encoder and decoder with the same hidden layers; `output` ends the decoder."""
    check_whole("n_inputs", n_inputs, 1)
    check_whole("n_classes", n_classes, 2)
    check_whole("n_latents", n_latents, 1)
    if not hidden:
        raise ValueError("hidden must hold at least one width: a label enters at the first hidden layer")
    (first, *rest), (last, *before) = hidden, reversed(hidden)
    encoder, decoder = (
        NormalNetwork(first, rest, n_latents, activation),
        output(last, before, n_inputs, activation),
    )
    return (
        nn.Sequential(mlp(n_inputs, hidden, activation), nn.Linear(hidden[-1], n_classes)),
        LabelledNetwork(n_inputs, n_classes, first, encoder, activation),
        LabelledNetwork(n_latents, n_classes, last, decoder, activation),
    )


def unlabelled_bound(
    model: SSVAE, x: Tensor, n_samples: int = 1, importance_weighted: bool = False
) -> Tensor:
    r"""The lower bound of log p(x) of images without labels, in which y is summed out exactly.

    .. math::
        \mathcal U(x) = \sum_{y} q_\phi(y \mid x) \bigl(\mathcal L(x, y) + \log p(y)
        - \log q_\phi(y \mid x)\bigr), \qquad
        \mathcal L(x, y) \le \log p_\theta(x \mid y)

    Args:
        model: the semi-supervised model.
        x: shape (B, D).
        n_samples: samples of z for every image and label.
        importance_weighted: whether :math:`\mathcal L(x, y)` is the importance-weighted bound of these
            samples; else it is the ELBO.

    Returns:
        shape (B,), in nats.

    Raises:
        ValueError: x is no matrix with at least one row and D columns; n_samples < 1.

    Source:
        Kingma et al. (2014), equation 7.
    """
    _check_images("x", x)
    per_label = _bound(model.given_every_label(), x, n_samples, importance_weighted)  # (C, B)
    log_q = model.label_posterior(x).logits.movedim(-1, 0)  # normalised by Categorical; (C, B)
    log_p = model.label_prior().logits.unsqueeze(-1)
    return (log_q.exp() * (per_label + log_p - log_q)).sum(0)


class SemiSupervisedObjective(nn.Module):
    r"""The objective of M2, for a batch of labelled and a batch of unlabelled images, in nats per example.

    .. math::
        -\rho\, \mathrm{mean}_{(x, y)} \bigl(\mathcal L(x, y) + \log p(y)\bigr)
        - \mathrm{mean}_{x}\, \mathcal U(x)
        - \alpha\, \mathrm{mean}_{(x, y)} \log q_\phi(y \mid x)

    The first two terms are bounds of the log-likelihood of what was observed. They leave the classifier
    untouched by the labels, so the third trains it on them.

    Args:
        model: the semi-supervised model.
        classifier_weight: α, of the cross-entropy of the labelled images.
        labelled_weight: ρ, of the labelled bound; the ratio of labelled to unlabelled images makes the first
            two terms a sum over the data set.
        generative: False trains the classifier alone, for comparison.
        n_samples: samples of z for every image and label.
        importance_weighted: whether the bounds are importance-weighted.

    Source:
        Kingma et al. (2014), equations 8 and 9.
    """

    def __init__(
        self,
        model: SSVAE,
        classifier_weight: float = 100.0,
        labelled_weight: float = 1.0,
        generative: bool = True,
        n_samples: int = 1,
        importance_weighted: bool = False,
    ) -> None:
        super().__init__()
        check_whole("n_samples", n_samples, 1)
        for name, weight in {
            "classifier_weight": classifier_weight,
            "labelled_weight": labelled_weight,
        }.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {weight}")
        self.model, self.classifier_weight, self.labelled_weight = model, classifier_weight, labelled_weight
        self.generative, self.n_samples, self.importance_weighted = generative, n_samples, importance_weighted

    def forward(self, batch: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
        """((x, y) of shapes (B, D) and (B,), x without labels of shape (B', D)); the scalar to minimise.

        Raises:
            ValueError: other shapes, an empty batch, or labels that are none (see `GivenLabel`).
        """
        (x, y), x_unlabelled = batch
        _check_images("x with labels", x)
        if y.shape != x.shape[:1]:  # (B, 1) would meet every image with every label
            raise ValueError(f"y must have the shape ({len(x)},), a label an image, got {tuple(y.shape)}")
        given, classifier = self.model.given(y), self.model.label_posterior(x)
        loss = self.classifier_weight * F.cross_entropy(classifier.logits, y)
        if self.generative:
            labelled = _bound(given, x, self.n_samples, self.importance_weighted)
            unlabelled = unlabelled_bound(self.model, x_unlabelled, self.n_samples, self.importance_weighted)
            log_p = self.model.label_prior().log_prob(y)
            loss = loss - self.labelled_weight * (labelled + log_p).mean() - unlabelled.mean()
        return loss


def _check_images(name: str, x: Tensor) -> None:
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"{name} must have the shape (B, D) with B ≥ 1, got {tuple(x.shape)}")


def _bound(model: LatentVariableModel, x: Tensor, n_samples: int, importance_weighted: bool) -> Tensor:
    return iwae_bound(model, x, n_samples) if importance_weighted else elbo(model, x, n_samples).value
