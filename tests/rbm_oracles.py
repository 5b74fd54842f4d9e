"""A restricted Boltzmann machine by enumeration in numpy: every state, every Gibbs transition."""

import itertools
from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch import nn

from course_lib.rbm import RBM


def random_rbm(n_visible=5, n_hidden=3, device="cpu", scale=1.0):
    """A machine whose parameters are drawn from N(0, scale²) with the global generator."""
    rbm = RBM(n_visible, n_hidden)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.normal_(std=scale)
    return rbm.to(device)


def pairs_rbm(n_visible, n_hidden, device="cpu"):
    """A machine of any size whose answers are known: hidden unit i is joined to visible unit i alone.

    Returns:
        the machine, its log Z, and the mean of every visible bit; those bits are independent.
    """
    rbm, n_pairs = random_rbm(n_visible, n_hidden), min(n_visible, n_hidden)
    with torch.no_grad():
        rbm.weight.mul_(torch.eye(n_visible, n_hidden))
    weight, visible_bias, hidden_bias = (p.detach().double().numpy() for p in rbm.parameters())
    coupling, partner = np.zeros(n_visible), np.full(n_visible, -np.inf)  # −∞: no partner, or it is off
    coupling[:n_pairs], partner[:n_pairs] = weight.diagonal(), hidden_bias[:n_pairs]
    off, on = np.logaddexp(0, partner), visible_bias + np.logaddexp(0, partner + coupling)
    log_partition = np.logaddexp(off, on).sum() + np.logaddexp(0, hidden_bias[n_pairs:]).sum()
    return rbm.to(device), log_partition, torch.as_tensor(scipy.special.expit(on - off), device=device)


def every_state(n_units):
    """Shape (2^n_units, n_units); the first unit counts most."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=n_units)))


def place_of(states):
    """The row of `every_state` that each row of a tensor is."""
    bits = states.cpu().numpy()
    assert np.isin(bits, [0, 1]).all()
    return (bits @ 2 ** np.arange(bits.shape[1])[::-1]).astype(int)


@dataclass
class Enumeration:
    """p(v, h) of every v and h, in the order of `every_state`, from the definition of the energy."""

    weight: np.ndarray
    visible_bias: np.ndarray
    hidden_bias: np.ndarray

    def __post_init__(self):
        self.v, self.h = every_state(len(self.visible_bias)), every_state(len(self.hidden_bias))
        interaction = np.einsum("vi,ij,hj->vh", self.v, self.weight, self.h)
        self.energy = -(interaction + (self.v @ self.visible_bias)[:, None] + self.h @ self.hidden_bias)
        self.log_f = scipy.special.logsumexp(-self.energy, axis=1)  # log p(v) + log Z
        self.log_partition = scipy.special.logsumexp(-self.energy)
        joint = np.exp(-self.energy - self.log_partition)
        self.p = joint.sum(1)
        self.hidden_given_visible = joint / self.p[:, None]
        self.visible_given_hidden = (joint / joint.sum(0)).T
        self.transition = self.hidden_given_visible @ self.visible_given_hidden  # row: from, column: to

    @classmethod
    def of(cls, rbm, beta=1.0, base_bias=None):
        """Of a machine, or of the one at β on its way from independent bits."""
        weight, visible_bias, hidden_bias = (p.detach().double().cpu().numpy() for p in rbm.parameters())
        base = visible_bias if base_bias is None else base_bias.double().cpu().numpy()
        return cls(beta * weight, (1 - beta) * base + beta * visible_bias, beta * hidden_bias)

    def after(self, p, n_steps):
        """The distribution of v when v ~ p has taken some steps of block Gibbs."""
        return p @ np.linalg.matrix_power(self.transition, n_steps)

    def statistics(self, p):
        """E[v hᵀ], E[v], E[h] for v ~ p and h ~ p(h | v), end to end in one vector."""
        joint = p[:, None] * self.hidden_given_visible
        return np.concatenate([(self.v.T @ joint @ self.h).ravel(), p @ self.v, joint.sum(0) @ self.h])

    def likelihood_gradient(self, p_data):
        """Of E_data log p(v), end to end in one vector: the positive phase less the negative one."""
        return self.statistics(p_data) - self.statistics(self.p)


def fit_probability(samples, p):
    """The p-value of Pearson's χ² that independent samples of v come from p; rare states are put together."""
    counts, expected = np.bincount(place_of(samples), minlength=len(p)), len(samples) * p
    rare = expected < 10
    if rare.any():
        counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    if expected[-1] == 0:
        counts, expected = counts[:-1], expected[:-1]
    return scipy.stats.chisquare(counts, expected).pvalue


def flat(tensors):
    """Some tensors end to end in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


class NegativeLogLikelihood(nn.Module):
    """The exact objective that contrastive divergence stands in for."""

    def __init__(self, rbm, **options):
        super().__init__()
        self.rbm, self.options = rbm, options

    def forward(self, v):
        return -self.rbm.log_likelihood(v, self.rbm.log_partition(**self.options)).mean()
