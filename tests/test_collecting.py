"""No submission is lost, whatever the layout; and what a class gets back is readable."""

import csv
import io
import zipfile

import pytest

from course_lib.collecting import MEGABYTES, collect
from course_lib.feedback import file_name, messages, write_class


def zipped(**files):
    """An archive's bytes; `__` in a name stands for a slash, `_dot_` for a dot."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("___", "/").replace("_dot_", "."), content)
    return data.getvalue()


LAYOUTS = {
    "a notebook": {"ada.ipynb": b"A"},
    "capitals": {"ada.IPYNB": b"A"},
    "a zip": {"ada.zip": zipped(x_dot_ipynb=b"A", torch_dot_py=b"")},
    "a zip with a folder": {"ada.ZIP": zipped(work___x_dot_ipynb=b"A", course_lib___x_dot_py=b"")},
    "a zip in a zip": {"ada.zip": zipped(y_dot_zip=zipped(x_dot_ipynb=b"A"))},
    "a folder": {"ada/x.ipynb": b"A", "ada/data.csv": b""},
    "a folder with only a zip": {"ada/x.zip": zipped(x_dot_ipynb=b"A")},
    "folders in folders": {"ada/work/deep/x.ipynb": b"A"},
    "checkpoints": {"ada/x.ipynb": b"A", "ada/.ipynb_checkpoints/x-checkpoint.ipynb": b"B"},
    "macOS": {
        "ada.zip": zipped(x_dot_ipynb=b"A", __MACOSX___x_dot_ipynb=b"B"),
        "__MACOSX/ada.ipynb": b"C",
    },
    "the same twice": {"ada.ipynb": b"A", "ada.zip": zipped(x_dot_ipynb=b"A")},
    "of the system": {
        "ada.ipynb": b"A",
        ".DS_Store": b"",
        "Thumbs.db": b"",
        "submission_metadata.yml": b"",
    },
}
UNCLEAR = {
    "two notebooks": ({"ada/x.ipynb": b"A", "ada/y.ipynb": b"B"}, "2 notebooks (ada/x.ipynb, ada/y.ipynb)"),
    "two in a zip": ({"ada.zip": zipped(x_dot_ipynb=b"A", y_dot_ipynb=b"B")}, "leave the one that counts"),
    "zip and notebook": ({"ada.ipynb": b"A", "ada.zip": zipped(x_dot_ipynb=b"B")}, "ada.ipynb, ada.zip/x"),
    "capitals": ({"ada.ipynb": b"A", "Ada.ipynb": b"B"}, "Ada.ipynb, ada.ipynb"),
    "an empty folder": ({"ada/notes.txt": b""}, "ada holds no notebook"),
    "an empty zip": ({"ada.zip": zipped()}, "ada.zip holds no notebook"),
    "a damaged zip": ({"ada.zip": b"PK"}, "ada.zip cannot be read (File is not a zip file)"),
    "a zip cut short": ({"ada.zip": zipped(x_dot_ipynb=b"A" * 9999)[:40]}, "cannot be read"),
    "another format": ({"ada.pdf": b""}, "ada.pdf holds no notebook (.ipynb): ask for it"),
    "too much": ({"ada.zip": zipped(x_dot_ipynb=bytes(MEGABYTES * 2**20 + 1))}, "more than 50 MB"),
}  # fmt: skip


def lay_out(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_notebook_is_found(tmp_path, layout):
    lay_out(tmp_path, LAYOUTS[layout])
    (only,) = collect(tmp_path)
    assert (only.student, only.notebook, only.error) == ("ada", b"A", "")


@pytest.mark.parametrize("layout", UNCLEAR)
def test_what_is_unclear_gets_a_row_that_says_so(tmp_path, layout):
    files, error = UNCLEAR[layout]
    lay_out(tmp_path, {**files, "bob.ipynb": b"B"})
    ada, bob = collect(tmp_path)
    assert ada.student.casefold() == "ada"
    assert ada.notebook is None
    assert error in ada.error
    assert bob.notebook == b"B"


def test_names_of_moodle_and_gradescope_in_order(tmp_path):
    names = ["Ada Lovelace_12345_assignsubmission_file_", "submission_7", "Bob.B_2_assignsubmission_file_"]
    lay_out(tmp_path, {f"{name}/x.ipynb": name.encode() for name in names})
    assert [submission.student for submission in collect(tmp_path)] == sorted(names)


def test_nothing_to_grade_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.ipynb"):
        collect(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        collect(tmp_path / "missing")


# What comes back


def test_messages_of_otters_summary():
    assert messages("plus results: All test cases passed!") == []
    output = (
        "times results:\n    times - 1 result:\n        ✅ Test case passed\n\n"
        "    near zero message: think!\n\n"
        "    near zero result:\n        ❌ Test case failed\n        K x: did you add?\n        two lines\n\n"
        "    times - 3 result:\n        ❌ Test case failed"
    )
    assert messages(output) == [
        ["test 1", ""],
        ["near zero", "think! K x: did you add? two lines"],
        ["test 3", "failed"],
    ]


def test_the_table_and_the_files_of_a_class(tmp_path):
    graded = {
        "Zoë": {
            "questions": {"b": [1.5, 2], "a": [0, 1]},
            "messages": {"b": [["test 1", "no"], ["x", ""]], "a": []},
        },
        "ada": {"error": "stopped, and\nhow"},
        "=1+1": {"questions": {"b": [2, 2], "a": [1, 1]}, "messages": {"b": [], "a": []}},
        "bad\udcff": {"questions": {"a": [1, 1]}, "messages": {"a": []}},
    }
    rows = write_class(graded, tmp_path)
    with (tmp_path / "grades.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["student", "total", "b", "a", "error"]
    assert [row["student"] for row in table] == ["=1+1", "Zoë", "ada", "bad\\udcff"]
    assert [row["total"] for row in rows] == [3, 1.5, 0, 1]
    assert (tmp_path / "feedback" / "Zoë.md").read_text(encoding="utf-8") == (
        "# Zoë: 1.5 of 3 points\n\n## b: 1.5 of 2\n\n- test 1: no\n- x: passed\n\n"
        "## a: 0 of 1\n\nAll tests passed.\n"
    )
    assert "**Not graded:** stopped, and" in (tmp_path / "feedback" / "ada.md").read_text()


def test_a_long_name_becomes_a_short_file_and_stays_unique():
    assert file_name("ada") == "ada"
    long = [file_name("ä" * 200 + end) for end in "xy"]
    assert len({*long}) == 2
    assert all(len(name.encode()) < 200 for name in long)
