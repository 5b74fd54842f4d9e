"""Networks whose output is a distribution: the encoders and decoders of the course."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from course_lib.distributions import bernoulli_vector, diagonal_normal
from course_lib.elementwise import ELU

__all__ = ["BernoulliNetwork", "LabelledNetwork", "NormalNetwork", "StandardNormal", "mlp"]


def mlp(n_inputs: int, hidden: Sequence[int], activation: type[nn.Module] = ELU) -> nn.Sequential:
    r"""Fully connected layers of the given widths, each followed by `activation`; shape (\*batch, width)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_inputs, width), activation()]
        n_inputs = width
    return nn.Sequential(*layers)


class BernoulliNetwork(nn.Module):
    r"""h ↦ a vector of independent bits, with logits :math:`W\,\mathrm{mlp}(h) + b`.

    Args:
        n_inputs: size of the last axis of the input.
        hidden: widths of the hidden layers.
        n_outputs: number of bits D.
        activation: module class applied after each hidden layer.
    """

    def __init__(
        self, n_inputs: int, hidden: Sequence[int], n_outputs: int, activation: type[nn.Module] = ELU
    ) -> None:
        super().__init__()
        self.trunk = mlp(n_inputs, hidden, activation)
        self.logits = nn.Linear([n_inputs, *hidden][-1], n_outputs)

    def forward(self, inputs: Tensor) -> Independent:
        r"""Input of shape (\*batch, n_inputs); a distribution of batch (\*batch,), event (n_outputs,)."""
        return bernoulli_vector(self.logits(self.trunk(inputs)))


class LabelledNetwork(nn.Module):
    r"""(h, y) ↦ network(activation(A h + B_y)), in which a label shifts the first hidden layer.

    That is a layer on h and the one-hot vector of y, one beside the other, whose matrix is split in two. The
    product A h is computed once for each h, however many labels it meets: with h of shape (B, n_inputs) and
    labels of shape (C, 1) the hidden layer has shape (C, B, width).

    Args:
        n_inputs: size of the last axis of h.
        n_classes: number of labels.
        width: of the first hidden layer.
        network: what follows it, from \*batch × width to a distribution.
        activation: module class applied after the first layer.
    """

    def __init__(
        self,
        n_inputs: int,
        n_classes: int,
        width: int,
        network: nn.Module,
        activation: type[nn.Module] = ELU,
    ) -> None:
        super().__init__()
        self.inputs, self.labels = nn.Linear(n_inputs, width), nn.Embedding(n_classes, width)
        nn.init.uniform_(self.labels.weight, -(n_inputs**-0.5), n_inputs**-0.5)  # as nn.Linear begins
        self.activation, self.network = activation(), network

    def forward(self, inputs: Tensor, labels: Tensor) -> Distribution:
        r"""Inputs of shape (\*batch, n_inputs), labels that broadcast with (\*batch,); a distribution."""
        return self.network(self.activation(self.inputs(inputs) + self.labels(labels)))


class NormalNetwork(nn.Module):
    r"""h ↦ :math:`\mathcal N(\mu(h), \operatorname{diag}\sigma^2(h))` with two linear heads on one trunk.

    The second head gives log σ, so :math:`\sigma = \sigma_{\min} + e^{\text{head}}` is never negative. It is
    positive as long as the exponential does not underflow to 0, in float32 at a head of about −100; a
    :math:`\sigma_{\min} > 0` keeps it positive even there.

    Args:
        n_inputs: size of the last axis of the input.
        hidden: widths of the hidden layers.
        n_outputs: dimension L of the Gaussian.
        activation: module class applied after each hidden layer.
        min_std: floor σ_min of the standard deviation. A decoder of continuous data needs one:
            a pixel that never changes would otherwise drive σ to 0 and the density to infinity.
    """

    def __init__(
        self,
        n_inputs: int,
        hidden: Sequence[int],
        n_outputs: int,
        activation: type[nn.Module] = ELU,
        min_std: float = 0.0,
    ) -> None:
        super().__init__()
        width = [n_inputs, *hidden][-1]
        self.trunk = mlp(n_inputs, hidden, activation)
        self.mean = nn.Linear(width, n_outputs)
        self.log_std = nn.Linear(width, n_outputs)
        self.min_std = min_std

    def forward(self, inputs: Tensor) -> Independent:
        r"""Input of shape (\*batch, n_inputs); a distribution of batch (\*batch,), event (n_outputs,)."""
        features = self.trunk(inputs)
        return diagonal_normal(self.mean(features), self.min_std + self.log_std(features).exp())


class StandardNormal(nn.Module):
    r"""The prior :math:`\mathcal N(0, I)`: a network without input or parameters.

    Args:
        n_latents: dimension L of the Gaussian.
    """

    def __init__(self, n_latents: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_latents))
        self.register_buffer("std", torch.ones(n_latents))

    mean: Tensor
    std: Tensor

    def forward(self) -> Independent:
        """N(0, I), event (n_latents,)."""
        return diagonal_normal(self.mean, self.std)
