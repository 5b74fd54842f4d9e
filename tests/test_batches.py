"""The batch stream: counted, enumerated, and continued from its saved state."""

import io
from itertools import combinations, islice

import pytest
import torch
from oracles import standard_errors

from course_lib.batches import STREAMS, TRANSFORMS, Batches, ZippedBatches, sub_seed


def take(batches, n):
    return list(islice(batches, n))


def pixel_column(device, *levels):
    """Ten thousand images in which pixel j has grey level `levels[j]`."""
    return torch.tensor(levels, dtype=torch.uint8, device=device).expand(10_000, -1).contiguous()


# Which examples come.


def test_each_pass_visits_every_example_once_in_a_new_order(device):
    batches = Batches(torch.arange(12, device=device), batch_size=4)
    first, second = torch.cat(take(batches, 3)), torch.cat(take(batches, 3))
    assert first.sort().values.tolist() == list(range(12))
    assert second.sort().values.tolist() == list(range(12))
    assert first.tolist() != second.tolist() != list(range(12))


def test_uneven_batches_never_repeat_within_a_pass_and_leave_nobody_out_for_good(device):
    batches = Batches(torch.arange(10, device=device), batch_size=4)
    passes = torch.stack([torch.cat(take(batches, 2)) for _ in range(2000)])
    assert all(len(set(examples)) == 8 for examples in passes.tolist())
    visits = (passes.unsqueeze(-1) == torch.arange(10, device=device)).any(1).double()
    assert standard_errors(visits, 0.8) < 4
    always_dropping_the_last_two = torch.tensor([1.0] * 8 + [0.0] * 2, device=device).double()
    assert standard_errors(visits, always_dropping_the_last_two) > 4


def test_several_tensors_are_gathered_together(device):
    pixels = torch.randint(256, (9, 3), dtype=torch.uint8, device=device)
    labels, rows = pixels.sum(1), torch.arange(9, device=device)
    x, label, row = next(Batches(pixels, labels, rows, batch_size=9, transform=None))
    torch.testing.assert_close(x, pixels[row] / 255)
    assert torch.equal(label, labels[row])


def test_identity_leaves_tensors_of_any_type_alone(device):
    points = torch.randn(6, 2, device=device).double()
    (batch,) = take(Batches(points, batch_size=6), 1)
    assert batch.dtype == torch.float64
    assert torch.equal(batch.sort(0).values, points.sort(0).values)


# What the transforms do to them.


def test_grey_levels_are_scaled_to_the_unit_interval(device):
    pixels = torch.arange(256, dtype=torch.uint8, device=device).reshape(1, 256)
    batch = next(Batches(pixels, batch_size=1, transform=None))
    torch.testing.assert_close(batch, torch.arange(256, device=device).reshape(1, 256) / 255)


def test_seventeen_grey_levels_are_scaled_to_the_unit_interval(device):
    levels = torch.arange(17, dtype=torch.uint8, device=device).reshape(1, 17)
    batch = next(Batches(levels, batch_size=1, transform=None, n_levels=17))
    torch.testing.assert_close(batch, torch.linspace(0, 1, 17, device=device).reshape(1, 17))


@pytest.mark.parametrize("n_levels", [2, 17, 256])
def test_exactly_v_of_the_equally_likely_thresholds_give_level_v_a_one(monkeypatch, device, n_levels):
    def every_threshold(n_thresholds, shape, **options):
        assert (n_thresholds, shape) == (n_levels - 1, (n_levels - 1, n_levels))
        return torch.arange(n_thresholds, dtype=torch.uint8, device=device).unsqueeze(1).expand(shape)

    monkeypatch.setattr(torch, "randint", every_threshold)
    pixels = torch.arange(n_levels, dtype=torch.uint8, device=device).expand(n_levels - 1, n_levels)
    bits = TRANSFORMS["binarize"](pixels, None, n_levels)
    assert bits.sum(0).tolist() == list(range(n_levels))


def test_bits_have_the_probability_level_over_the_highest_level(device):
    batches = Batches(pixel_column(device, 0, 5, 16), batch_size=10_000, transform="binarize", n_levels=17)
    bits = torch.cat(take(batches, 20)).double()
    assert bits[:, 0].sum() == 0
    assert bits[:, 2].sum() == len(bits)
    assert standard_errors(bits[:, 1:2], 5 / 16) < 4
    assert standard_errors(bits[:, 1:2], 5 / 17) > 4


def test_bits_have_the_probability_pixel_over_255(device):
    pixels = pixel_column(device, 0, 1, 60, 200, 254, 255)
    batches = Batches(pixels, batch_size=10_000, transform="binarize")
    bits = torch.cat(take(batches, 50)).double()
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    assert bits[:, 0].sum() == 0
    assert bits[:, -1].sum() == len(bits)
    levels = pixels[0, 1:-1].double()
    assert standard_errors(bits[:, 1:-1], levels / 255) < 4
    assert standard_errors(bits[:, 1:-1], levels / 256) > 4


