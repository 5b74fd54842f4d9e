"""The networks against the same arithmetic done by hand in numpy."""

from itertools import product

import numpy as np
import pytest
import scipy.special
import torch
from torch import nn

from course_lib.networks import BernoulliNetwork, NormalNetwork, mlp

pytestmark = pytest.mark.usefixtures("double_precision")


def affine(layer: nn.Linear, inputs: np.ndarray) -> np.ndarray:
    return inputs @ layer.weight.detach().cpu().numpy().T + layer.bias.detach().cpu().numpy()


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(x))


@pytest.fixture
def inputs(device):
    """Two leading axes, as a sample axis over a batch axis."""
    return torch.randn(3, 4, 5).to(device)


def test_mlp_alternates_affine_maps_and_activations(inputs, device):
    network = mlp(5, [7, 6], nn.Tanh).to(device)
    expected = np.tanh(affine(network[2], np.tanh(affine(network[0], inputs.cpu().numpy()))))
    np.testing.assert_allclose(network(inputs).detach().cpu(), expected, rtol=1e-10)


def test_mlp_without_hidden_layers_is_the_identity(inputs):
    assert torch.equal(mlp(5, [])(inputs), inputs)


@pytest.mark.parametrize("hidden", [(), (7,)])
def test_normal_network_has_mean_and_floored_exponential_std(hidden, inputs, device):
    network = NormalNetwork(5, hidden, 2, min_std=0.1).to(device)
    features = inputs.cpu().numpy()
    if hidden:
        features = elu(affine(network.trunk[0], features))
    q = network(inputs)
    assert (q.batch_shape, q.event_shape) == ((3, 4), (2,))
    np.testing.assert_allclose(q.mean.detach().cpu(), affine(network.mean, features), rtol=1e-10)
    expected_std = 0.1 + np.exp(affine(network.log_std, features))
    np.testing.assert_allclose(q.stddev.detach().cpu(), expected_std, rtol=1e-10)


def test_normal_network_never_goes_below_its_floor(inputs, device):
    network = NormalNetwork(5, (), 2, min_std=0.05).to(device)
    nn.init.constant_(network.log_std.bias, -1000.0)
    assert network(inputs).stddev.min().item() == pytest.approx(0.05)


def test_bernoulli_network_gives_each_bit_its_sigmoid(inputs, device):
    network = BernoulliNetwork(5, (7,), 3).to(device)
    p = network(inputs)
    assert (p.batch_shape, p.event_shape) == ((3, 4), (3,))
    features = elu(affine(network.trunk[0], inputs.cpu().numpy()))
    expected = scipy.special.expit(affine(network.logits, features))
    np.testing.assert_allclose(p.mean.detach().cpu(), expected, rtol=1e-10)
    bits = torch.tensor(list(product([0.0, 1.0], repeat=3))).to(device)
    total = p.log_prob(bits[:, None, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))
