"""The pictures of networks: every edge, clique, step and label is where the mathematics says."""

import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import networkx as nx
import numpy as np
import pytest
import torch
from matplotlib.colors import same_color, to_rgba
from matplotlib.patches import Circle, Polygon
from matplotlib.path import Path

from course_lib.factor import Factor
from course_lib.figures import use_style
from course_lib.markov_network import MarkovNetwork, ising_grid
from course_lib.network_figures import (
    BLUE,
    GREEN,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    draw_cliques,
    draw_elimination,
    draw_elimination_step,
    draw_network,
)
from course_lib.network_layout import network_layout

PLACES = {"1": (2, 4), "2": (0, 4), "3": (2, 2), "4": (0, 2), "5": (4, 1), "6": (2, 0), "7": (4, -1)}
SCOPES = ["12", "13", "34", "356", "567"]


def network_of(scopes, isolated=()):
    return MarkovNetwork(
        [Factor(dict.fromkeys(s, 2), torch.ones((2,) * len(s))) for s in scopes], dict.fromkeys(isolated, 2)
    )


SEVEN = network_of(SCOPES)


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        use_style()
        plt.rcParams["figure.max_open_warning"] = 0
        yield
        plt.close("all")


def circles(ax):
    """Centre to circle."""
    return {tuple(np.round(p.center, 9)): p for p in ax.patches if isinstance(p, Circle)}


def node(ax, variable, places=PLACES):
    """The circle of a variable; the two closest places are 2 apart, which is the picture's unit."""
    return circles(ax)[tuple(np.array(places[variable]) / 2)]


def drawn_edges(ax, places=PLACES):
    """Pairs of variables that lines join, with each line."""
    names = {tuple(np.array(place) / 2): variable for variable, place in places.items()}
    return {frozenset(names[tuple(end)] for end in line.get_xydata()): line for line in ax.lines}


def labels_of(ax):
    return {text.get_position(): text.get_text() for text in ax.texts}


# The graph.


def test_draw_network_draws_every_edge_and_variable_once():
    (ax,) = draw_network(SEVEN, PLACES).axes
    assert set(drawn_edges(ax)) == {frozenset(edge) for edge in SEVEN.graph.edges}
    assert len(ax.lines) == 8
    assert labels_of(ax) == {(x / 2, y / 2): variable for variable, (x, y) in PLACES.items()}
    assert set(circles(ax)) == set(labels_of(ax))
    assert not ax.axison


def test_draw_network_fills_and_labels_as_told():
    (ax,) = draw_network(SEVEN, PLACES, colours={"3": "#ff0000"}, labels={"7": "$x_7$"}).axes
    assert same_color(node(ax, "3").get_facecolor(), "#ff0000")
    assert same_color(node(ax, "4").get_facecolor(), "white")
    assert sorted(labels_of(ax).values()) == ["$x_7$", *"123456"]


@pytest.mark.parametrize("label", ["a", "rain", "s[10,12]", "$x_{12}$"])
@pytest.mark.parametrize("network", [SEVEN, ising_grid(3, 9, 0.2)])
def test_labels_fit_into_their_circles(network, label):
    figure = draw_network(network, labels=dict.fromkeys(network.variables, label))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    for text, circle in zip(ax.texts, circles(ax).values(), strict=True):
        inside, around = text.get_window_extent(), circle.get_window_extent()
        assert inside.width < around.width
        assert inside.height < around.height
        assert (
            np.hypot(
                *(
                    np.array([inside.x0 + inside.x1, inside.y0 + inside.y1]) / 2
                    - around.p0
                    - [around.width / 2] * 2
                )
            )
            < 0.15 * around.width
        )


@pytest.mark.parametrize("network", [SEVEN, ising_grid(2, 11, 0.2), network_of(["ab"], "cdefghijkl")])
def test_pictures_fit_the_page(network):
    for figure in (draw_network(network), draw_cliques(network), draw_elimination(network, network.plan())):
        assert figure.get_figwidth() <= 8.01


def test_draw_on_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    assert draw_network(SEVEN, PLACES, ax=left) is figure
    assert draw_cliques(SEVEN, PLACES, ax=right) is figure
    assert len(left.lines) == len(right.lines) == 8
    assert not figure.legends
    assert len(right.get_legend_handles_labels()[1]) == 5


# The layout.


GRAPHS = [
    nx.path_graph(2),
    nx.star_graph(6),
    nx.complete_graph(5),
    nx.grid_2d_graph(4, 5),
    nx.balanced_tree(2, 3),
    nx.petersen_graph(),
    nx.complete_bipartite_graph(3, 4),
    nx.disjoint_union_all([nx.cycle_graph(4), nx.path_graph(3), nx.empty_graph(2)]),
]


