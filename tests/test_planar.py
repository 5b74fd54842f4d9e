"""The planar map against its determinant lemma and scipy's root; the inverse at the edge of invertibility."""

import math

import pytest
import scipy.optimize
import torch

from course_lib.planar import Planar, PlanarMap, invertible_direction

pytestmark = pytest.mark.usefixtures("double_precision")


def test_the_direction_is_invertible_and_only_its_part_along_w_moves(device):
    u, w = 5 * torch.randn(200, 4, device=device), torch.randn(200, 4, device=device)
    moved = invertible_direction(u, w)
    product, before = (w * moved).sum(-1), (w * u).sum(-1)
    assert (product > -1).all()
    assert (before < -1).any()
    torch.testing.assert_close(product, (1 + (math.e - 1) * before.exp()).log() - 1)
    difference = moved - u
    along = (difference * w).sum(-1, keepdim=True) * w / w.square().sum(-1, keepdim=True)
    torch.testing.assert_close(difference, along)


def test_no_u_is_the_identity_and_a_tiny_w_leaves_u_finite():
    w = torch.tensor([[0.3, -2.0], [1e-9, 1e-9]])
    torch.testing.assert_close(
        invertible_direction(torch.zeros(2, 2), w), torch.zeros(2, 2), rtol=0, atol=1e-6
    )
    u = torch.tensor([2.0, 1.0])
    assert (invertible_direction(u, w[1]).norm() < 2 * u.norm()).all()
    papers = u + (torch.nn.functional.softplus(w[1] @ u) - 1 - w[1] @ u) * w[1] / w[1].square().sum()
    assert papers.norm() > 1e6  # what the shift is for


@pytest.mark.parametrize("push", [-30.0, -3.0, 0.0, 4.0, 200.0])
def test_the_inverse_finds_scipys_root(push):
    """push −30 leaves w·û at −1 to 13 digits: the map is all but flat at one point."""
    w = torch.tensor([0.6, -0.8])
    f = PlanarMap(push * w, w, torch.tensor(0.3))
    z = torch.tensor([[0.7, 1.5], [-40.0, 3.0], [0.0, 0.375]])
    x = f.inverse_and_log_det(z)[0]
    slope = float((f.u * w).sum())
    for row, target in zip(x, z @ w, strict=True):
        target = float(target)
        root = scipy.optimize.brentq(
            lambda a, target=target: a + slope * math.tanh(a + 0.3) - target,
            target - abs(slope) - 1,
            target + abs(slope) + 1,
            xtol=1e-14,
        )
        # Where the map is flat to 1e-13, x itself is known to the cube root of the precision only.
        assert float(row @ w) == pytest.approx(root, abs=1e-4 if push == -30 else 1e-10)
    torch.testing.assert_close(f(x), z, rtol=1e-13, atol=1e-13)


def test_u_without_the_correction_is_no_bijection():
    """The negative control: raw u with w·u < −1 folds the line, so that two points share an image."""
    w = torch.tensor([1.0, 0.0])
    a = torch.linspace(-2, 2, 401)
    folded = a - 3 * a.tanh()
    assert (folded.diff() < 0).any()
    assert (PlanarMap(-3 * w, w, torch.tensor(0.0))(torch.stack([a, 0 * a], -1))[:, 0].diff() > 0).all()


def test_a_context_gives_every_example_its_own_map(device):
    layer = Planar(3, n_context=2).to(device)
    with torch.no_grad():
        layer.parameters_of.weight.normal_()
    context, x = torch.randn(5, 2, device=device), torch.randn(7, 5, 3, device=device)
    z, log_det = layer.given(context).forward_and_log_det(x)
    assert (z.shape, log_det.shape) == ((7, 5, 3), (7, 5))
    for i in range(5):
        alone, alone_log_det = layer.given(context[i]).forward_and_log_det(x[:, i])
        torch.testing.assert_close(z[:, i], alone)
        torch.testing.assert_close(log_det[:, i], alone_log_det)
    assert (layer.given(context)(x[:, :1]).std(1) > 0.01).any()  # the context matters


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"given\(context\)"):
        Planar(2, n_context=3)(torch.zeros(2))
    with pytest.raises(ValueError, match="n_context=3"):
        Planar(2, n_context=3).given(torch.zeros(4))
    plain = Planar(2)
    assert plain.given(torch.zeros(4)) is plain
    with pytest.raises(ValueError, match="n_features=2"):
        plain(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="u and w"):
        PlanarMap(torch.zeros(2), torch.zeros(3), torch.tensor(0.0))
    with pytest.raises(FloatingPointError, match="not finite"):
        plain.inv(torch.tensor([torch.nan, 0.0]))
    with pytest.raises(ValueError, match="n_features"):
        Planar(0)


def test_single_precision_keeps_the_determinant_where_the_map_is_almost_flat():
    """w·û rounds to −1 there: 1 + w·û (1 − tanh²) would be 0, its logarithm −inf, the inverse NaN."""
    w, b = torch.tensor([1.0, 0.0]), torch.tensor(0.0)
    for push in (-17.0, -30.0):
        exact = PlanarMap(push * w, w, b)
        single = PlanarMap(push * w.float(), w.float(), b.float())
        x = torch.tensor([[0.0, 2.0], [0.3, 2.0]])
        expected = exact.forward_and_log_det(x)[1]
        torch.testing.assert_close(
            single.forward_and_log_det(x.float())[1].double(), expected, rtol=1e-5, atol=0
        )
        assert torch.isfinite(single.inv(torch.zeros(1, 2).float())).all()
    assert 1 + float((single.w * single.u).sum()) == 0.0  # what would have been in the logarithm


@pytest.mark.parametrize("size", [0.0, 1e-25, 1e-6, 1e-3])
def test_a_vanishing_w_leaves_u_alone_in_single_precision(size):
    w, u = torch.tensor([size, -size]).float(), torch.tensor([2.0, 1.0]).float()
    expected = invertible_direction(u.double(), w.double()) if size > 1e-20 else u.double()
    tolerance = 1e-5 if size != 1e-25 else 1
    torch.testing.assert_close(invertible_direction(u, w).double(), expected, rtol=0, atol=tolerance)
    x = torch.randn(3, 2).float()
    f = PlanarMap(u, w, torch.tensor(0.5).float())
    torch.testing.assert_close(f.inv(f(x)), x, rtol=0, atol=1e-5)


def test_the_determinant_is_differentiable_where_the_formulas_change():
    w = torch.tensor([1.0, 0.5])
    for product in (-10.0, -10.0 + 1e-9, -200.0, 200.0):
        u = (product * w / w.square().sum()).requires_grad_()
        moved = invertible_direction(u, w)
        assert torch.isfinite(torch.autograd.grad(moved.sum(), u)[0]).all()
        assert float(w @ moved.detach()) == pytest.approx(
            math.log1p((math.e - 1) * math.exp(product)) - 1
            if product < 100
            else product + math.log(math.e - 1) - 1,
            abs=1e-12,
        )


def test_a_context_of_another_batch_is_named():
    for call in ("forward_and_log_det", "inverse_and_log_det"):
        with pytest.raises(ValueError, match=r"\(4, 3\).*\(5, 3\)"):
            getattr(Planar(3, n_context=2).given(torch.zeros(4, 2)), call)(torch.zeros(5, 3))
