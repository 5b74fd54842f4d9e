"""The networks against the same arithmetic done by hand in numpy."""

from itertools import product

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

from course_lib.networks import BernoulliNetwork, LabelledNetwork, NormalNetwork, StandardNormal, mlp

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


def test_standard_normal_follows_its_module_in_device_and_type(device):
    prior = StandardNormal(3).to(device, torch.float32)
    z = torch.randn(4, 3, dtype=torch.float32, device=device)
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    assert (p.mean.dtype, p.mean.device.type) == (torch.float32, device.type)
    assert not list(prior.parameters())
    expected = scipy.stats.norm.logpdf(z.cpu().double()).sum(-1)
    np.testing.assert_allclose(p.log_prob(z).cpu(), expected, rtol=1e-6)


def test_labelled_network_is_a_layer_on_the_input_beside_the_one_hot_label(inputs, device):
    network = LabelledNetwork(5, 3, 7, NormalNetwork(7, (), 2)).to(device)
    labels = torch.tensor([2, 0, 1, 2]).to(device)
    q = network(inputs, labels)
    assert (q.batch_shape, q.event_shape) == ((3, 4), (2,))
    one_hot = np.broadcast_to(np.eye(3)[labels.cpu()], (3, 4, 3))
    joined = np.concatenate([inputs.cpu().numpy(), one_hot], -1)
    matrix = np.concatenate(
        [network.inputs.weight.detach().cpu().numpy(), network.labels.weight.detach().cpu().numpy().T], 1
    )
    features = elu(joined @ matrix.T + network.inputs.bias.detach().cpu().numpy())
    np.testing.assert_allclose(q.mean.detach().cpu(), affine(network.network.mean, features), rtol=1e-10)


def test_labelled_network_puts_the_axis_of_all_labels_first(inputs, device):
    network = LabelledNetwork(5, 3, 7, NormalNetwork(7, (), 2)).to(device)
    every = network(inputs[0], torch.arange(3, device=device)[:, None])
    assert every.batch_shape == (3, 4)
    for c in range(3):
        one = network(inputs[0], torch.tensor(c, device=device))
        torch.testing.assert_close(every.mean[c], one.mean, rtol=0, atol=1e-12)


def test_labelled_network_multiplies_each_input_once_for_all_labels(inputs, device):
    network, rows = LabelledNetwork(5, 3, 7, NormalNetwork(7, (6,), 2)).to(device), []
    for layer in (network.inputs, network.network.trunk[0]):
        layer.register_forward_hook(lambda layer, given, output: rows.append(given[0].shape[:-1].numel()))
    network(inputs[0], torch.arange(3, device=device)[:, None])
    assert rows == [4, 12]


def test_labelled_network_starts_its_label_columns_as_a_linear_layer_would(device):
    network = LabelledNetwork(100, 50, 200, nn.Identity())
    weights = network.labels.weight.detach()
    assert weights.abs().max() <= 0.1
    spread = weights.std().item()  # uniform on ±0.1: 0.1/√3, from 10,000 draws
    assert spread == pytest.approx(0.1 / 3**0.5, rel=0.02)
