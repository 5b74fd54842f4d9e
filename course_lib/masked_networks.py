r"""A network whose output for feature i sees only the features before i: one pass instead of D."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from course_lib.checks import check_batches, check_last_axis, check_whole

__all__ = ["MaskedLinear", "MaskedMLP", "autoregressive_masks"]


def autoregressive_masks(
    n_features: int, hidden: Sequence[int], n_outputs: int = 1, lowest: int = 1
) -> list[Tensor]:
    r"""Which weights may stay, so that output i depends on the inputs j < i and on no other.

    Input j has the degree j = 1, …, D; a hidden unit of degree d may see the inputs j ≤ d and the hidden
    units of degree ≤ d before it; output i may see the hidden units of degree < i. The hidden degrees, from
    the lowest to D − 1, are dealt out in turn, as evenly as the width allows.

    Args:
        n_features: D.
        hidden: widths of the hidden layers.
        n_outputs: numbers for each feature; the output holds the first of all features, then the second …
        lowest: the lowest hidden degree, 1, or 0 for units that see no feature, only a context.

    Returns:
        one boolean matrix a layer, shape (outputs, inputs), True where the weight stays.

    Source:
        Germain, Gregor, Murray and Larochelle (2015), section 4.
    """
    check_whole("n_features", n_features, 1)
    degrees = [torch.arange(1, n_features + 1)]
    lowest = min(lowest, n_features - 1)  # nothing comes before an only feature
    degrees += [torch.arange(width) % (n_features - lowest) + lowest for width in hidden]
    inner = [after[:, None] >= before for before, after in pairwise(degrees)]
    outer = degrees[0][:, None] > degrees[-1]
    return [*inner, outer.repeat(n_outputs, 1)]


class MaskedLinear(nn.Linear):
    r"""h ↦ (M ⊙ W) h + b.

    Args:
        mask: M, shape (outputs, inputs).
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        r"""Shape (\*batch, inputs) to (\*batch, outputs)."""
        return nn.functional.linear(inputs, self.mask * self.weight, self.bias)


class MaskedMLP(nn.Module):
    r"""x ↦ several numbers for each feature, those of feature i a function of x_1, …, x_{i−1} and a context.

    The last layer begins at 0.

    Args:
        n_features: D.
        hidden: widths of the hidden layers.
        n_outputs: numbers for each feature.
        n_context: size C of a context that every feature may see; 0 for none.
        activation: module class applied after each hidden layer.

    Source:
        Germain, Gregor, Murray and Larochelle (2015); the context: Kingma et al. (2016).
    """

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int],
        n_outputs: int = 2,
        n_context: int = 0,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden must name at least one layer of at least one unit, got {list(hidden)}")
        check_whole("n_context", n_context, 0)
        masks = autoregressive_masks(n_features, hidden, n_outputs, lowest=0 if n_context else 1)
        self.first, *rest = (MaskedLinear(mask) for mask in masks)
        self.rest = nn.Sequential(activation(), *(m for layer in rest for m in (layer, activation())))[:-1]
        self.context = nn.Linear(n_context, hidden[0], bias=False) if n_context else None
        self.n_features, self.n_outputs, self.n_context = n_features, n_outputs, n_context
        nn.init.zeros_(rest[-1].weight)
        nn.init.zeros_(rest[-1].bias)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, ...]:
        r"""`n_outputs` tensors of shape (\*batch, D).

        Args:
            x: shape (\*batch, D).
            context: shape (\*batch, C), or None where the network has none.

        Raises:
            ValueError: x or the context has another size than the masks, or the context is missing.
        """
        check_last_axis("x", x, "n_features", self.n_features, "The masks are made for that number.")
        features = self.first(x)
        if self.context is None:
            if context is not None:
                raise ValueError("this network has n_context=0: it cannot use a context")
        elif context is None:
            raise ValueError(f"this network needs a context of size {self.n_context}: use given(context)")
        else:
            check_last_axis("context", context, "n_context", self.n_context)
            check_batches("context", context.shape, x.shape)
            features = features + self.context(context)
        return self.rest(features).chunk(self.n_outputs, -1)
