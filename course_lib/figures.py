"""Pictures in one style: colour-blind-safe, opaque white so that they read alike in light and dark pages."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.training import History

__all__ = ["PALETTE", "image_grid", "plot_history", "show_images", "use_style"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by readers with any common colour vision."""

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.figsize": (6.4, 3.6),
    "font.size": 11,
    "grid.alpha": 0.3,
    "image.cmap": "gray_r",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "savefig.facecolor": "white",
}


def use_style() -> None:
    """Make the course's style matplotlib's default for the rest of the process."""
    plt.rcParams.update(STYLE)


def image_grid(images: Tensor, shape: tuple[int, int], n_columns: int) -> np.ndarray:
    """Tile flattened images into one picture, row by row, with a one-pixel gap.

    Args:
        images: shape (N, height · width) with N ≥ 1, values in [0, 1].
        shape: height and width of one image.
        n_columns: images per row; the last row is filled up with blanks.

    Returns:
        a float array of shape (rows · (height + 1) − 1, n_columns · (width + 1) − 1).
    """
    height, width = shape
    if images.ndim != 2 or images.shape[1] != height * width or len(images) == 0:
        wanted = f"(N, {height * width}) with N ≥ 1"
        raise ValueError(f"images must have shape {wanted}, got {tuple(images.shape)}")
    if n_columns < 1:
        raise ValueError(f"n_columns must be at least 1, got {n_columns}")
    n_rows = -(-len(images) // n_columns)
    tiles = torch.zeros(n_rows * n_columns, height + 1, width + 1)
    tiles[: len(images), :height, :width] = images.detach().float().cpu().unflatten(1, shape)
    picture = tiles.unflatten(0, (n_rows, n_columns)).transpose(1, 2).flatten(0, 1).flatten(1)
    return picture[:-1, :-1].numpy()


def show_images(
    images: Tensor | Sequence[Tensor],
    shape: tuple[int, int],
    titles: Sequence[str] = (),
    n_columns: int = 8,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Draw one grid of images, or several side by side with a title each.

    Args:
        images: a tensor of shape (N, height · width), or a sequence of them.
        shape: height and width of one image.
        titles: one title per grid.
        n_columns: images per row of a grid.
        ax: draw on these axes instead of a new figure.

    Returns:
        the figure.
    """
    grids = [images] if isinstance(images, Tensor) else list(images)
    if titles and len(titles) != len(grids):
        raise ValueError(f"{len(grids)} grids need {len(grids)} titles, got {len(titles)}")
    if ax is None:
        aspect = image_grid(grids[0], shape, n_columns).shape
        width = min(8.0, 0.6 * n_columns * len(grids))
        size = (width, width / len(grids) * aspect[0] / aspect[1] + (0.35 if titles else 0.05))
        figure, axes = plt.subplots(1, len(grids), figsize=size, squeeze=False)
        panels = list(axes[0])
    else:
        panels = [ax] if isinstance(ax, Axes) else list(ax)
        figure = panels[0].get_figure()
    for panel, grid, title in zip(panels, grids, titles or [""] * len(grids), strict=True):
        panel.imshow(image_grid(grid, shape, n_columns), vmin=0, vmax=1)
        panel.set_title(title)
        panel.set_axis_off()
    return figure


def plot_history(histories: History | dict[str, History], unit: str = "nats per image") -> Figure:
    """Draw the loss of one or more training runs against optimiser steps.

    Args:
        histories: a history, or several by label.
        unit: the unit of the loss, for the axis.

    Returns:
        the figure.
    """
    labelled = {"": histories} if isinstance(histories, History) else histories
    figure, ax = plt.subplots()
    for label, history in labelled.items():
        ax.plot(history.steps, history.losses, label=label)
    ax.set(xlabel="optimiser steps", ylabel=f"training loss ({unit})")
    if len(labelled) > 1:
        ax.legend()
    return figure
