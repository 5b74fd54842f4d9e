"""Pictures of Markov networks: the graph, its maximal cliques, and an elimination step by step."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Polygon
from matplotlib.text import Text
from scipy.spatial import ConvexHull

from course_lib.elimination_plan import EliminationPlan
from course_lib.figures import PALETTE
from course_lib.markov_network import MarkovNetwork
from course_lib.network_layout import network_layout, shortest_distance

__all__ = ["draw_cliques", "draw_elimination", "draw_elimination_step", "draw_network"]

Positions = Mapping[str, tuple[float, float]] | None
Labels = Mapping[str, str] | None

BLUE, ORANGE, GREEN, *_ = PALETTE
PALE_BLUE, PALE_ORANGE, GREY, INK = "#CCE3F0", "#F7DFCC", "#9A9A9A", "#222222"
RADIUS = 0.24  # of a variable's circle, where the shortest distance between two variables is 1


def draw_network(
    network: MarkovNetwork,
    positions: Positions = None,
    colours: Mapping[str, str] | None = None,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the graph.

    Args:
        network: what to draw.
        positions: where each variable goes; by default as `network_layout` says.
        colours: the fill of some variables' circles; the others are white.
        labels: what to write into the circles instead of the variables' names.
        ax: draw on these axes instead of a new figure.

    Returns:
        the figure.
    """
    canvas = _Canvas(network, positions, labels, ax)
    canvas.edges(network.graph.edges)
    fill = _of_each(network, "white", colours, "colours")
    for variable in network.variables:
        canvas.variable(variable, fill[variable])
    return canvas.figure


