"""Every bijection: its inverse, its log-determinant against autograd, and torch's own contract."""

import copy
import pickle

import pytest
import torch
from flow_oracles import MAKERS, autograd_log_det, bijection, inputs
from torch.distributions import Normal, TransformedDistribution

from course_lib.bijections import ActNorm, Bijection, Composition, Inverse, Permutation

float64 = pytest.mark.usefixtures("double_precision")
every_bijection = pytest.mark.parametrize("name", MAKERS)


@every_bijection
@float64
def test_the_inverse_undoes_the_map(name, device):
    f, x = bijection(name, 5, device), inputs(name, 5, device=device)
    z, log_det = f.forward_and_log_det(x)
    back, inverse_log_det = f.inverse_and_log_det(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-9)
    assert name == "permutation" or (z - x).abs().max() > 0.1  # not the identity, whose inverse is trivial


@every_bijection
def test_the_inverse_undoes_the_map_in_single_precision(name, device):
    f, x = bijection(name, 5, device, scale=0.2), inputs(name, 5, device=device)  # a tame conditioning
    z = f(x)
    assert name == "permutation" or (z - x).abs().max() > 0.1
    torch.testing.assert_close(f.inv(z), x, rtol=0, atol=1e-5)


@every_bijection
@pytest.mark.parametrize("n_features", [2, 5])
@float64
def test_the_log_determinant_is_that_of_autograds_jacobian(name, n_features, device):
    f, x = bijection(name, n_features, device), inputs(name, n_features, 20, device)
    z, log_det = f.forward_and_log_det(x)
    torch.testing.assert_close(log_det, autograd_log_det(f, x), rtol=0, atol=1e-8)
    torch.testing.assert_close(-log_det, autograd_log_det(f.inv, z.detach()), rtol=0, atol=1e-8)


@every_bijection
@float64
def test_both_directions_pass_gradcheck(name):
    f, x = bijection(name, 3), inputs(name, 3, 4)
    z = f(x).detach()
    for call, point in ((f.forward_and_log_det, x), (f.inverse_and_log_det, z)):
        assert torch.autograd.gradcheck(call, point.clone().requires_grad_())


@every_bijection
@float64
def test_torchs_transformed_distribution_takes_it_as_a_transform(name):
    f, x = bijection(name, 3), inputs(name, 3)
    base = Normal(torch.zeros(3), torch.ones(3)).expand((3,))
    base = torch.distributions.Independent(base, 1)
    density = TransformedDistribution(base, [f.inv], validate_args=False).log_prob(x)
    z, log_det = f.forward_and_log_det(x)
    torch.testing.assert_close(density, base.log_prob(z) + log_det)
    assert f.inv.inv is f
    assert (f.event_dim, f.bijective) == (1, True)
    torch.testing.assert_close(f.inv(f(x)), x)


@every_bijection
def test_leading_axes_are_batch_axes_and_a_module_survives_copies(name):
    f = bijection(name, 4)
    x = inputs(name, 4, 6)
    z = f(x)
    wide, wide_log_det = f.forward_and_log_det(x.reshape(3, 2, 4))
    torch.testing.assert_close(wide.reshape(6, 4), z)
    assert wide_log_det.shape == (3, 2)
    assert f.inv is not None  # made before the copies
    for twin in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        torch.testing.assert_close(twin(x), z)
    assert {f: 1}[f] == 1
    assert type(f).__name__ in repr(f)


def test_actnorm_starts_from_the_batch_and_then_stays():
    x = 3 + 2 * torch.randn(500, 4)
    f = ActNorm(4)
    torch.testing.assert_close(f(x), x)
    f.initialise(x)
    z = f(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(f(x[:2]), z[:2])  # a second batch changes nothing
    x[:, 1] = 7
    with pytest.raises(ValueError, match=r"features \[1\].*do not vary"):
        f.initialise(x)


def test_a_composition_initialises_each_member_from_its_predecessors():
    x = 3 + 2 * torch.randn(500, 2)
    f = Composition([ActNorm(2), Permutation.reversing(2), ActNorm(2)])
    f.initialise(x)
    torch.testing.assert_close(f(x).std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(f.bijections[2].log_scale, torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", [[0, 0], [1, 2], [[0, 1]], [], [1.0, 0.0], [True, False]])
def test_a_permutation_that_is_none_is_refused(order):
    with pytest.raises(ValueError, match="each of 0"):
        Permutation(torch.tensor(order))


@pytest.mark.parametrize("make", [ActNorm, Permutation.reversing])
def test_other_sizes_are_refused(make):
    with pytest.raises(ValueError, match="n_features=3"):
        make(3)(torch.zeros(2, 4))


def test_unfinished_and_empty_bijections_say_so():
    with pytest.raises(NotImplementedError, match="forward_and_log_det"):
        Bijection()(torch.zeros(2))
    with pytest.raises(NotImplementedError, match="forward_and_log_det"):
        Inverse(Bijection()).inverse_and_log_det(torch.zeros(2))
    with pytest.raises(ValueError, match="at least one"):
        Composition([])


@every_bijection
def test_nobody_stumbles_over_an_empty_batch_a_saved_state_or_vmap(name):
    f, x = bijection(name, 4), inputs(name, 4, 6)
    z, log_det = f.forward_and_log_det(x[:0])
    assert (z.shape, log_det.shape, f.inv(z).shape) == ((0, 4), (0,), (0, 4))
    other = bijection(name, 4)
    other.load_state_dict(f.state_dict())
    torch.testing.assert_close(other(x), f(x), rtol=0, atol=0)
    z = f(x).detach()
    torch.testing.assert_close(torch.func.vmap(f)(x), z)
    torch.testing.assert_close(torch.func.vmap(f.inv)(z), f.inv(z))


def test_a_single_example_cannot_initialise_actnorm():
    for x in (torch.randn(1, 2), torch.randn(2)):
        with pytest.raises(ValueError, match="do not vary"):
            ActNorm(2).initialise(x)
    with pytest.raises(ValueError, match="n_features"):
        ActNorm(0)
