"""What models refuse: the errors name the argument, the value and the cure, and good input passes."""

import math

import pytest
import torch

from course_lib.checks import (
    check_examples,
    check_floor,
    check_labels,
    check_last_axis,
    check_n_latents,
    check_stretches,
    check_whole,
    looked_at,
    recorded,
)


def test_good_input_passes():
    check_examples(torch.randn(3, 2))
    check_floor(1e-300)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        check_labels("y", torch.tensor([[0], [2]], dtype=dtype), 3)
    check_labels("y", torch.tensor([], dtype=torch.int64), 3)
    check_last_axis("x", torch.randn(4, 3, 2), "n_pixels", 2)
    check_n_latents(1, 2)
    check_whole("n", 0, 0)
    for shape in [(), (1,), (3,), (4, 1), (1, 3), (2, 4, 3)]:
        check_stretches("b", torch.Size(shape), torch.Size((2, 4, 3)))


@pytest.mark.parametrize("gap", [math.nan, math.inf, -math.inf])
def test_gaps_are_counted_and_the_first_is_named(gap):
    x = torch.randn(7, 3)
    x[[2, 5], [0, 2]] = gap
    with pytest.raises(ValueError, match=r"x has NaN or infinite values in 2 of its 7 rows, first in row 2"):
        check_examples(x)


@pytest.mark.parametrize(
    "x", [torch.randn(3), torch.randn(2, 3, 4), torch.randn(0, 3), torch.randn(3, 0), torch.ones(2, 2).long()]
)
def test_what_is_no_matrix_of_floats_is_refused(x):
    with pytest.raises(ValueError, match=r"x must hold floats in the shape \(N, D\), N ≥ 1, got torch\."):
        check_examples(x)


@pytest.mark.parametrize("floor", [0.0, -1e-6, math.nan, math.inf])
def test_a_floor_that_is_none_is_refused(floor):
    with pytest.raises(ValueError, match="variance_floor must be > 0 and finite, got"):
        check_floor(floor)


@pytest.mark.parametrize("x", [torch.randn(4, 1), torch.randn(3), torch.tensor(2.0)])
def test_a_last_axis_of_another_size_is_refused(x):
    with pytest.raises(
        ValueError, match=r"x has shape \(.*\); its last axis must have this model's n_pixels=2"
    ):
        check_last_axis("x", x, "n_pixels", 2)


@pytest.mark.parametrize("n_latents", [0, 4, 9])
def test_as_many_latents_as_pixels_are_refused(n_latents):
    with pytest.raises(ValueError, match=f"n_latents must be between 1 and 3, got {n_latents}"):
        check_n_latents(n_latents, 4)


@pytest.mark.parametrize("shape", [(4,), (4, 4), (2, 1, 4), (1, 2, 4, 3), (0,)])
def test_a_shape_that_does_not_stretch_to_the_target_is_refused(shape):
    with pytest.raises(ValueError, match=r"b must broadcast to \(2, 4, 3\), got"):
        check_stretches("b", torch.Size(shape), torch.Size((2, 4, 3)))


@pytest.mark.parametrize("number", [1, -2, 3.0, "3", None])
def test_what_is_no_whole_number_of_at_least_two_is_refused(number):
    with pytest.raises(ValueError, match=f"n must be a whole number of at least 2, got {number!r}"):
        check_whole("n", number, 2)


def test_a_truth_value_is_no_count():
    with pytest.raises(ValueError, match="n must be a whole number of at least 0, got True"):
        check_whole("n", True, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.complex64])
def test_labels_that_are_no_whole_numbers_are_refused(dtype, device):
    with pytest.raises(
        ValueError, match=r"y must hold whole numbers, got torch\.\w+; convert with \.long\(\)"
    ):
        check_labels("y", torch.ones(2, device=device).to(dtype), 3)


@pytest.mark.parametrize(("labels", "seen"), [([0, 3], "0 to 3"), ([-1, 2], "-1 to 2"), ([-5, 9], "-5 to 9")])
@torch.no_grad()
def test_labels_out_of_range_are_refused(labels, seen, device):
    with pytest.raises(ValueError, match=f"y must be labels 0 … 2, got values from {seen}"):
        check_labels("y", torch.tensor(labels, device=device), 3)


def test_values_of_labels_are_looked_at_on_the_cpu_also_in_training():
    with pytest.raises(ValueError, match="y must be labels 0 … 2"):
        check_labels("y", torch.tensor([3]), 3)


def test_values_of_labels_are_not_looked_at_inside_a_compiled_graph(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    check_labels("y", torch.tensor([3]), 3)


def test_values_are_not_looked_at_while_a_cuda_graph_is_recorded(device):
    values = torch.rand(3, device=device)
    assert not recorded(values)
    if device.type == "cuda":
        with torch.cuda.graph(torch.cuda.CUDAGraph()), torch.no_grad():
            assert recorded(values + 1)
            assert not looked_at(values)
