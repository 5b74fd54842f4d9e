"""Contrastive divergence: the gradient of an RBM's likelihood with short Gibbs chains for the model."""

import torch
from torch import Tensor, nn

from course_lib.checks import recorded
from course_lib.distributions import sample_bits, sample_bits_of_mean
from course_lib.rbm import RBM, check_bits, check_rows

__all__ = ["ContrastiveDivergence"]


class ContrastiveDivergence(nn.Module):
    r"""The objective whose gradient is the contrastive-divergence estimate, for `fit`.

    The likelihood's gradient is a difference of two phases,

    .. math::
        \nabla_W \log p = \mathbb E_{\text{data}}[v h^\top] - \mathbb E_{\text{model}}[v h^\top], \qquad
        \nabla_b \log p = \mathbb E_{\text{data}}[v] - \mathbb E_{\text{model}}[v], \qquad
        \nabla_c \log p = \mathbb E_{\text{data}}[h] - \mathbb E_{\text{model}}[h],

    and the second is estimated from chains that ran k steps of block Gibbs sampling: from the data (CD-k), or
    from where they stood after the last batch (persistent, PCD-k). With the estimates :math:`G, g_b, g_c`
    held fixed, the loss is the function :math:`-\langle G, W\rangle - g_b^\top b - g_c^\top c`, linear in the
    parameters, whose gradient they are. Uncentred, its value is the mean energy of the data less that of the
    chains, at the mean hidden units; it is no likelihood, and it may rise while the model improves.

    Centred, W moves along the covariance of v and h instead of their product, which takes the two phases'
    means out of it. With μ and λ running means of v and h over the data,

    .. math::
        G = \mathbb E_{\text{data}}[(v - \mu)(h - \lambda)^\top]
          - \mathbb E_{\text{model}}[(v - \mu)(h - \lambda)^\top], \qquad
        g_b \leftarrow g_b - G \lambda, \qquad g_c \leftarrow g_c - G^\top \mu.

    Where several processes train one machine, give DistributedDataParallel `broadcast_buffers=False`: the
    chains are buffers, and each process needs its own.

    Args:
        rbm: the machine to train.
        n_steps: k, Gibbs steps for a batch.
        persistent: continue the chains from batch to batch instead of starting them at the data.
        n_chains: how many persistent chains there are; otherwise there is one for each example.
        centring: use the centred gradient.
        generator: of the machine's device; None draws from torch's global one, which checkpoints save.

    Source:
        Hinton (2002); Tieleman (2008), persistent chains; Melchior, Fischer and Wiskott (2016), centring.
    """

    OFFSET_RATE = 0.01  # of the running means μ and λ

    def __init__(
        self,
        rbm: RBM,
        n_steps: int = 1,
        persistent: bool = False,
        n_chains: int = 100,
        centring: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_steps < 1 or n_chains < 1:
            raise ValueError(f"need n_steps ≥ 1 and n_chains ≥ 1, got n_steps={n_steps}, n_chains={n_chains}")
        self.rbm, self.n_steps, self.persistent, self.centring = rbm, n_steps, persistent, centring
        self.generator, self.batch_checked = generator, False
        visible_mean, hidden_mean = rbm.visible_bias.detach().sigmoid(), rbm.hidden_bias.detach().sigmoid()
        self.register_buffer("visible_offset", visible_mean if centring else torch.zeros_like(visible_mean))
        self.register_buffer("hidden_offset", hidden_mean if centring else torch.zeros_like(hidden_mean))
        # Of each chain, the mean of h given its v. It begins where no v is known yet.
        self.register_buffer("chains", hidden_mean.repeat(n_chains, 1) if persistent else None)

    visible_offset: Tensor
    hidden_offset: Tensor
    chains: Tensor

    def forward(self, v: Tensor) -> Tensor:
        """A batch of bits, shape (B, D); the scalar to minimise.

        Raises:
            ValueError: another shape, or values other than 0 and 1. On an accelerator only the first batch's
                values are looked at, because a look makes the host wait for the device; inside
                `torch.compile`, or while a CUDA graph is recorded, none, because it would break the graph.
        """
        check_rows(v, "the batch")
        if not recorded(v) and (v.device.type == "cpu" or not self.batch_checked):
            check_bits(v, "the batch")
            self.batch_checked = True
        rbm = self.rbm
        v = v.to(rbm.weight.dtype)
        weight_gradient, visible_gradient, hidden_gradient = self.likelihood_gradient(v)
        return -(
            weight_gradient.flatten() @ rbm.weight.flatten()
            + visible_gradient @ rbm.visible_bias
            + hidden_gradient @ rbm.hidden_bias
        )

    @torch.no_grad()
    def likelihood_gradient(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The estimates G, g_b, g_c for one batch; moves the persistent chains and the running means."""
        h = self.rbm.hidden_logits(v).sigmoid_()  # a mean given v, which adds no noise
        v_model, h_model = self._run_chains(h)
        # Both phases in one product: each example counts +1/B, each chain −1/C.
        signs = torch.cat([v.new_full((len(v),), 1 / len(v)), v.new_full((len(v_model),), -1 / len(v_model))])
        visible, hidden = torch.cat([v, v_model]), torch.cat([h, h_model])
        if self.centring:
            visible -= self.visible_offset.lerp_(v.mean(0), self.OFFSET_RATE)
            hidden -= self.hidden_offset.lerp_(h.mean(0), self.OFFSET_RATE)
        signed_visible = signs[:, None] * visible
        weight_gradient = signed_visible.T @ hidden
        # The signs sum to 0, so the offsets drop out of these two sums.
        visible_gradient, hidden_gradient = signed_visible.sum(0), signs @ hidden
        if self.centring:
            visible_gradient -= weight_gradient @ self.hidden_offset
            hidden_gradient -= self.visible_offset @ weight_gradient
        return weight_gradient, visible_gradient, hidden_gradient

    def _run_chains(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """v after k steps from the chains, or from the data's p(h | v), and the mean of h given it."""
        mean = self.chains if self.persistent else h
        for _ in range(self.n_steps):
            h = sample_bits_of_mean(mean, self.generator)
            v = sample_bits(self.rbm.visible_logits(h), self.generator)
            mean = self.rbm.hidden_logits(v).sigmoid_()
        if self.persistent:
            self.chains.copy_(mean)
        return v, mean