@pytest.mark.parametrize("graph", GRAPHS)
def test_layout_keeps_variables_apart_and_components_side_by_side(graph):
    edges = [(str(a), str(b)) for a, b in graph.edges]
    network = MarkovNetwork(
        [Factor({a: 2, b: 2}, torch.ones(2, 2)) for a, b in edges], {str(node): 2 for node in graph}
    )
    places = network_layout(network)
    assert set(places) == set(network.variables)
    distances = [np.hypot(*np.subtract(places[a], places[b])) for a, b in itertools.combinations(places, 2)]
    assert min(distances) == pytest.approx(1, abs=1e-6)
    assert all(np.hypot(*np.subtract(places[a], places[b])) < 4 for a, b in edges)
    if nx.is_connected(graph):  # it lies on the page
        assert np.ptp([x for x, _ in places.values()]) >= np.ptp([y for _, y in places.values()])
    spans = sorted(
        (min(places[v][0] for v in c), max(places[v][0] for v in c))
        for c in nx.connected_components(network.graph)
    )
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(spans))


def test_layout_of_a_grid_is_a_grid():
    """Each edge of the graph is about as long as any other, and no two cross."""
    network = ising_grid(4, 5, 0.2)
    places = network_layout(network)
    lengths = [np.hypot(*np.subtract(places[a], places[b])) for a, b in network.graph.edges]
    assert max(lengths) < 1.3
    x = [places[f"s[0,{j}]"][0] for j in range(5)]
    assert x == sorted(x) or x == sorted(x, reverse=True)


# The cliques.


def test_draw_cliques_outlines_each_clique_and_nothing_else():
    figure = draw_cliques(SEVEN, PLACES)
    outlines = [p for p in figure.axes[0].patches if isinstance(p, Polygon)]
    assert len(outlines) == 5
    for outline, clique in zip(outlines, SEVEN.maximal_cliques(), strict=True):
        path = Path(outline.get_xy())
        inside = {v for v, (x, y) in PLACES.items() if path.contains_point((x / 2, y / 2))}
        assert inside == set(clique)
        for variable in clique:  # the whole circle, not only its centre
            centre, radius = node(figure.axes[0], variable).center, node(figure.axes[0], variable).radius
            rim = [(centre[0] + radius * np.cos(t), centre[1] + radius * np.sin(t)) for t in range(7)]
            assert path.contains_points(rim).all()
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == [
        "{1, 2}",
        "{1, 3}",
        "{3, 4}",
        "{3, 5, 6}",
        "{5, 6, 7}",
    ]


def test_cliques_can_be_told_apart():
    """By colour, by the outline's distance, and beyond six by the line's style."""
    star = network_of([f"h{leaf}" for leaf in "abcdefgijklmnop"])
    (ax,) = draw_cliques(star).axes
    looks = [(to_rgba(p.get_edgecolor()), p.get_linestyle()) for p in ax.patches if isinstance(p, Polygon)]
    assert len(looks) == len(set(looks)) == 15


def test_the_legend_of_cliques_does_not_cover_the_graph():
    figure = draw_cliques(SEVEN, PLACES)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= figure.axes[0].get_window_extent().y0 + 1
    assert figure.axes[0].get_window_extent().height > 0.5 * figure.bbox.height


# The elimination.


def test_an_elimination_step_shows_what_the_plan_says():
    plan = SEVEN.plan(order=list("3124567"))
    (ax,) = draw_elimination_step(SEVEN, plan, 0, PLACES).axes
    edges = drawn_edges(ax)
    fill = {frozenset(edge) for edge in plan.steps[0].fill_in}
    assert fill == {frozenset(p) for p in itertools.combinations("1456", 2)} - {frozenset("56")}
    assert set(edges) == {frozenset(edge) for edge in SEVEN.graph.edges} | fill
    assert len(ax.lines) == len(edges)
    for edge, line in edges.items():
        assert same_color(line.get_color(), ORANGE) == ("3" in edge)
        assert same_color(line.get_color(), GREEN) == (edge in fill)
        assert (line.get_linestyle() != "-") == (edge in fill)
    colours = {v: node(ax, v) for v in "1234567"}
    assert same_color(colours["3"].get_facecolor(), PALE_ORANGE)
    assert same_color(colours["3"].get_edgecolor(), ORANGE)
    for v in "1456":
        assert same_color(colours[v].get_facecolor(), PALE_BLUE)
        assert same_color(colours[v].get_edgecolor(), BLUE)
    for v in "27":
        assert same_color(colours[v].get_facecolor(), "white")
    assert ax.get_title() == "1. sum out 3\n5 variables, 32 cells"