def draw_cliques(
    network: MarkovNetwork,
    positions: Positions = None,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the graph with a coloured outline around each maximal clique.

    A new figure gets a legend of them; on axes of your own call `ax.legend()` where it fits.
    Takes the arguments of `draw_network` and returns the figure.
    """
    canvas = _Canvas(network, positions, labels, ax)
    cliques = network.maximal_cliques()
    for i, clique in enumerate(cliques):
        # Neighbouring outlines keep different distances, so that one does not hide the other.
        outline = canvas.outline(clique, RADIUS * (1.35 + 0.25 * (i % 3)))
        colour, style = PALETTE[i % 6], ("-", "--", ":")[i // 6 % 3]
        label = "{" + ", ".join(canvas.labels[variable] for variable in clique) + "}"
        patch = Polygon(outline, fc=(colour, 0.15), ec=colour, ls=style, linewidth=2, zorder=0, label=label)
        canvas.ax.add_patch(patch)
    canvas.edges(network.graph.edges)
    for variable in network.variables:
        canvas.variable(variable)
    if ax is None:  # the legend gets its own room below
        width, height = canvas.figure.get_size_inches()
        n_columns = max(1, min(int(width / 1.5), len(cliques)))
        canvas.figure.set_figheight(height + 0.1 + 0.25 * math.ceil(len(cliques) / n_columns))
        canvas.figure.legend(loc="outside lower center", ncols=n_columns)
    return canvas.figure


def draw_elimination_step(
    network: MarkovNetwork,
    plan: EliminationPlan,
    step: int,
    positions: Positions = None,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw the graph at one step of an elimination.

    The variable that goes is orange, its neighbours are blue, and new edges between these are dashed.
    Variables that have gone are pale, and observed ones, which the plan does not mention, are grey.
    Steps count from 0; the other arguments are those of `draw_network`.
    """
    if not 0 <= step < len(plan.steps):
        raise ValueError(f"step must be at least 0 and less than {len(plan.steps)}, got {step}")
    left = {*plan.order, *plan.keep}
    if plan.scopes != tuple(tuple(v for v in factor.variables if v in left) for factor in network.factors):
        raise ValueError("plan must be one of this network, it has other tables: take network.plan()")
    canvas = _Canvas(network, positions, labels, ax)
    graph = nx.Graph(network.graph)
    graph.remove_nodes_from(set(network.variables) - left)
    for earlier in plan.steps[:step]:
        graph.add_edges_from(earlier.fill_in)
        graph.remove_node(earlier.variable)
    now = plan.steps[step]
    canvas.edges((a, b) for a, b in graph.edges if now.variable not in (a, b))
    canvas.edges(((now.variable, other) for other in now.scope[1:]), color=ORANGE, linewidth=3)
    canvas.edges(now.fill_in, color=GREEN, linewidth=3, linestyle=(0, (2, 1.2)))
    gone = plan.order[:step]
    for variable in network.variables:
        if variable in gone:
            canvas.variable(variable, "none", "#DDDDDD", zorder=0)
        elif variable == now.variable:
            canvas.variable(variable, PALE_ORANGE, ORANGE)
        elif variable in now.scope:
            canvas.variable(variable, PALE_BLUE, BLUE)
        else:
            canvas.variable(variable, "white" if variable in graph else "#DDDDDD")
    size = f"{len(now.scope)} variable{'s' * (len(now.scope) > 1)}, {now.cells} cells"
    canvas.ax.set_title(f"{step + 1}. sum out {canvas.labels[now.variable]}\n{size}", size="medium")
    return canvas.figure


def draw_elimination(
    network: MarkovNetwork,
    plan: EliminationPlan,
    positions: Positions = None,
    labels: Labels = None,
    n_columns: int = 3,
) -> Figure:
    """Draw all steps of an elimination side by side, each as in `draw_elimination_step`."""
    if not plan.steps or n_columns < 1:
        raise ValueError(f"needs at least one step and n_columns ≥ 1, got {len(plan.steps)} and {n_columns}")
    places = positions or network_layout(network)
    n_columns = min(n_columns, len(plan.steps))
    n_rows = math.ceil(len(plan.steps) / n_columns)
    left, right, bottom, top = _frame(_points(network, places))
    width = min(8.0, 3.2 * n_columns)
    panel_height = width / n_columns * (top - bottom) / (right - left) + 0.6
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(width, n_rows * panel_height + 0.4), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(plan.steps) :]:
        panel.set_axis_off()
    for step in range(len(plan.steps)):
        draw_elimination_step(network, plan, step, places, labels, axes.flat[step])
    handles = [
        Patch(facecolor=PALE_ORANGE, edgecolor=ORANGE, label="summed out now"),
        Patch(facecolor=PALE_BLUE, edgecolor=BLUE, label="its neighbours"),
        Line2D([], [], color=GREEN, linewidth=3, linestyle=(0, (2, 1.2)), label="new edge"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


class _Canvas:
    """Axes with the distance between the two closest variables as the unit, and circles for variables."""

    def __init__(self, network: MarkovNetwork, places: Positions, labels: Labels, ax: Axes | None) -> None:
        self.points = _points(network, places)
        self.labels = _of_each(network, None, labels, "labels")
        left, right, bottom, top = _frame(self.points)
        if ax is None:
            inches = min(0.9, 8.0 / (right - left))  # a unit
            size = (right - left) * inches, (top - bottom) * inches
            _, ax = plt.subplots(figsize=size, layout="constrained")
        self.ax, self.figure = ax, cast(Figure, ax.get_figure())
        ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        ax.set_axis_off()

    def variable(self, variable: str, face: str = "white", ink: str = INK, zorder: int = 3) -> None:
        """A circle with the label in it, as large as fits."""
        centre, label = self.points[variable], self.labels[variable]
        self.ax.add_patch(Circle(centre, RADIUS, facecolor=face, edgecolor=ink, linewidth=1.8, zorder=zorder))
        text = _Label(*centre, label, color=ink, ha="center", va="center_baseline", zorder=4, in_layout=False)
        self.ax.add_artist(text)

    def edges(self, pairs: Iterable[tuple[str, str]], **style: Any) -> None:
        """Lines between the centres, behind the circles."""
        for pair in pairs:
            x, y = zip(*(self.points[variable] for variable in pair), strict=True)
            self.ax.plot(x, y, zorder=2, **{"color": GREY, "linewidth": 1.8, **style})

    def outline(self, variables: Iterable[str], distance: float) -> np.ndarray:
        """The convex curve around some variables at a distance from their centres, shape (·, 2)."""
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        circle = distance * np.stack([np.cos(angles), np.sin(angles)], 1)
        cloud = np.concatenate([np.array(self.points[variable]) + circle for variable in variables])
        return cloud[ConvexHull(cloud).vertices]


class _Label(Text):
    """As large as fits into a circle, which is known when it is drawn: a layout may have moved the axes."""

    def draw(self, renderer: RendererBase) -> None:
        """Choose the size, in points, and draw."""
        (left, _), (right, _) = cast(Axes, self.axes).transData.transform([(-RADIUS, 0), (RADIUS, 0)])
        n_letters = max(1, len(self.get_text().translate({ord(c): None for c in "$_{}"})))
        size = (right - left) / renderer.points_to_pixels(1) * min(0.5, 1.4 / n_letters)
        self.set_fontsize(min(size, 13))
        super().draw(renderer)


def _of_each(network: MarkovNetwork, default: str | None, given: Labels, name: str) -> dict[str, str]:
    """What is given for each variable, or the default, which is its name if None."""
    if unknown := [variable for variable in given or {} if variable not in network.states]:
        raise ValueError(f"{name} names {unknown[0]!r}, the network has {list(network.states)}")
    return {v: default or v for v in network.variables} | dict(given or {})


def _points(network: MarkovNetwork, positions: Positions) -> dict[str, tuple[float, float]]:
    """The positions, in units of the distance between the two closest variables."""
    if not network.variables:
        raise ValueError("the network must have at least one variable to be drawn, it has none")
    places = network_layout(network) if positions is None else positions
    if missing := [variable for variable in network.variables if variable not in places]:
        raise ValueError(f"positions must place every variable, {missing} have no place")
    unit = shortest_distance(np.array([places[variable] for variable in network.variables]))
    return {
        variable: (places[variable][0] / unit, places[variable][1] / unit) for variable in network.variables
    }


def _frame(points: Mapping[str, tuple[float, float]]) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a picture that shows all variables and the outlines around them."""
    x, y = zip(*points.values(), strict=True)
    return min(x) - 0.6, max(x) + 0.6, min(y) - 0.6, max(y) + 0.6
