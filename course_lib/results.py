"""The result files of the benchmarks as tables and a picture: published values beside those measured here."""

import html
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from course_lib.figures import PALETTE

__all__ = ["ResultTables", "load_results", "parse_value", "plot_differences", "results_folder"]

# What a result file of each kind must hold; benchmarks/record.py writes them.
FIELDS = {
    "reproduction": (
        *("model", "protocol", "published", "source", "unit", "seeds", "steps", "ours", "seconds"),
        *("peak_memory_gib", "machine"),
    ),
    "speed": ("protocol", "seconds", "machine"),
}

NOTHING_HERE = (
    "No result files here: they belong to the repository, not to the package. Set COURSE_ROOT to a copy of "
    "the repository, or make a first file there with: python benchmarks/reproduce.py vae"
)


def results_folder() -> Path | None:
    """The repository's folder `benchmarks/results`; None outside a repository.

    Looked for under COURSE_ROOT if that is set, else under the working folder and the folders above it.
    """
    root = os.environ.get("COURSE_ROOT")
    here = Path.cwd()
    for folder in [Path(root)] if root else [here, *here.parents]:
        if (candidate := folder / "benchmarks" / "results").is_dir():
            return candidate
    return None


def load_results(kind: str, folder: str | Path | None = None) -> list[dict[str, Any]]:
    """Every result file of one kind, in the order of the file names.

    Args:
        kind: "reproduction" (of a published number) or "speed" (a comparison of times).
        folder: where the files are; None means `results_folder()`.

    Returns:
        the content of each file; an empty list where there are no files.

    Raises:
        ValueError: an unknown kind, or a file that is not a complete result; says which, and what it lacks.
    """
    if kind not in FIELDS:
        raise ValueError(f"kind must be one of {list(FIELDS)}, got {kind!r}")
    folder = Path(folder) if folder is not None else results_folder()
    results = [_read(path) for path in sorted(folder.glob("*.json"))] if folder else []
    return [result for result in results if result["kind"] == kind]


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); run the benchmark that wrote it again") from error
    kind = result.get("kind") if isinstance(result, dict) else None
    if kind not in FIELDS:
        raise ValueError(f"{path}: 'kind' must be one of {list(FIELDS)}, got {kind!r}")
    if missing := [field for field in FIELDS[kind] if field not in result]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; run the benchmark that wrote it again")
    return dict(result)


def parse_value(text: str) -> tuple[float, float] | None:
    """The number and the tolerance of a published value: "100 ± 2" is (100, 2), "99" is (99, 0).

    Anything that is not one number, such as a range or two estimates, is None: it is shown, not compared.
    """
    number = r"([-−]?\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"\s*{number}(?:\s*±\s*{number})?\s*", text)
    if match is None:
        return None
    value, tolerance = ((part or "0").replace("−", "-") for part in match.groups())
    return float(value), float(tolerance)


def _number(value: float, sign: str = "-", digits: int = 2) -> str:
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.2f} s" if seconds < 10 else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _ours(measured: dict[str, Any]) -> str:
    mean, spread = measured["mean"], measured["spread"]
    small = 0 < abs(mean) < 0.1  # two decimals would leave one digit of it, or none
    digits = 1 - math.floor(math.log10(abs(mean))) if small else 2
    text = _number(mean, digits=digits)
    return text if spread is None else f"{text} ± {_number(spread, digits=digits)}"


