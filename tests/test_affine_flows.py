"""Coupling and autoregression against zuko, with the same outputs of the conditioner."""

import math

import pytest
import torch
import zuko
from flow_oracles import randomised
from torch import nn

from course_lib.affine_flows import (
    MAX_LOG_SCALE,
    AffineCoupling,
    MaskedAutoregressive,
    bounded_log_scale,
)
from course_lib.bijections import Composition, Inverse
from course_lib.flow import FlowDistribution
from course_lib.networks import StandardNormal

pytestmark = pytest.mark.usefixtures("double_precision")


def zukos_affine(shift, raw):
    """zuko's affine map under our convention: it squashes its argument differently, so that is undone."""
    log_scale = bounded_log_scale(raw)
    unsquashed = log_scale / (1 - (log_scale / math.log(1e-3)).abs())
    transform = zuko.transforms.MonotonicAffineTransform(shift, unsquashed)
    torch.testing.assert_close(transform.log_scale, log_scale)
    return zuko.transforms.DependentTransform(transform, 1)


def zukos_layer(layer):
    """The same transform, made of zuko's parts and our layer's networks."""
    if isinstance(layer, AffineCoupling):
        mask = torch.zeros(layer.n_features, dtype=torch.bool)
        mask[layer.passing] = True
        return zuko.transforms.CouplingTransform(
            lambda passing: zukos_affine(*layer.network(passing).chunk(2, -1)), mask
        )
    return zuko.transforms.AutoregressiveTransform(
        lambda x: zukos_affine(*layer.conditioner(x)), passes=layer.network.n_features
    )


LAYERS = {
    "coupling": lambda: AffineCoupling(5, [16, 16]),
    "coupling of a mask": lambda: AffineCoupling(5, [16], torch.tensor([True, False, False, True, False])),
    "autoregressive": lambda: MaskedAutoregressive(5, [16, 16]),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_densities_samples_and_inverses_equal_zukos(name, dtype):
    layers = [randomised(LAYERS[name](), 0.4).to(dtype) for _ in range(3)]
    x = torch.randn(40, 5, dtype=dtype)
    base = StandardNormal(5).to(dtype)()
    ours = FlowDistribution(base, Composition(layers))
    theirs = zuko.distributions.NormalizingFlow(
        zuko.transforms.ComposedTransform(*(zukos_layer(layer) for layer in layers)), base
    )
    tolerance = {"rtol": 0, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), **tolerance)
    z = torch.randn(40, 5, dtype=dtype)
    torch.testing.assert_close(ours.bijection.inv(z), theirs.transform.inv(z), **tolerance)
    # The control: zuko's own squashing of the same numbers is another density.
    raw = layers[0].conditioner(x)[1] if name == "autoregressive" else torch.linspace(-3, 3, 5, dtype=dtype)
    squashed = zuko.transforms.MonotonicAffineTransform(torch.zeros_like(raw), raw).log_scale
    assert (squashed - bounded_log_scale(raw)).abs().max() > 1e-3


def test_the_scale_is_bounded_and_smooth():
    raw = torch.tensor([-1e6, -1e-3, 0.0, 1e-3, 1e6])
    expected = torch.tensor([-5, -1e-3, 0, 1e-3, 5])
    assert MAX_LOG_SCALE == 5  # as the module, the chapter and zuko's comparison say
    torch.testing.assert_close(bounded_log_scale(raw), expected, rtol=0, atol=1e-9)


def test_a_fresh_layer_is_the_identity():
    for make in LAYERS.values():
        x = torch.randn(3, 5)
        z, log_det = make().forward_and_log_det(x)
        torch.testing.assert_close(z, x, rtol=0, atol=0)
        assert (log_det == 0).all()


def test_the_passing_features_pass_and_alone_decide():
    mask = torch.tensor([True, False, False, True, False])
    layer = randomised(AffineCoupling(5, [16], mask))
    x = torch.randn(5)
    torch.testing.assert_close(layer(x)[mask], x[mask], rtol=0, atol=0)
    jacobian = torch.func.jacrev(layer)(x)
    changing = jacobian[~mask][:, ~mask]
    torch.testing.assert_close(changing, changing.diagonal().diag(), rtol=0, atol=0)
    assert (jacobian[~mask][:, mask] != 0).all()


def test_a_context_gives_every_example_its_own_map(device):
    layer = randomised(MaskedAutoregressive(3, [16], n_context=2)).to(device)
    context, x = torch.randn(5, 2, device=device), torch.randn(7, 5, 3, device=device)
    conditional = Inverse(layer).given(context)
    z, log_det = conditional.forward_and_log_det(x)
    torch.testing.assert_close(conditional.inv(z), x)
    for i in range(5):
        alone = layer.given(context[i]).inverse_and_log_det(x[:, i])
        torch.testing.assert_close((z[:, i], log_det[:, i]), alone)
    plain = MaskedAutoregressive(3, [16])
    assert plain.given(context) is plain


def count_calls(layer, call):
    """How often a network is asked."""
    calls = []
    hook = layer.register_forward_hook(lambda *_: calls.append(1))
    call()
    hook.remove()
    return len(calls)


def test_one_pass_forward_and_a_pass_a_feature_back():
    autoregressive, coupling = MaskedAutoregressive(6, [8]), AffineCoupling(6, [8])
    x = torch.randn(2, 6)
    for layer, network, passes in (
        (autoregressive, autoregressive.network, 6),
        (coupling, coupling.network, 1),
    ):
        assert count_calls(network, lambda layer=layer: layer(x)) == 1
        assert count_calls(network, lambda layer=layer: layer.inv(x)) == passes


@pytest.mark.parametrize(
    "mask",
    [torch.ones(4).bool(), torch.zeros(4).bool(), torch.ones(3).bool(), torch.tensor([1, 0, 1, 0])],
)
def test_a_mask_that_is_none_is_refused(mask):
    with pytest.raises(ValueError, match="mask must hold n_features=4 booleans"):
        AffineCoupling(4, [8], mask)


def test_shapes_that_do_not_match_the_mask_are_refused():
    for layer in (AffineCoupling(4, [8]), MaskedAutoregressive(4, [8])):
        for call in (layer, layer.inv):
            with pytest.raises(ValueError, match=r"\(2, 5\).*n_features=4.*made for that number"):
                call(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="n_features"):
        AffineCoupling(1, [8])
    with pytest.raises(ValueError, match=r"given\(context\)"):
        MaskedAutoregressive(4, [8], n_context=3)(torch.zeros(4))
    assert isinstance(AffineCoupling(2, [8], activation=nn.Tanh).network[1], nn.Tanh)