def test_bits_are_drawn_afresh_in_every_pass_and_independently(device):
    batches = Batches(pixel_column(device, 128, 128), batch_size=10_000, transform="binarize")
    (one, other), (later, _) = (batch.double().T for batch in take(batches, 2))
    probability = 128 / 255
    assert standard_errors(one * other, probability**2) < 4
    assert standard_errors(one * later, probability**2) < 4


def test_dequantized_pixels_are_uniform_in_their_grey_level(device):
    levels = (0, 100, 255)
    batches = Batches(pixel_column(device, *levels), batch_size=10_000, transform="dequantize")
    within = 256 * next(batches).double() - torch.tensor(levels, device=device)
    assert within.min() >= 0
    assert within.max() < 1
    assert standard_errors(within, 1 / 2) < 4
    assert standard_errors(within.square(), 1 / 3) < 4
    assert standard_errors(within.square(), 1 / 4) > 4  # the square of a noiseless half


def cells(values, n_cells):
    """How many values lie in each of the equal cells of [0, 1): shape (n_cells,)."""
    return (values * n_cells).floor().long().flatten().bincount(minlength=n_cells)


@pytest.mark.parametrize("n_levels", [17, 256])
def test_grey_levels_that_are_equally_frequent_become_uniform_on_the_unit_interval(n_levels, device):
    """Counts in four cells a level; χ² has mean and half its variance equal to the degrees of freedom."""

    def chi_square(pixels, declared):
        batches = Batches(pixels, batch_size=len(pixels), transform="dequantize", n_levels=declared)
        values = next(batches).double()
        assert values.min() >= 0
        assert values.max() < 1
        counts, expected = cells(values, 4 * n_levels).double(), values.numel() / (4 * n_levels)
        return float(((counts - expected).square() / expected).sum())

    levels = torch.arange(n_levels, dtype=torch.uint8, device=device).repeat(200).unsqueeze(1)
    freedom = 4 * n_levels - n_levels  # each level's total is fixed
    assert chi_square(levels, n_levels) < freedom + 4 * (2 * freedom) ** 0.5
    if n_levels < 256:  # stretched over 8 bits, the levels are spikes with nothing between them
        stretched = (levels.double() * 255 / (n_levels - 1)).round().to(torch.uint8)
        assert chi_square(stretched, 256) > 100 * freedom


@pytest.mark.parametrize("n_levels", [17, 256])
def test_dequantization_never_rounds_up_to_the_next_grey_level(monkeypatch, n_levels):
    largest = torch.nextafter(torch.ones(()), torch.zeros(()))
    monkeypatch.setattr(torch, "rand", lambda shape, **options: largest.expand(shape).clone())
    levels = torch.arange(n_levels, dtype=torch.uint8).reshape(1, n_levels)
    dequantized = TRANSFORMS["dequantize"](levels, None, n_levels)
    assert torch.equal((n_levels * dequantized.double()).floor(), levels.double())


def test_finer_noise_would_be_rounded_up_to_one():
    largest = torch.nextafter(torch.ones(()), torch.zeros(()))
    assert torch.tensor(255, dtype=torch.uint8) + largest == 256


# Reproducibility.


@pytest.mark.parametrize("transform", ["binarize", "dequantize", None])
def test_equal_seeds_give_equal_streams_whatever_the_global_generator(transform, device):
    pixels = torch.randint(256, (20, 6), dtype=torch.uint8, device=device)

    def stream(seed):
        torch.rand(seed + 1, device=device)
        return torch.stack(take(Batches(pixels, batch_size=7, transform=transform, seed=seed), 5))

    assert torch.equal(stream(3), stream(3))
    assert not torch.equal(stream(3), stream(4))


def test_streams_of_one_seed_share_no_numbers(device):
    """Nor does a stream of batches shuffle as the seed itself would."""

    def numbers(seed):
        return torch.rand(1000, generator=torch.Generator(device).manual_seed(seed), device=device).tolist()

    for seed in (0, 1, 2**40):
        seeds = [seed, *(sub_seed(seed, stream) for stream in STREAMS)]
        streams = [numbers(each) for each in seeds]
        for one, other in combinations(streams, 2):
            assert len(set(one) & set(other)) < 10  # a few of 2²⁴ values may coincide
        order = Batches(torch.arange(1000, device=device), batch_size=1000, seed=seed)
        plain = torch.Generator(device).manual_seed(seed)
        assert next(order).tolist() != torch.randperm(1000, generator=plain, device=device).tolist()