class _Table(NamedTuple):
    """What one result shows: numbers in rows, and under them the facts of the run."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    facts: dict[str, str]


def _reproduction(result: dict[str, Any]) -> _Table:
    rows = []
    for quantity, measured in result["ours"].items():
        published = result["published"].get(quantity, "")
        expected = parse_value(published)
        difference = _number(measured["mean"] - expected[0], "+") if expected else "–"
        rows.append([quantity, published or "–", _ours(measured), difference])
    seeds, seconds = result["seeds"], result["seconds"]
    spread = f" (± is the standard deviation over {len(seeds)} seeds)" if len(seeds) > 1 else ""
    facts = {
        "Published": result["source"],
        "Unit": result["unit"],
        "Protocol": result["protocol"],
        "Seeds": ", ".join(map(str, seeds)) + spread,
        "Steps": f"{result['steps']:,}",
        "Training": f"{_duration(seconds['training'])} a seed",
        "Evaluation": f"{_duration(seconds['evaluation'])} a seed",
        "Peak memory": f"{result['peak_memory_gib']:.2f} GiB",
    }
    columns = ["Quantity", "Published", "Ours", "Difference"]
    return _Table(result["model"], columns, rows, facts | _machine(result["machine"]))


def _speed(result: dict[str, Any]) -> _Table:
    title, _, protocol = result["protocol"].partition(": ")
    ours = result["seconds"].get("course_lib")
    rows = [
        [name, _duration(seconds), f"{seconds / ours:.2f} ×" if ours else "–"]
        for name, seconds in result["seconds"].items()
    ]
    facts = {"Protocol": protocol} if protocol else {}
    return _Table(title, ["What", "Time", "Relative to ours"], rows, facts | _machine(result["machine"]))


def _machine(machine: dict[str, Any]) -> dict[str, str]:
    versions = ("python", "torch", "course_lib")
    return {
        "Device": f"{machine['device']}, {machine['threads']} threads",
        "Versions": " · ".join(f"{name} {machine[name]}" for name in versions),
        "Date": machine["date"],
    }


class ResultTables:
    """One table for each result: its numbers, and under them how they were made.

    Shows itself as HTML on a page or in a notebook, where a table too wide for the screen scrolls by itself,
    and as plain text elsewhere.

    Args:
        results: what `load_results` returned. None of them is a sentence saying how to get some.
    """

    def __init__(self, results: Iterable[dict[str, Any]]) -> None:
        forms = {"reproduction": _reproduction, "speed": _speed}
        self.tables = [forms[result["kind"]](result) for result in results]

    def __repr__(self) -> str:
        blocks = []
        for table in self.tables:
            lines = [table.title, *("  " + " | ".join(row) for row in [table.columns, *table.rows])]
            lines += [f"  {name}: {fact}" for name, fact in table.facts.items()]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks) or NOTHING_HERE

    def _repr_html_(self) -> str:
        return "\n".join(map(_html, self.tables)) or f"<p>{html.escape(NOTHING_HERE)}</p>"


def _html(table: _Table) -> str:
    """Two tables: the numbers, which may scroll sideways, and the facts, whose sentences wrap instead."""

    def row(first: str, rest: Sequence[str], attributes: str = "") -> str:
        cells = "".join(f"<td{attributes}>{html.escape(text)}</td>" for text in rest)
        return f'<tr><th scope="row">{html.escape(first).replace(" = ", "&#160;=&#160;")}</th>{cells}</tr>'

    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    numbers = [row(first, rest, ' style="white-space: nowrap"') for first, *rest in table.rows]
    title = f"<strong>{html.escape(table.title)}</strong>"
    return "\n".join(
        [
            '<div class="pst-scrollable-table-container" style="overflow-x: auto"><table class="table">',
            f'<caption style="caption-side: top; text-align: left">{title}</caption>',
            *("<thead>", f"<tr>{heads}</tr>", "</thead>", "<tbody>", *numbers, "</tbody>"),
            '</table></div><table class="table"><tbody>',
            *(row(name, [fact]) for name, fact in table.facts.items()),
            "</tbody></table>",
        ]
    )


def plot_differences(results: Sequence[dict[str, Any]]) -> Figure | None:
    """Draw ours minus published for every quantity that has one published number.

    Args:
        results: reproductions, as `load_results("reproduction")` returns them.

    Returns:
        a figure with one panel a model, in which the published value is the line at 0, its stated tolerance a
        grey bar and ours a dot with its spread; None where there is nothing to compare.
    """
    panels = []
    for result in results:
        compared = [
            (quantity, *expected, measured["mean"], measured["spread"] or 0.0)
            for quantity, measured in result["ours"].items()
            if (expected := parse_value(result["published"].get(quantity, "")))
        ]
        if compared:
            panels.append((result, compared))
    if not panels:
        return None
    heights = [len(compared) for _, compared in panels]
    size = (6.4, sum(0.3 * height + 1.1 for height in heights))
    figure, axes = plt.subplots(
        len(panels), figsize=size, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for ax, (result, compared) in zip(axes[:, 0], panels, strict=True):
        names, published, tolerance, mean, spread = zip(*compared, strict=True)
        places = range(len(names))
        gaps = [ours - value for ours, value in zip(mean, published, strict=True)]
        ax.barh(
            places, [2 * width for width in tolerance], left=[-width for width in tolerance], color="0.85"
        )
        ax.axvline(0, color="black", linewidth=1)
        ax.errorbar(gaps, places, xerr=spread, fmt="o", color=PALETTE[0], capsize=3)
        ax.set(yticks=places, yticklabels=names, xlabel=f"ours − published ({result['unit']})")
        ax.set_title(result["model"], loc="left", fontsize=11)
        ax.use_sticky_edges = False
        ax.margins(x=0.1)
        ax.invert_yaxis()
    return figure
