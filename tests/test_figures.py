"""The pictures: where each pixel lands, what the axes say, and colours that colour-blind readers can tell."""

import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from course_lib.figures import PALETTE, image_grid, plot_history, show_images, use_style
from course_lib.training import History


@pytest.fixture(autouse=True)
def _close_figures():
    with mpl.rc_context({"figure.max_open_warning": 0}):
        yield
        plt.close("all")


def test_image_grid_tiles_row_by_row_with_a_gap_and_blanks_at_the_end(device):
    images = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8], [0.9, 1.0]], device=device)
    expected = [
        [0.1, 0.2, 0.0, 0.3, 0.4, 0.0, 0.5, 0.6],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.7, 0.8, 0.0, 0.9, 1.0, 0.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(image_grid(images, (1, 2), n_columns=3), expected, rtol=1e-6)


def test_image_grid_keeps_rows_of_pixels_as_rows():
    image = torch.arange(6.0).reshape(1, 6)
    np.testing.assert_array_equal(image_grid(image, (2, 3), 1), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(image_grid(image, (3, 2), 1), [[0, 1], [2, 3], [4, 5]])


def test_image_grid_takes_a_networks_output_as_it_is():
    picture = image_grid(torch.zeros(2, 4, dtype=torch.float64, requires_grad=True), (2, 2), 2)
    assert picture.shape == (2, 5)


@pytest.mark.parametrize(
    ("images", "n_columns", "message"),
    [
        (torch.zeros(2, 5), 2, r"images must have shape \(N, 4\) with N ≥ 1, got \(2, 5\)"),
        (torch.zeros(2, 2, 2), 2, r"images must have shape \(N, 4\) with N ≥ 1, got \(2, 2, 2\)"),
        (torch.zeros(2, 4), 0, "n_columns must be at least 1, got 0"),
        (torch.zeros(0, 4), 2, r"images must have shape \(N, 4\) with N ≥ 1, got \(0, 4\)"),
    ],
)
def test_image_grid_refuses_what_it_cannot_tile(images, n_columns, message):
    with pytest.raises(ValueError, match=message):
        image_grid(images, (2, 2), n_columns)


def drawn(figure):
    """The picture and the grey range on each panel."""
    return [(panel.images[0].get_array(), panel.images[0].get_clim()) for panel in figure.axes]


def test_show_images_draws_each_grid_on_the_same_grey_scale_under_its_title():
    dark, light = torch.full((3, 4), 0.2), torch.full((3, 4), 0.3)
    figure = show_images([dark, light], (2, 2), titles=["data", "samples"], n_columns=2)
    assert [panel.get_title() for panel in figure.axes] == ["data", "samples"]
    for (picture, grey_range), images in zip(drawn(figure), (dark, light), strict=True):
        np.testing.assert_array_equal(picture, image_grid(images, (2, 2), 2))
        assert grey_range == (0, 1)


def test_show_images_draws_on_the_axes_it_is_given():
    figure, (left, right) = plt.subplots(1, 2)
    assert show_images(torch.zeros(1, 4), (2, 2), ax=right) is figure
    assert not left.images
    assert len(right.images) == 1
    assert show_images([torch.zeros(1, 4)] * 2, (2, 2), ax=[left, right]) is figure
    assert len(left.images) == 1


def test_show_images_needs_a_title_for_every_grid_or_none():
    with pytest.raises(ValueError, match="2 grids need 2 titles, got 1"):
        show_images([torch.zeros(1, 4)] * 2, (2, 2), titles=["one"])


def test_plot_history_draws_losses_against_steps_with_their_unit():
    one, two = History([1, 2], [5.0, 4.0], [0.1, 0.2]), History([1, 2], [3.0, 2.5], [0.1, 0.2])
    (ax,) = plot_history({"one": one, "two": two}, unit="bits").axes
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 5], [2, 4]], [[1, 3], [2, 2.5]]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("optimiser steps", "training loss (bits)")
    (ax,) = plot_history(one).axes
    assert ax.get_legend() is None
    assert ax.get_ylabel() == "training loss (nats per image)"


def test_use_style_gives_opaque_white_figures_in_the_palette():
    use_style()
    figure, ax = plt.subplots()
    lines = [ax.plot([0, 1])[0].get_color() for _ in PALETTE]
    assert lines == list(PALETTE)
    assert figure.get_facecolor() == (1, 1, 1, 1)


def seen_without_green_cones(colour):
    """Linear RGB as a deuteranope sees it (Viénot, Brettel and Mollon, 1999)."""
    projection = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    return projection @ np.array(to_rgb(colour)) ** 2.2


def test_every_pair_of_colours_stays_apart_without_green_cones():
    def distance(one, other):
        return np.linalg.norm(seen_without_green_cones(one) - seen_without_green_cones(other))

    assert min(distance(*pair) for pair in itertools.combinations(PALETTE, 2)) > 0.05
    assert distance("#00A000", "#B27300") < 0.05