def test_a_stream_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    take(Batches(torch.zeros(9, 2, dtype=torch.uint8), batch_size=4, transform="binarize"), 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_saved_state_continues_the_stream_exactly(device):
    pixels = torch.randint(256, (20, 6), dtype=torch.uint8, device=device)
    batches = Batches(pixels, batch_size=7, transform="binarize")
    take(batches, 3)  # stops in the middle of a pass
    file = io.BytesIO()
    torch.save(batches.state_dict(), file)
    uninterrupted = torch.stack(take(batches, 6))

    resumed = Batches(pixels, batch_size=7, transform="binarize", seed=99)
    assert not torch.equal(torch.stack(take(resumed, 6)), uninterrupted)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, map_location="cpu"))
    assert torch.equal(torch.stack(take(resumed, 6)), uninterrupted)


# Bad input.


def test_the_state_of_another_data_set_is_refused():
    state = Batches(torch.zeros(8), batch_size=2).state_dict()
    with pytest.raises(ValueError, match=r"saved batches are others \(examples: saved 8, asked for 9"):
        Batches(torch.zeros(9), batch_size=2).load_state_dict(state)


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ((), {}, "at least one example, got an empty data set"),
        ((torch.zeros(0, 4),), {}, "at least one example, got an empty data set"),
        ((torch.zeros(4), torch.zeros(5)), {"batch_size": 2}, r"equally many examples, got \[4, 5\]"),
        ((torch.zeros(4),), {"batch_size": 0}, "batch_size must be between 1 and the 4 examples, got 0"),
        ((torch.zeros(4),), {"batch_size": 5}, "batch_size must be between 1 and the 4 examples, got 5"),
        (
            (torch.zeros(4, 2),),
            {"batch_size": 2, "transform": "binarize"},
            r"'binarize' needs uint8 pixels.*got torch\.float32; .*use Batches\(…, transform='identity'\)",
        ),
        (
            (torch.zeros(4, 2, dtype=torch.uint8),),
            {"batch_size": 2, "transform": "binarise"},
            r"must be one of \[None, 'binarize', 'dequantize'\], got 'binarise'",
        ),
        (
            (torch.tensor([[0, 17]], dtype=torch.uint8),),
            {"batch_size": 1, "transform": "binarize", "n_levels": 17},
            r"go up to 17, but n_levels=17 allows the grey levels 0 … 16; pass the number of levels",
        ),
        (
            (torch.zeros(4, 2, dtype=torch.uint8),),
            {"batch_size": 2, "transform": None, "n_levels": 1},
            "n_levels must be between 2 and the 256 of 8 bits, got 1",
        ),
        ((torch.zeros(4),), {"batch_size": 2, "seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_batches_that_cannot_be_are_refused(tensors, options, message):
    with pytest.raises(ValueError, match=message):
        Batches(*tensors, **options)


# Several streams side by side.


def zipped(device, seed=0):
    few, many = torch.arange(6, device=device), torch.arange(100, 120, device=device)
    return ZippedBatches(Batches(few, batch_size=3, seed=seed), Batches(many, batch_size=5, seed=seed + 1))


def test_zipped_streams_yield_what_each_would_alone(device):
    few, many = torch.arange(6, device=device), torch.arange(100, 120, device=device)
    alone = zip(Batches(few, batch_size=3), Batches(many, batch_size=5, seed=1), strict=False)
    for pair, expected in zip(take(zipped(device), 9), alone, strict=False):
        assert isinstance(pair, tuple)
        assert [part.tolist() for part in pair] == [part.tolist() for part in expected]


def test_zipped_streams_turn_at_their_own_pace(device):
    pairs = take(zipped(device), 4)  # twice round the six, once round the twenty
    assert torch.cat([few for few, _ in pairs]).bincount().tolist() == [2] * 6
    assert torch.cat([many for _, many in pairs]).sort().values.tolist() == list(range(100, 120))


def test_zipped_streams_continue_from_their_saved_state(device):
    stream = zipped(device)
    take(stream, 5)
    buffer = io.BytesIO()
    torch.save(stream.state_dict(), buffer)
    expected = take(stream, 6)
    buffer.seek(0)
    other = zipped(device, seed=7)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for pair, continued in zip(expected, take(other, 6), strict=True):
        assert [part.tolist() for part in pair] == [part.tolist() for part in continued]


def test_zipped_streams_refuse_the_state_of_others_and_change_nothing(device):
    stream, control = zipped(device), zipped(device)
    with pytest.raises(ValueError, match="the saved batches are not those of 2 streams"):
        stream.load_state_dict(Batches(torch.arange(6, device=device), batch_size=3).state_dict())
    few, many = torch.arange(6, device=device), torch.arange(100, 120, device=device)
    wider = ZippedBatches(Batches(few, batch_size=3), Batches(many, batch_size=10))
    with pytest.raises(ValueError, match="batch_size: saved 10, asked for 5"):
        stream.load_state_dict(wider.state_dict())
    for pair, expected in zip(take(stream, 3), take(control, 3), strict=True):
        assert [part.tolist() for part in pair] == [part.tolist() for part in expected]
