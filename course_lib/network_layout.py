"""Where the variables of a Markov network go in a picture, the same in every run."""

import networkx as nx
import numpy as np
from scipy.spatial.distance import pdist

from course_lib.markov_network import MarkovNetwork

__all__ = ["network_layout", "shortest_distance"]


def network_layout(network: MarkovNetwork) -> dict[str, tuple[float, float]]:
    """A position for each variable, the same in every run, with the graph's components side by side."""
    placed: dict[str, tuple[float, float]] = {}
    for variable in network.variables:
        if variable in placed:
            continue
        component = nx.node_connected_component(network.graph, variable)
        graph = nx.Graph()  # anew, in the network's order: that of a subgraph may change from run to run
        graph.add_nodes_from(v for v in network.variables if v in component)
        graph.add_edges_from(edge for edge in network.graph.edges if edge[0] in component)
        points = np.array([*nx.kamada_kawai_layout(graph, pos=_first_guess(graph)).values()])
        if np.ptp(points[:, 0]) < np.ptp(points[:, 1]):
            points = points[:, ::-1]  # lying, not standing
        points = points / shortest_distance(points)
        points -= [points[:, 0].min(), points[:, 1].mean()]
        points[:, 0] += max((x + 1.2 for x, _ in placed.values()), default=0)
        placed |= {v: (float(x), float(y)) for v, (x, y) in zip(graph, points, strict=True)}
    return placed


def shortest_distance(points: np.ndarray) -> float:
    """Between any two of the points, shape (n, 2), which must differ; 1 for a single point."""
    shortest = float(pdist(points).min(initial=np.inf))
    if shortest == 0 or not np.isfinite(points).all():
        raise ValueError(
            "positions must be finite and differ, two variables are at the same place or one at none"
        )
    return shortest if np.isfinite(shortest) else 1.0


def _first_guess(graph: nx.Graph) -> dict[str, np.ndarray]:
    """Where the layout's descent starts: the graph's slowest modes, and a bit of a circle to part twins."""
    slow, circle = nx.spectral_layout(graph), nx.circular_layout(graph)
    return {variable: slow[variable] + 0.1 * circle[variable] for variable in graph}
