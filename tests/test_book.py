"""The chapters' numbers and checks: what the prose quotes comes out again, and every check can fail."""

import ast
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from pipeline.glued import default_entry, differences, glued_values, read_expected, updated
from pipeline.notebooks import is_notebook, page_names, read_page
from pipeline.settings import ROOT, Settings
from pipeline.twins import Twin, read_twins, run_twins, structural_problems

SETTINGS = Settings()
EXPECTED, TWINS = ROOT / "tests" / "expected", ROOT / "tests" / "twins"
PAGES = {name.rpartition("/")[2]: name for name in page_names(ROOT) if is_notebook(ROOT / f"{name}.md")}


def executed(chapter):
    path = SETTINGS.executed / f"{PAGES[chapter]}.ipynb"
    assert path.is_file(), f"{path} is missing: run `make notebooks` first"
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("chapter", PAGES)
def test_glued_values_are_the_expected_ones(chapter):
    expected = read_expected(EXPECTED / f"{chapter}.json", SETTINGS.dataset)
    found = differences(glued_values(executed(chapter)), expected)
    assert not found, "\n".join([*found, "If the change is meant: python tests/update_expected.py"])


@pytest.mark.parametrize("chapter", PAGES)
def test_every_check_has_a_twin(chapter):
    notebook = read_page(ROOT / f"{PAGES[chapter]}.md", ROOT)
    problems = structural_problems(notebook, read_twins(TWINS / f"{chapter}.toml"))
    assert not problems, "\n".join(problems)


def implicit_tolerances(source):
    """Comparisons up to a relative tolerance that their author did not write down."""
    named = {
        "isclose": {"rtol", "rel_tol"},
        "allclose": {"rtol"},
        "assert_close": {"rtol"},
        "approx": {"rel"},
    }
    return [
        ast.get_source_segment(source, node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and (name := getattr(node.func, "attr", getattr(node.func, "id", ""))) in named
        and not named[name] & {keyword.arg for keyword in node.keywords}
    ]


@pytest.mark.parametrize("chapter", PAGES)
def test_no_check_has_a_tolerance_that_it_does_not_state(chapter):
    notebook = read_page(ROOT / f"{PAGES[chapter]}.md", ROOT)
    checks = [cell.source for cell in notebook.cells if "check" in cell.metadata.get("tags", [])]
    found = [call for source in checks for call in implicit_tolerances(source)]
    assert not found, (
        "a relative tolerance of 1e-5 applies silently: state rtol (0 for none) in\n" + "\n".join(found)
    )


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("assert torch.isclose(a, b, atol=1e-12)", 1),
        ("assert np.allclose(a, b)", 1),
        ("assert math.isclose(a, b)", 1),
        ("torch.testing.assert_close(a, b)", 1),
        ("assert torch.allclose(a, b, rtol=0, atol=1e-12)", 0),
        ("assert math.isclose(a, b, rel_tol=1e-9)", 0),
        ("assert abs(a - b) < 1e-12", 0),
    ],
)
def test_unstated_tolerances_are_found(source, count):
    assert len(implicit_tolerances(source)) == count


@pytest.mark.parametrize("chapter", PAGES)
def test_wrong_twins(chapter):
    notebook = read_page(ROOT / f"{PAGES[chapter]}.md", ROOT)
    survivors = run_twins(notebook, read_twins(TWINS / f"{chapter}.toml"), chapter)
    assert not survivors, "\n".join(survivors)


@pytest.mark.parametrize(("folder", "suffix"), [(EXPECTED, "json"), (TWINS, "toml")])
def test_no_file_is_left_over_from_another_chapter(folder, suffix):
    assert {path.stem for path in folder.glob(f"*.{suffix}")} <= set(PAGES)


# The machinery itself, on a toy chapter.

CHECK = """# check: sum
total = torch.ones(3).sum() + 1e-7 * torch.randn(())
assert abs(total - 3) < 1e-3
"""
WRONG = Twin("sum", "ones(3)", "ones(4)", "one too many")


def toy(*sources, tags=("check",)):
    cells = [new_code_cell("import torch")]
    cells += [new_code_cell(source, metadata={"tags": list(tags)}) for source in sources]
    return new_notebook(cells=cells)


