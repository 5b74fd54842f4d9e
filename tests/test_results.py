"""The result files: read with care, shown as they are."""

import json
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest

from course_lib.results import ResultTables, load_results, parse_value, plot_differences, results_folder

ROOT = Path(__file__).parents[1]
MACHINE = {
    "device": "CPU (one & only)",
    "threads": 2,
    "python": "3.11.7",
    "torch": "2.14.1",
    "course_lib": "0.1.0",
    "date": "2026-11-21",
}
REPRODUCTION = {
    "kind": "reproduction",
    "model": "VAE <small>",
    "protocol": "20,000 steps",
    "published": {"negative ELBO": "100 ± 2", "AIS": "-84.9 forward / -96.6 reverse"},
    "source": "a grader",
    "unit": "nats per image",
    "seeds": [0, 1, 2],
    "steps": 20000,
    "ours": {
        "negative ELBO": {"mean": 98.5, "spread": 0.25, "values": [98.25, 98.5, 98.75]},
        "AIS": {"mean": -86.0, "spread": None, "values": [-86.0]},
        "KL": {"mean": 19.125, "spread": None, "values": [19.125]},
    },
    "seconds": {"training": 127.2, "evaluation": 7.0},
    "peak_memory_gib": 0.89,
    "machine": MACHINE,
}
SPEED = {
    "kind": "speed",
    "protocol": "one pass over MNIST: 468 steps",
    "seconds": {"products": 1.0, "course_lib": 1.5, "idiom": 4.5},
    "machine": MACHINE,
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copy of the repository's results folder, found through COURSE_ROOT."""
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "b.json").write_text(json.dumps(REPRODUCTION))
    (folder / "a.json").write_text(json.dumps(SPEED))
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))
    return folder


def cells(tables):
    """The text of every row of the HTML, which must be well-formed to be read at all."""
    tree = ElementTree.fromstring(f"<body>{tables._repr_html_()}</body>")
    return [["".join(cell.itertext()).replace("\u00a0", " ") for cell in row] for row in tree.iter("tr")]


def test_folder_is_found_by_variable_or_by_walking_up(repository, tmp_path, monkeypatch):
    assert results_folder() == repository
    monkeypatch.delenv("COURSE_ROOT")
    deep = tmp_path / "_build" / "executed" / "digits"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert results_folder() == repository


def test_outside_a_repository_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))
    assert results_folder() is None
    tables = ResultTables(load_results("reproduction"))
    for text in (repr(tables), tables._repr_html_()):
        assert "COURSE_ROOT" in text
        assert "benchmarks/reproduce.py" in text
    assert plot_differences([]) is None


def test_empty_folder_is_no_error(repository):
    for file in repository.iterdir():
        file.unlink()
    assert load_results("reproduction") == []


def test_table_shows_every_fact_of_a_reproduction(repository):
    rows = cells(ResultTables(load_results("reproduction")))
    assert rows[0] == ["Quantity", "Published", "Ours", "Difference"]
    assert rows[1] == ["negative ELBO", "100 ± 2", "98.50 ± 0.25", "−1.50"]
    assert rows[2] == ["AIS", "-84.9 forward / -96.6 reverse", "−86.00", "–"]
    assert rows[3] == ["KL", "–", "19.12", "–"]
    facts = dict(rows[4:])
    assert facts["Published"] == "a grader"
    assert facts["Protocol"] == "20,000 steps"
    assert facts["Seeds"].startswith("0, 1, 2")
    assert "3 seeds" in facts["Seeds"]
    assert facts["Steps"] == "20,000"
    assert facts["Training"].startswith("2 min 7 s")
    assert facts["Evaluation"].startswith("7.00 s")
    assert facts["Peak memory"] == "0.89 GiB"
    assert facts["Device"] == "CPU (one & only), 2 threads"
    assert facts["Versions"] == "python 3.11.7 · torch 2.14.1 · course_lib 0.1.0"
    assert facts["Date"] == "2026-11-21"


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (98.5, 0.08, "98.50 ± 0.08"),
        (0.0048, 0.0012, "0.0048 ± 0.0012"),
        (0.0, None, "0.00"),
        (-0.05, None, "−0.050"),
    ],
)
def test_small_numbers_keep_two_digits(mean, spread, text, repository):
    changed = json.loads(json.dumps(REPRODUCTION))
    changed["ours"]["KL"] = {"mean": mean, "spread": spread, "values": [mean]}
    assert f"KL | – | {text} |" in repr(ResultTables([changed]))


def test_titles_are_text_not_markup(repository):
    assert "VAE <small>" in "".join(
        ElementTree.fromstring(
            f"<b>{ResultTables(load_results('reproduction'))._repr_html_()}</b>"
        ).itertext()
    )


def test_speed_is_relative_to_the_course(repository):
    rows = cells(ResultTables(load_results("speed")))
    assert rows[1:4] == [
        ["products", "1.00 s", "0.67 ×"],
        ["course_lib", "1.50 s", "1.00 ×"],
        ["idiom", "4.50 s", "3.00 ×"],
    ]
    assert ["Protocol", "468 steps"] in rows


def test_plain_text_has_the_same_numbers(repository):
    text = repr(ResultTables(load_results("reproduction")))
    assert "negative ELBO | 100 ± 2 | 98.50 ± 0.25 | −1.50" in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100 ± 2", (100.0, 2.0)),
        ("99", (99.0, 0.0)),
        ("−84.9", (-84.9, 0.0)),
        ("88.03 ± 1.71", (88.03, 1.71)),
        ("-84.9 forward / -96.6 reverse", None),
        ("97–98", None),
        ("", None),
    ],
)
def test_published_values_are_read_only_when_they_are_one_number(text, value):
    assert parse_value(text) == value


def test_picture_puts_ours_at_its_distance_from_the_published_value(repository):
    figure = plot_differences(load_results("reproduction"))
    (panel,) = figure.axes
    (dots,) = [line for line in panel.lines if line.get_marker() == "o"]
    assert list(dots.get_xdata()) == [-1.5]  # AIS has two published numbers and KL none
    (bar,) = panel.patches
    assert (bar.get_x(), bar.get_width()) == (-2.0, 4.0)
    plt.close(figure)


def test_unknown_kind_is_refused(repository):
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'timing'"):
        load_results("timing")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "c.json is not JSON"),
        ("[]", "'kind' must be one of"),
        ('{"kind": "poem"}', "got 'poem'"),
        (
            json.dumps({k: v for k, v in REPRODUCTION.items() if k not in ("seeds", "source")}),
            "lacks source, seeds",
        ),
    ],
)
def test_damaged_file_is_named_with_what_it_lacks(repository, content, message):
    (repository / "c.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_results("reproduction")


def test_committed_results_are_complete():
    folder = ROOT / "benchmarks" / "results"
    kinds = [load_results(kind, folder) for kind in ("reproduction", "speed")]
    assert sum(map(len, kinds)) == len(list(folder.glob("*.json")))
    for results in kinds:
        if results:
            cells(ResultTables(results))
    for result in kinds[0]:
        assert set(result["published"]) <= set(result["ours"]), "every published quantity was measured"
        for measured in result["ours"].values():
            assert len(measured["values"]) == len(result["seeds"])
            assert measured["mean"] == pytest.approx(sum(measured["values"]) / len(measured["values"]))
