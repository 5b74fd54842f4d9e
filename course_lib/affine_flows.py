r"""Flows that shift and scale each feature by functions of others: coupling and autoregression.

Both compute z_i = x_i · exp(s_i) + t_i, where a network gives t and a number a for each feature, and

.. math:: s = c \tanh(a / c), \qquad c = 5

keeps every scale between e⁻⁵ and e⁵. The networks begin at 0, so each map begins as the identity. Their units
are SiLUs, which are smooth: with ELUs the second derivatives of the log-density would jump.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from course_lib.bijections import Bijection
from course_lib.checks import check_last_axis, check_whole
from course_lib.masked_networks import MaskedMLP
from course_lib.networks import mlp

__all__ = [
    "MAX_LOG_SCALE",
    "AffineCoupling",
    "AutoregressiveMap",
    "MaskedAutoregressive",
    "bounded_log_scale",
]

MAX_LOG_SCALE = 5.0


def bounded_log_scale(raw: Tensor) -> Tensor:
    r""":math:`s = c \tanh(a / c)` with c = `MAX_LOG_SCALE`: about a where a is small, never beyond ±c."""
    return MAX_LOG_SCALE * torch.tanh(raw / MAX_LOG_SCALE)


class AffineCoupling(Bijection):
    r"""Half of the features pass; they decide how the other half is shifted and scaled.

    .. math::
        z_A = x_A, \qquad z_B = x_B \odot e^{s(x_A)} + t(x_A), \qquad \log|\det J| = \sum_{i \in B} s_i(x_A)

    The inverse, :math:`x_B = (z_B - t(z_A)) \odot e^{-s(z_A)}`, costs as much.

    Args:
        n_features: D ≥ 2.
        hidden: widths of the hidden layers of the network that gives t and s.
        mask: booleans of shape (D,), True for the features A that pass; None lets the first ⌈D/2⌉ pass.
        activation: module class applied after each hidden layer.

    Source:
        Dinh, Sohl-Dickstein and Bengio (2017), section 3.
    """

    passing: Tensor
    changing: Tensor
    positions: Tensor

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int],
        mask: Tensor | None = None,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        super().__init__()
        check_whole("n_features", n_features, 2)
        if mask is None:
            mask = torch.arange(n_features) < (n_features + 1) // 2
        if mask.dtype != torch.bool or mask.shape != (n_features,) or mask.all() or not mask.any():
            raise ValueError(
                f"mask must hold n_features={n_features} booleans, at least one True (passes) and one False "
                f"(changes); got {mask.dtype} of shape {tuple(mask.shape)} with {int(mask.sum())} set"
            )
        self.register_buffer("passing", mask.nonzero().flatten())
        self.register_buffer("changing", (~mask).nonzero().flatten())
        self.register_buffer("positions", torch.cat([self.passing, self.changing]).argsort())
        output = nn.Linear([len(self.passing), *hidden][-1], 2 * len(self.changing))
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)
        self.network = mlp(len(self.passing), hidden, activation).append(output)
        self.n_features = n_features

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The changing half scaled and shifted."""
        passing, changing, shift, log_scale = self._halves(x, "x")
        return self._join(passing, changing * log_scale.exp() + shift), log_scale.sum(-1)

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The changing half shifted and scaled back."""
        passing, changing, shift, log_scale = self._halves(z, "z")
        return self._join(passing, (changing - shift) * (-log_scale).exp()), -log_scale.sum(-1)

    def _halves(self, x: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        check_last_axis(name, x, "n_features", self.n_features, "The mask is made for that number.")
        passing, changing = x.index_select(-1, self.passing), x.index_select(-1, self.changing)
        shift, raw = self.network(passing).chunk(2, -1)
        return passing, changing, shift, bounded_log_scale(raw)

    def _join(self, passing: Tensor, changing: Tensor) -> Tensor:
        return torch.cat([passing, changing], -1).index_select(-1, self.positions)


class AutoregressiveMap(Bijection):
    r"""Each feature shifted and scaled by functions of those before it.

    .. math:: z_i = x_i\, e^{s_i(x_{<i})} + t_i(x_{<i}), \qquad \log|\det J| = \sum_i s_i(x_{<i})

    Forward is one pass, because all of x is known. The inverse finds one feature after the other, each of
    which needs those before it: D passes.

    Args:
        conditioner: function from x to t and a, both of shape (\*batch, D), those of feature i depending on
            the features before i only.
    """

    def __init__(self, conditioner: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.conditioner = conditioner

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass."""
        shift, raw = self.conditioner(x)
        log_scale = bounded_log_scale(raw)
        return x * log_scale.exp() + shift, log_scale.sum(-1)

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """D passes; pass i gives feature i."""
        columns: list[Tensor] = []
        log_det = z.new_zeros(z.shape[:-1])
        for i in range(z.shape[-1]):
            known = torch.stack(columns, -1) if columns else z[..., :0]
            shift, raw = self.conditioner(nn.functional.pad(known, (0, z.shape[-1] - i)))
            log_scale = bounded_log_scale(raw[..., i])
            columns.append((z[..., i] - shift[..., i]) * (-log_scale).exp())
            log_det = log_det - log_scale
        return torch.stack(columns, -1), log_det


class MaskedAutoregressive(AutoregressiveMap):
    r"""The autoregressive map of a `MaskedMLP`: MAF forward, and, as `Inverse`, IAF.

    Args:
        n_features: D.
        hidden: widths of the hidden layers.
        n_context: size C of the context; with one, use the layer through `given(context)`.
        activation: module class applied after each hidden layer.

    Source:
        Papamakarios, Pavlakou and Murray (2017); the inverse: Kingma et al. (2016).
    """

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int],
        n_context: int = 0,
        activation: type[nn.Module] = nn.SiLU,
    ) -> None:
        network = MaskedMLP(n_features, hidden, 2, n_context, activation)
        super().__init__(network)
        self.network = network

    def given(self, context: Tensor) -> Bijection:
        r"""The map for a context of shape (\*batch, C)."""
        if not self.network.n_context:
            return self
        return AutoregressiveMap(partial(self.network, context=context))