def glued(**values):
    outputs = [
        new_output(
            "display_data",
            {"application/papermill.record/text/plain": repr(value)},
            metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}},
        )
        for name, value in values.items()
    ]
    return new_notebook(cells=[new_code_cell("", outputs=outputs)])


def test_a_twin_that_fails_is_what_is_wanted():
    assert structural_problems(toy(CHECK), [WRONG]) == []
    assert run_twins(toy(CHECK), [WRONG], "toy") == []


@pytest.mark.parametrize(
    ("wrong", "outcome"), [("ones(3, 1)", "nothing raised"), ("missing(3)", "AttributeError")]
)
def test_a_twin_that_does_not_fail_its_assertion_is_reported(wrong, outcome):
    (line,) = run_twins(toy(CHECK), [Twin("sum", "ones(3)", wrong, "no mistake at all")], "toy")
    assert outcome in line
    assert "no mistake at all" in line


def test_a_twin_must_fail_in_the_statement_it_names():
    two = CHECK + "assert (\n    total\n    < 5\n)\n"
    assert run_twins(toy(two), [Twin("sum", "ones(3)", "ones(4)", "too many", "total - 3")], "toy") == []
    (line,) = run_twins(toy(two), [Twin("sum", "ones(3)", "ones(4)", "too many", "< 5")], "toy")
    assert "total - 3" in line


def test_a_check_that_fails_by_itself_is_an_error():
    with pytest.raises(AssertionError):
        run_twins(toy(CHECK.replace("- 3", "- 4")), [WRONG], "toy")


def test_twins_leave_the_chapter_as_it_was():
    after = "# check: after\nassert float(torch.rand(())) == expected, 'another random number'"
    seed = "torch.manual_seed(0)\ntorch.randn(())\nexpected = float(torch.rand(()))\ntorch.manual_seed(0)"
    twins = [WRONG, Twin("sum", "assert", "expected = 0\nassert 0,", "overwrites a variable")]
    dtype = "torch.set_default_dtype(torch.float64)\nassert 0,"
    twins.append(Twin("sum", "assert", dtype, "stops with another precision"))
    twins.append(Twin("after", "expected", "expected + 1", "a wrong expectation"))
    assert run_twins(toy(seed, CHECK, after), twins, "toy") == []


def test_a_twin_draws_the_same_random_numbers_as_its_check():
    expected = "torch.manual_seed(0)\nexpected = torch.rand(())\ntorch.manual_seed(0)"
    check = "# check: draw\ndrawn = torch.rand(())\nassert drawn == expected"
    harmless = Twin("draw", "torch.rand(())", "1 * torch.rand(())", "none")
    assert "nothing raised" in run_twins(toy(expected, check), [harmless], "toy")[0]


@pytest.mark.parametrize(
    ("notebook", "twins", "problem"),
    [
        (toy(CHECK), [], "has no twin"),
        (toy(CHECK, tags=()), [WRONG], "lacks its tag"),
        (toy(CHECK.replace("# check: sum", "# a sum")), [], "lacks its tag"),
        (toy("# check: sum\nprint('fine')"), [WRONG], "asserts nothing"),
        (toy(CHECK, CHECK), [WRONG], "two cells"),
        (toy(CHECK), [WRONG, Twin("product", "a", "b", "c")], "no check is called"),
        (toy(CHECK), [WRONG, Twin("sum", "twos", "b", "c")], "occurs 0 times"),
        (toy(CHECK), [WRONG, Twin("sum", "total", "b", "c")], "occurs 2 times"),
        (toy(CHECK), [Twin("sum", "ones", "ones", "c")], "must change something"),
        (toy("import numpy\nnumpy.testing.assert_allclose(1, 1)"), [], "lacks its tag"),
    ],
)
def test_checks_without_proper_twins_are_reported(notebook, twins, problem):
    assert any(problem in line for line in structural_problems(notebook, twins))


