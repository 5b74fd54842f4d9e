"""The logit against scipy, what it refuses, and bits per dimension against the levels' own probabilities."""

import math

import pytest
import scipy.special
import torch
from flow_oracles import randomised

from course_lib.bijections import Composition
from course_lib.data import load_images
from course_lib.dequantisation import Logit, bits_per_dimension, check_dequantised
from course_lib.flow import Flow, coupling_layers

float64 = pytest.mark.usefixtures("double_precision")


@float64
def test_the_logit_against_scipy():
    x = torch.rand(7, 3)
    z, log_det = Logit(0.02).forward_and_log_det(x)
    p = (0.02 + 0.96 * x).numpy()
    torch.testing.assert_close(z, torch.from_numpy(scipy.special.logit(p)))
    torch.testing.assert_close(log_det, torch.from_numpy(0.96 / (p * (1 - p))).log().sum(-1))


def test_the_logit_takes_dequantised_images_and_refuses_the_grey_levels():
    images = load_images("digits", "cpu")
    f = Logit()
    assert torch.isfinite(f(images.evaluation("dequantize"))).all()
    with pytest.raises(ValueError, match=r"outside \[0, 1\).*dequantize"):
        f(images.evaluation(None))
    dark = images.evaluation(None)
    with pytest.raises(ValueError, match=r"exactly 0.*dequantize"):
        f(dark[:, dark.amax(0) < 1])
    with pytest.raises(ValueError, match="logit is -inf"):
        Logit(alpha=0)(torch.tensor([[0.0, 0.5]]))
    with pytest.raises(ValueError, match=r"\[nan, nan\]"):
        f(torch.full((1, 2), torch.nan))
    with pytest.raises(ValueError, match="alpha"):
        Logit(0.5)


def test_the_logit_keeps_its_digits_at_both_ends():
    """In single precision, against the same numbers in double precision."""
    x = torch.tensor([[1e-7, 1e-4, 0.3, 1 - 2.0**-12, 1 - 2.0**-23]])
    for alpha in (0.0, 1e-6):
        z, log_det = Logit(alpha).forward_and_log_det(x)
        exact, exact_log_det = Logit(alpha).forward_and_log_det(x.double())
        torch.testing.assert_close(z.double(), exact, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(log_det.double(), exact_log_det, rtol=1e-6, atol=0)


def test_many_zeros_are_a_symptom_and_levels_without_them_pass():
    check_dequantised(torch.tensor([0.0, 0.5]), 0.1)  # one zero may be chance
    check_dequantised(torch.zeros(0, 3), 0.1)
    check_dequantised(torch.full((10, 3), 0.5), 0.1)  # nothing tells these from real numbers
    with pytest.raises(ValueError, match="2 of the 2 pixels"):
        check_dequantised(torch.zeros(2), 0.1)


def test_bits_per_dimension_of_uniform_pixels_are_log2_of_the_levels():
    assert float(bits_per_dimension(torch.zeros(()), 64, 256)) == 8
    one_bit_less = torch.tensor(64 * math.log(2))
    assert float(bits_per_dimension(one_bit_less, 64, 256)) == pytest.approx(7)


@float64
def test_bits_bound_the_cost_of_the_grey_levels():
    """Two pixels of four levels: the levels' own probabilities by quadrature over each cube."""
    flow = Flow(2, [Logit(0.05), *randomised(Composition(coupling_layers(2, 2, [8])), 0.3).bijections])
    inside = (torch.arange(50) + 0.5) / 200
    for level in torch.tensor([[0, 3], [2, 1]]):
        cube = level / 4 + torch.cartesian_prod(inside, inside)
        log_prob = flow.log_prob(cube).detach()
        probability = log_prob.exp().mean() / 16
        bits = bits_per_dimension(log_prob, 2, 4).mean()
        assert bits > -probability.log2() / 2 + 1e-3


def test_a_number_of_levels_that_is_none_is_refused():
    with pytest.raises(ValueError, match="n_levels"):
        bits_per_dimension(torch.zeros(()), 4, 1)
