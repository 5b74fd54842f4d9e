"""Masks against the definition of an autoregressive network: the zeros of autograd's Jacobian."""

import pytest
import torch
from flow_oracles import randomised

from course_lib.masked_networks import MaskedMLP, autoregressive_masks

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("hidden", [[7], [16, 16], [3, 40, 5]])
@pytest.mark.parametrize("n_features", [1, 2, 6])
def test_output_i_depends_on_the_inputs_before_i(n_features, hidden, device):
    network = randomised(MaskedMLP(n_features, hidden), 1.0).to(device)
    x = torch.randn(n_features, device=device)
    earlier = torch.ones(n_features, n_features, dtype=torch.bool, device=device).tril(-1)
    for k in range(2):
        jacobian = torch.func.jacrev(lambda x, k=k: network(x)[k])(x)
        assert (jacobian[~earlier] == 0).all()
        if min(hidden) >= n_features - 1:  # enough units for every degree: then nothing allowed is missing
            assert (jacobian[earlier] != 0).all()


def test_a_mask_off_by_one_lets_a_feature_see_itself():
    """The negative control: ≥ in the last mask, as in the ones before it."""
    masks = autoregressive_masks(4, [8])
    allowed = masks[1].double() @ masks[0].double()
    assert (allowed.triu() == 0).all()
    wrong = (torch.arange(1, 5)[:, None] >= (torch.arange(8) % 3 + 1)).double() @ masks[0].double()
    assert (wrong.diagonal() > 0).any()


def test_the_context_reaches_every_output(device):
    network = randomised(MaskedMLP(3, [8, 8], n_context=2), 1.0).to(device)
    x, context = torch.randn(3, device=device), torch.randn(2, device=device)
    for k in range(2):
        jacobian = torch.func.jacrev(lambda c, k=k: network(x, c)[k])(context)
        assert (jacobian != 0).all()
    assert network(torch.randn(4, 5, 3, device=device), torch.randn(5, 2, device=device))[0].shape == (
        4,
        5,
        3,
    )


def test_it_begins_at_zero_and_learns():
    network = MaskedMLP(3, [8])
    shift, raw = network(torch.randn(5, 3))
    assert (torch.cat([shift, raw]) == 0).all()
    (shift.sum() + raw.sum()).backward()
    assert network.rest[-1].weight.grad.abs().sum() > 0


def test_what_does_not_fit_the_mask_is_refused():
    network = MaskedMLP(3, [8])
    with pytest.raises(ValueError, match=r"n_features=3.*masks"):
        network(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="n_context=0"):
        network(torch.zeros(2, 3), torch.zeros(2, 1))
    conditional = MaskedMLP(3, [8], n_context=2)
    with pytest.raises(ValueError, match="needs a context of size 2"):
        conditional(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="n_context=2"):
        conditional(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(5, 3\)"):
        conditional(torch.zeros(5, 3), torch.zeros(4, 2))
    for hidden in ([], [0]):
        with pytest.raises(ValueError, match="hidden"):
            MaskedMLP(3, hidden)
    with pytest.raises(ValueError, match="n_features"):
        MaskedMLP(0, [3])