def test_twins_are_read_strictly(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text('[[twin]]\ncell = "sum"\nreplace = "a"\nwith = "b"\nmistake = "c"\n')
    assert read_twins(path) == [Twin("sum", "a", "b", "c")]
    path.write_text('[[twin]]\ncell = "sum"\nreplace = "a"\nwith = "b"\nmistake = "c"\ntrips = "d"\n')
    assert read_twins(path) == [Twin("sum", "a", "b", "c", "d")]
    path.write_text('[[twin]]\ncell = "sum"\nreplace = "a"\nwith = "b"\n')
    with pytest.raises(ValueError, match="mistake"):
        read_twins(path)


def test_glued_values_are_read_back():
    assert glued_values(glued(gap=0.5, steps=2000, device="cpu")) == {
        "gap": 0.5,
        "steps": 2000,
        "device": "cpu",
    }
    twice = new_notebook(cells=[*glued(gap=0.5).cells, *glued(gap=0.6).cells])
    with pytest.raises(ValueError, match="twice"):
        glued_values(twice)


@pytest.mark.parametrize(
    ("values", "entry"),
    [
        ({"gap": 0.5}, {"value": 0.52, "tolerance": 0.05}),
        ({"gap": 1e-7}, {"below": 1e-5}),
        ({"gap": 12.0}, {"varies": "wall-clock time"}),
        ({"gap": "cpu"}, {"value": "cpu", "tolerance": 0}),
    ],
)
def test_values_within_their_tolerance_agree(values, entry):
    assert differences(values, {"gap": entry}) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"gap": 0.58}, {"gap": {"value": 0.52, "tolerance": 0.05}}),
        ({"gap": float("nan")}, {"gap": {"value": 0.52, "tolerance": 0.05}}),
        ({"gap": 2e-5}, {"gap": {"below": 1e-5}}),
        ({"gap": "cuda"}, {"gap": {"value": "cpu", "tolerance": 0}}),
        ({"gap": 0.5}, {}),
        ({}, {"gap": {"value": 0.5, "tolerance": 0.05}}),
        ({"gap": 0.5}, {"gap": {"value": 0.5, "tolerance": 0.2}}),
        ({"gap": 0.5}, {"gap": {"below": 1.0}}),
        ({"gap": 0.5}, {"gap": {"varies": ""}}),
        ({"gap": 0.5}, {"gap": {}}),
    ],
)
def test_disagreement_is_reported(values, expected):
    assert len(differences(values, expected)) == 1


@pytest.mark.parametrize("chapter", PAGES)
def test_a_perturbed_value_fails(chapter):
    expected = read_expected(EXPECTED / f"{chapter}.json", SETTINGS.dataset)
    values = glued_values(executed(chapter))
    for name, entry in expected.items():
        if "varies" in entry:
            continue
        if "below" in entry:
            perturbed = 2 * entry["below"]
        elif isinstance(entry["value"], str):
            perturbed = f"not {entry['value']}"
        else:
            perturbed = entry["value"] + 1.1 * entry["tolerance"] + 1e-6 * max(1, abs(entry["value"]))
        assert differences({**values, name: perturbed}, expected), f"{name} = {perturbed} passes"


@pytest.mark.parametrize("value", [0.123456789, -80.25, 3.2e-7, 0.0, 2000, "cpu", True])
def test_an_entry_written_by_default_holds_for_its_value_and_not_for_another(value):
    entry = json.loads(json.dumps(default_entry(value)))
    other = "cuda" if value == "cpu" else 2 * value + 1
    assert differences({"gap": value}, {"gap": entry}) == []
    assert differences({"gap": other}, {"gap": entry}) != []


def test_updating_keeps_what_agrees_and_the_chosen_tolerances():
    expected = {
        "same": {"value": 1.0, "tolerance": 0.1},
        "moved": {"value": 1.0, "tolerance": 0.2},
        "gone": {"value": 1.0, "tolerance": 0.1},
        "clock": {"varies": "wall-clock time"},
    }
    entries = updated({"same": 1.05, "moved": 2.0, "new": 3, "clock": 9.0, "name": "digits"}, expected)
    assert entries == {
        "same": expected["same"],
        "moved": {"value": 2.0, "tolerance": 0.2},
        "new": {"value": 3, "tolerance": 0},
        "clock": expected["clock"],
        "name": {"value": "digits", "tolerance": 0},
    }