def test_what_has_gone_is_pale_and_its_edges_are_gone():
    plan = SEVEN.plan(order=list("3124567"))
    (ax,) = draw_elimination_step(SEVEN, plan, 1, PLACES).axes
    remaining = nx.Graph(SEVEN.graph)
    remaining.add_edges_from(plan.steps[0].fill_in + plan.steps[1].fill_in)
    remaining.remove_node("3")
    assert set(drawn_edges(ax)) == {frozenset(edge) for edge in remaining.edges}
    assert node(ax, "3").get_facecolor()[3] == 0
    assert same_color(node(ax, "3").get_edgecolor(), "#DDDDDD")
    assert node(ax, "3").get_zorder() < min(line.get_zorder() for line in ax.lines)
    (ax,) = draw_elimination_step(SEVEN, plan, 6, PLACES).axes
    assert not ax.lines
    assert ax.get_title() == "7. sum out 7\n1 variable, 2 cells"


@pytest.mark.parametrize("n_columns", [1, 3, 5])
def test_labels_of_many_panels_are_as_large_as_their_circles_allow(n_columns):
    """The size is chosen after the layout, which makes panels larger or smaller than they were."""
    figure = draw_elimination(SEVEN, SEVEN.plan(), PLACES, dict.fromkeys("1234567", "$X_7$"), n_columns)
    figure.draw_without_rendering()
    for ax in figure.axes[:7]:
        (diameter,) = {round(circle.get_window_extent().width, 6) for circle in circles(ax).values()}
        wanted = min(13, 0.5 * diameter * 72 / figure.dpi)
        for text in ax.texts:
            assert text.get_fontsize() == pytest.approx(wanted)
            assert text.get_window_extent().width < diameter


def test_observed_variables_are_grey_and_cut_off_and_kept_ones_stay():
    plan = SEVEN.plan({"3": 0}, keep=["7"])
    for step in range(len(plan.steps)):
        (ax,) = draw_elimination_step(SEVEN, plan, step, PLACES).axes
        assert same_color(node(ax, "3").get_facecolor(), "#DDDDDD")
        assert not any("3" in edge for edge in drawn_edges(ax))
        assert node(ax, "7").get_facecolor()[3] == 1
    assert len(plan.steps) == 5


def test_draw_elimination_shows_every_step_in_order():
    plan = SEVEN.plan(order=list("3124567"))
    figure = draw_elimination(SEVEN, plan, PLACES, labels={"3": "three"}, n_columns=3)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes] == [
        "1. sum out three",
        *(f"{i + 2}. sum out {v}" for i, v in enumerate("124567")),
        *[""] * 2,
    ]
    assert not any(ax.axison for ax in figure.axes)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "summed out now",
        "its neighbours",
        "new edge",
    ]
    figure.draw_without_rendering()
    for one, other in itertools.combinations([ax for ax in figure.axes if ax.get_title()], 2):
        assert not one.title.get_window_extent().overlaps(other.title.get_window_extent())
    assert len(draw_elimination(SEVEN, plan, n_columns=20).axes) == 7


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda plan: draw_elimination_step(SEVEN, plan, 7),
            "step must be at least 0 and less than 7, got 7",
        ),
        (
            lambda plan: draw_elimination_step(SEVEN, plan, -1),
            "step must be at least 0 and less than 7, got -1",
        ),
        (lambda plan: draw_elimination(SEVEN, plan, n_columns=0), "n_columns ≥ 1, got 7 and 0"),
        (
            lambda plan: draw_elimination(SEVEN, SEVEN.plan(keep=SEVEN.variables)),
            "at least one step .* got 0 and 3",
        ),
        (
            lambda plan: draw_network(SEVEN, {"1": (0, 0)}),
            r"every variable, \['2', '3', '4', '5', '6', '7'\] have",
        ),
        (
            lambda plan: draw_network(SEVEN, dict.fromkeys("1234567", (0, 0))),
            "must be finite and differ",
        ),
        (
            lambda plan: draw_network(SEVEN, PLACES | {"4": (float("nan"), 0)}),
            "positions must be finite and differ",
        ),
        (
            lambda plan: draw_network(SEVEN, PLACES, colours={"three": "red"}),
            r"colours names 'three', the network has \['1', '2', '3', '4', '5', '6', '7'\]",
        ),
        (lambda plan: draw_network(SEVEN, labels={"8": "x"}), "labels names '8', the network has"),
        (lambda plan: draw_cliques(SEVEN, labels={"8": "x"}), "labels names '8', the network has"),
        (lambda plan: draw_network(MarkovNetwork([Factor({}, 3.0)])), "at least one variable to be drawn"),
        (lambda plan: draw_elimination_step(network_of(["12"]), plan, 0), "plan must be one of this network"),
        (
            lambda plan: draw_elimination_step(SEVEN, network_of(["12"]).plan(), 0),
            r"plan must be one of this network, .* take network.plan\(\)",
        ),
        (
            lambda plan: draw_elimination(SEVEN, network_of([*SCOPES, "27"]).plan()),
            "plan must be one of this network",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(SEVEN.plan())
