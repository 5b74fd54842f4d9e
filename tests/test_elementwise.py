"""The fast element-wise functions against torch's own, and their derivatives against finite differences."""

import pytest
import torch
from torch.autograd.gradcheck import GradcheckError
from torch.func import grad, vmap
from torch.nn import functional as F

from course_lib.elementwise import ELU, softplus

PAIRS = {"softplus": (softplus, F.softplus), "elu": (ELU(), F.elu)}
FAR = [-1e4, -200.0, -90.0, 0.0, 90.0, 200.0, 1e4]
POINTS = torch.cat([torch.linspace(-30, 30, 6001), torch.tensor(FAR)])


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_derivatives_are_those_of_torch_within_a_rounding_of_one(name, dtype, device):
    ours, theirs = PAIRS[name]
    points = POINTS.to(device, dtype)
    tolerance = 4 * torch.finfo(dtype).eps
    if name == "softplus":  # torch's switches to the identity at 20, where e^-20 = 2e-9 is left out
        theirs = lambda h: -F.logsigmoid(-h)  # noqa: E731
    torch.testing.assert_close(ours(points), theirs(points), rtol=tolerance, atol=tolerance)
    moving, fixed = points.clone().requires_grad_(), points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ours(moving).sum(), moving)
    (expected,) = torch.autograd.grad(theirs(fixed).sum(), fixed)
    torch.testing.assert_close(slope, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", PAIRS)
def test_first_and_second_derivatives_equal_finite_differences(name, device):
    points = torch.tensor([-5.0, -0.3, 0.2, 4.0], dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(PAIRS[name][0], points)
    assert torch.autograd.gradgradcheck(PAIRS[name][0], points)


def test_a_wrong_derivative_is_noticed():
    points = torch.tensor([-5.0, -0.3, 0.2, 4.0], dtype=torch.float64, requires_grad=True)
    wrong = lambda h: softplus(h.detach()) + softplus(h) - softplus(h).detach() + 0.01 * (h - h.detach())  # noqa: E731
    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(wrong, points)


@pytest.mark.parametrize("name", PAIRS)
def test_per_example_gradients_by_vmap(name, device):
    ours, theirs = PAIRS[name]
    points = torch.tensor([-2.0, -0.1, 0.3, 3.0], device=device)
    torch.testing.assert_close(vmap(grad(ours))(points), vmap(grad(theirs))(points))
