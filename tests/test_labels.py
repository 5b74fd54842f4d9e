"""Few labels: drawn once each, in balance, and streamed beside the images that have none."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from oracles import standard_errors

from course_lib.labels import balanced_indices, check_labelled, labelled_and_unlabelled

LABELS = torch.arange(90) % 3


# Which examples get a label.


@pytest.mark.parametrize("n_per_class", [1, 7, 30])
def test_every_class_gets_equally_many_different_examples(n_per_class, device):
    indices = balanced_indices(LABELS.to(device), n_per_class)
    assert indices.device.type == device.type
    assert len(set(indices.tolist())) == 3 * n_per_class
    assert LABELS[indices.cpu()].tolist() == [c for c in range(3) for _ in range(n_per_class)]


def test_every_example_of_a_class_is_equally_likely():
    counts = torch.stack(
        [torch.zeros(90).index_fill(0, balanced_indices(LABELS, 6, seed), 1.0) for seed in range(400)]
    )
    assert standard_errors(counts.double(), 6 / 30) < 4
    first_of_each = torch.zeros(90).index_fill(0, torch.arange(18), 1.0)
    assert standard_errors(counts.double(), first_of_each.double()) > 4


def test_a_seed_names_the_same_examples_on_every_device(device):
    here = balanced_indices(LABELS.to(device), 4, seed=3)
    assert here.tolist() == balanced_indices(LABELS, 4, seed=3).tolist()
    assert here.tolist() != balanced_indices(LABELS, 4, seed=4).tolist()


def test_a_draw_from_all_examples_is_neither_balanced_nor_without_repetition():
    """What `balanced_indices` is for: the birthday problem, and a class that is short."""
    rng = np.random.default_rng(0)
    draws = rng.integers(1500, size=(2000, 50))
    repeated = np.array([len(np.unique(row)) < 50 for row in draws])
    probability = 1 - math.exp(sum(math.log1p(-i / 1500) for i in range(50)))
    error = math.sqrt(probability * (1 - probability) / 2000)
    assert abs(repeated.mean() - probability) < 4 * error
    assert probability > 0.5
    counts = np.array([np.bincount(row % 10, minlength=10) for row in draws])
    assert (counts == 5).all(1).mean() < 0.01


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.float(), r"labels must be whole numbers in the shape \(N,\), N ≥ 1, got torch.float32"),
        (LABELS > 1, r"labels must be whole numbers in the shape \(N,\), N ≥ 1, got torch.bool"),
        (LABELS[None], r"labels must be whole numbers .* of \(1, 90\)"),
        (LABELS[:0], r"labels must be whole numbers .* of \(0,\)"),
        (LABELS - 1, "labels must be at least 0, got -1"),
    ],
)
def test_what_are_no_labels_is_refused(labels, message, device):
    with pytest.raises(ValueError, match=message):
        balanced_indices(labels.to(device), 1)


def test_a_class_with_too_few_examples_is_named(device):
    with pytest.raises(ValueError, match="class 0 has 30 examples, fewer than n_per_class=31"):
        balanced_indices(LABELS.to(device), 31)
    gap = torch.tensor([0, 0, 2, 2], device=device)
    with pytest.raises(ValueError, match="class 1 has 0 examples, fewer than n_per_class=1"):
        balanced_indices(gap, 1)


@pytest.mark.parametrize("n_per_class", [0, -2, 1.0])
def test_no_labels_at_all_are_refused(n_per_class):
    with pytest.raises(ValueError, match="n_per_class must be a whole number of at least 1"):
        balanced_indices(LABELS, n_per_class)


# What the streams refuse.


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 1, 2, 2, 5, 5], r"indices names 2 of its examples more than once, first example 2; each label"),
        ([0, 1, 3, 4], r"no labelled example of the classes \[2\]: they could never be learned"),
        ([0, 1, 90], r"indices must be between 0 and 89, got values from 0 to 90"),
        ([-1, 0, 1], r"indices must be between 0 and 89, got values from -1 to 1"),
        ([0.0, 1.0, 2.0], r"indices must be whole numbers in the shape \(n,\), n ≥ 1"),
        ([[0, 1, 2]], r"indices must be whole numbers .* of \(1, 3\)"),
        ([], r"indices must be whole numbers"),
    ],
)
def test_labelled_examples_that_teach_wrong_are_refused(indices, message, device):
    with pytest.raises(ValueError, match=message):
        check_labelled(torch.tensor(indices).to(device), LABELS.to(device))
    with pytest.raises(ValueError, match=message):
        labelled_and_unlabelled(
            torch.randn(90, 2).to(device), LABELS.to(device), torch.tensor(indices).to(device)
        )


def test_balanced_examples_pass(device):
    check_labelled(balanced_indices(LABELS.to(device), 1), LABELS.to(device))


# The two streams.


@pytest.fixture
def numbered(device):
    """Ninety examples, each of which is its own number."""
    return torch.arange(90, device=device)[:, None].float(), LABELS.to(device)


def test_labels_stay_with_their_examples_and_only_those_asked_for_are_shown(numbered):
    x, y = numbered
    indices = balanced_indices(y, 4, seed=1)
    stream = labelled_and_unlabelled(x, y, indices, batch_size=5)
    shown = set()
    for (x_labelled, labels), x_unlabelled in islice(stream, 40):
        assert (x_labelled.shape, labels.shape, x_unlabelled.shape) == ((5, 1), (5,), (5, 1))
        assert torch.equal(labels, x_labelled[:, 0].long() % 3)
        shown |= set(x_labelled[:, 0].long().tolist())
    assert shown == set(indices.tolist())


def test_all_labelled_examples_come_in_every_batch_if_they_are_few(numbered):
    x, y = numbered
    indices = balanced_indices(y, 2)
    for (x_labelled, _), x_unlabelled in islice(labelled_and_unlabelled(x, y, indices, batch_size=30), 5):
        assert sorted(x_labelled[:, 0].long().tolist()) == sorted(indices.tolist())
        assert x_unlabelled.shape == (30, 1)


def test_every_example_comes_without_its_label_the_labelled_ones_among_them(numbered):
    x, y = numbered
    stream = labelled_and_unlabelled(x, y, balanced_indices(y, 2), batch_size=30)
    seen = torch.cat([batch for _, batch in islice(stream, 3)])
    assert sorted(seen[:, 0].long().tolist()) == list(range(90))


def test_the_number_of_levels_reaches_both_streams(device):
    """Pixels at their largest value are always 1; with the wrong number of levels they rarely are."""
    pixels = torch.full((30, 50), 16, dtype=torch.uint8, device=device)
    labels, indices = (torch.arange(30) % 3).to(device), torch.arange(30, device=device)
    stream = labelled_and_unlabelled(pixels, labels, indices, 30, "binarize", n_levels=17)
    (bits, _), other_bits = next(stream)
    assert bits.min() == other_bits.min() == 1


def test_the_noise_of_the_two_streams_differs(device):
    pixels = torch.full((30, 50), 128, dtype=torch.uint8, device=device)
    labels = (torch.arange(30) % 3).to(device)
    stream = labelled_and_unlabelled(
        pixels, labels, torch.arange(30, device=device), batch_size=30, transform="binarize"
    )
    (bits, _), other_bits = next(stream)
    agreement = (bits == other_bits).double().flatten()
    assert standard_errors(agreement, 0.5) < 4
    assert standard_errors((bits == bits).double().flatten() - 1e-9 * agreement, 0.5) > 4
