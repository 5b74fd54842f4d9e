r"""The restricted Boltzmann machine: an energy over two layers of bits, exact wherever that is affordable.

.. math::
    p(v, h) = \frac{e^{-E(v, h)}}{Z}, \qquad E(v, h) = -v^\top W h - b^\top v - c^\top h,
    \qquad v \in \{0, 1\}^D,\ h \in \{0, 1\}^M
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent
from torch.utils.checkpoint import checkpoint

from course_lib.distributions import bernoulli_vector, sample_bits

__all__ = ["RBM", "check_bits", "check_rows"]

MAX_UNITS = 20  # of the side that is enumerated: a million states


class RBM(nn.Module):
    r"""D visible and M hidden bits, every visible one joined to every hidden one and to nothing else.

    Attributes:
        weight: W, shape (D, M); drawn from N(0, 0.01²).
        visible_bias: b, shape (D,).
        hidden_bias: c, shape (M,); begins at 0.

    Args:
        n_visible: the number D of visible bits.
        n_hidden: the number M of hidden bits.
        visible_mean: the data's mean, shape (D,). The visible bias begins at its logit, so that the first
            model has the right mean in every pixel; None begins at 0. Means are kept 10⁻³ away from 0 and 1.

    Source:
        Smolensky (1986); the initial values are those of Hinton (2012).
    """

    def __init__(self, n_visible: int, n_hidden: int, visible_mean: Tensor | None = None) -> None:
        super().__init__()
        if n_visible < 1 or n_hidden < 1:
            raise ValueError(
                f"an RBM needs at least 1 unit on each side, got n_visible={n_visible}, n_hidden={n_hidden}"
            )
        if visible_mean is None:
            visible_mean = torch.full((n_visible,), 0.5)
        elif visible_mean.shape != (n_visible,) or not ((visible_mean >= 0) & (visible_mean <= 1)).all():
            raise ValueError(
                f"visible_mean must be {n_visible} numbers in [0, 1], got shape {tuple(visible_mean.shape)} "
                f"with values in [{visible_mean.min():g}, {visible_mean.max():g}]"
            )
        self.n_visible, self.n_hidden = n_visible, n_hidden
        self.weight = nn.Parameter(0.01 * torch.randn(n_visible, n_hidden))
        self.visible_bias = nn.Parameter(torch.logit(visible_mean.detach().to(self.weight), eps=1e-3))
        self.hidden_bias = nn.Parameter(torch.zeros(n_hidden))

    # The model.

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        r""":math:`E(v, h) = -v^\top W h - b^\top v - c^\top h`.

        Args:
            v: shape (\*batch, D).
            h: shape (\*batch, M); the two batch shapes broadcast.

        Returns:
            shape (\*batch,), in nats.
        """
        _check_width(v, self.n_visible, "v", "n_visible")
        _check_width(h, self.n_hidden, "h", "n_hidden")
        return -((v @ self.weight) * h).sum(-1) - v @ self.visible_bias - h @ self.hidden_bias

    def hidden_logits(self, v: Tensor) -> Tensor:
        r"""The log-odds of each hidden bit, :math:`c + W^\top v`, shape (\*batch, M).

        Raises:
            ValueError: v has another number of bits than the machine.
        """
        _check_width(v, self.n_visible, "v", "n_visible")
        return F.linear(v, self.weight.T, self.hidden_bias)

    def visible_logits(self, h: Tensor) -> Tensor:
        r"""The log-odds of each visible bit, :math:`b + W h`, shape (\*batch, D).

        Raises:
            ValueError: h has another number of bits than the machine.
        """
        _check_width(h, self.n_hidden, "h", "n_hidden")
        return F.linear(h, self.weight, self.visible_bias)

    def hidden(self, v: Tensor) -> Independent:
        r""":math:`p(h \mid v) = \prod_j \mathrm{Bernoulli}(h_j; \sigma(c_j + W_{\cdot j}^\top v))`."""
        return bernoulli_vector(self.hidden_logits(v))

    def visible(self, h: Tensor) -> Independent:
        r""":math:`p(v \mid h) = \prod_i \mathrm{Bernoulli}(v_i; \sigma(b_i + W_{i \cdot} h))`."""
        return bernoulli_vector(self.visible_logits(h))

    def free_energy(self, v: Tensor) -> Tensor:
        r"""The energy of v once the hidden bits are summed out.

        .. math::
            F(v) = -\log \sum_h e^{-E(v, h)}
                 = -b^\top v - \sum_j \operatorname{softplus}(c_j + W_{\cdot j}^\top v)

        Args:
            v: shape (\*batch, D).

        Returns:
            shape (\*batch,), in nats; log p(v) = −F(v) − log Z.
        """
        return -F.softplus(self.hidden_logits(v)).sum(-1) - v @ self.visible_bias

    @torch.no_grad()
    def gibbs(self, v: Tensor, n_steps: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Block Gibbs sampling: all hidden bits given v, then all visible bits given those, `n_steps` times.

        Args:
            v: where each chain stands, shape (n_chains, D).
            n_steps: at least 0.
            generator: of the machine's device; None draws from torch's global one.

        Returns:
            where each chain stands afterwards, shape (n_chains, D); no gradient passes.
        """
        if n_steps < 0:
            raise ValueError(f"n_steps must be at least 0, got {n_steps}")
        for _ in range(n_steps):
            h = sample_bits(self.hidden_logits(v), generator)
            v = sample_bits(self.visible_logits(h), generator)
        return v

    # Exact answers, by a sum over every state of the smaller side.

    def log_partition(self, chunk: int = 4096) -> Tensor:
        r"""The exact log Z, when the smaller side has at most 20 units.

        .. math:: \log Z = \log \sum_h e^{c^\top h} \prod_i \bigl(1 + e^{b_i + W_{i \cdot} h}\bigr)

        or the same with the two sides exchanged. Differentiable: the gradient is the model's expectation of
        the statistics, recomputed chunk by chunk, so that only `chunk` states are held at once.

        Args:
            chunk: states enumerated at a time.

        Returns:
            a float64 scalar, in nats.

        Raises:
            ValueError: both sides have more than 20 units.
            FloatingPointError: a parameter is NaN or infinite.
        """
        total = self.weight.new_full((), -torch.inf, dtype=torch.float64)
        for index in self._smaller_side(chunk):
            total = torch.logaddexp(total, checkpoint(self._log_sum, index, use_reentrant=False))
        if not total.isfinite():
            raise FloatingPointError(f"log Z is {total:g}: the machine's parameters are not finite")
        return total

    def log_likelihood(self, v: Tensor, log_partition: Tensor | float | None = None) -> Tensor:
        r""":math:`\log p(v) = -F(v) - \log Z` for each example.

        Args:
            v: bits, shape (\*batch, D).
            log_partition: log Z where it is known or estimated; None computes it exactly.

        Returns:
            shape (\*batch,), in nats.

        Raises:
            ValueError: v has values other than 0 and 1, or log Z is out of reach.
        """
        check_bits(v, "v")
        v = v.to(self.weight.dtype)
        return -self.free_energy(v) - (self.log_partition() if log_partition is None else log_partition)

    @torch.no_grad()
    def sample_exact(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent samples of p(v), with no Markov chain: the smaller side from its exact distribution.

        Args:
            n: how many.
            generator: of the machine's device; None draws from torch's global one.

        Returns:
            shape (n, D).

        Raises:
            ValueError: both sides have more than 20 units, or n is less than 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        log_weights = torch.cat([self._log_weight(index) for index in self._smaller_side(4096)])
        index = torch.multinomial(log_weights.softmax(0), n, replacement=True, generator=generator)
        states = _states(index, min(self.n_visible, self.n_hidden)).to(self.weight.dtype)
        if self.n_visible <= self.n_hidden:
            return states
        return sample_bits(self.visible_logits(states), generator)

    def _smaller_side(self, chunk: int) -> Iterator[Tensor]:
        """The number of every state of the smaller side, in chunks."""
        n_units = min(self.n_visible, self.n_hidden)
        if n_units > MAX_UNITS:
            raise ValueError(
                f"log Z sums over 2^{n_units} states of the smaller side, more than the 2^{MAX_UNITS} "
                f"allowed (n_visible={self.n_visible}, n_hidden={self.n_hidden}). Estimate it with "
                "annealed_importance_sampling instead."
            )
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1 state, got {chunk}")
        return iter(torch.arange(2**n_units, device=self.weight.device).split(chunk))

    def _log_sum(self, index: Tensor) -> Tensor:
        """The share of some states of the smaller side in log Z, a scalar."""
        return self._log_weight(index).logsumexp(0)

    def _log_weight(self, index: Tensor) -> Tensor:
        """log p(state) + log Z of some states of the smaller side, in float64, shape (len(index),)."""
        states = _states(index, min(self.n_visible, self.n_hidden))
        weight, own, other = self.weight.double(), self.visible_bias.double(), self.hidden_bias.double()
        if self.n_hidden < self.n_visible:
            weight, own, other = weight.T, other, own
        return states @ own + F.softplus(states @ weight + other).sum(-1)


def check_bits(v: Tensor, name: str) -> None:
    """Refuse a tensor with values other than 0 and 1.

    Raises:
        ValueError: names the argument and what was seen.
    """
    if (
        v.dtype != torch.bool and (v - v.square()).any()
    ):  # also where v is NaN or infinite; one reduction, because it runs every step
        raise ValueError(
            f"{name} must hold bits, 0 or 1, but has values in [{v.min():g}, {v.max():g}]; an RBM's "
            "probabilities mean nothing between them. Draw bits from grey levels with "
            "batches(transform='binarize')."
        )


def check_rows(v: Tensor, name: str) -> None:
    """Refuse, with a ValueError, a tensor that is not one or more rows of bits."""
    if v.ndim != 2 or len(v) == 0:
        raise ValueError(f"{name} must have shape (N, D) with N ≥ 1, got {tuple(v.shape)}")


def _states(index: Tensor, n_units: int) -> Tensor:
    """The binary digits of each index, lowest first, shape (len(index), n_units), float64."""
    return (index[:, None] >> torch.arange(n_units, device=index.device) & 1).double()


def _check_width(bits: Tensor, width: int, name: str, argument: str) -> None:
    if bits.shape[-1] != width:
        raise ValueError(
            f"{name} has {bits.shape[-1]} bits on its last axis (shape {tuple(bits.shape)}); this machine "
            f"was built with {argument}={width}. Flatten images with flatten(1)."
        )
