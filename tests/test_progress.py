"""The progress bar: what it shows, where, and when it stays away."""

import pytest

from course_lib.progress import progress_bar


@pytest.mark.parametrize(
    ("setting", "show", "shown"),
    [("1", True, True), (None, True, True), ("0", True, False), ("1", False, False), ("0", False, False)],
)
def test_the_bar_is_on_stderr_unless_hidden(monkeypatch, capsys, setting, show, shown):
    monkeypatch.delenv("COURSE_PROGRESS")
    if setting is not None:
        monkeypatch.setenv("COURSE_PROGRESS", setting)
    with progress_bar(3, "wagon", show) as bar:
        for _ in range(3):
            bar.update()
        bar.set_postfix(loss="1.5")
    out, err = capsys.readouterr()
    assert out == ""
    if shown:
        assert "3/3" in err
        assert "wagon" in err
        assert "loss=1.5" in err
    else:
        assert err == ""


def test_it_is_shown_if_nothing_is_said(monkeypatch, capsys):
    monkeypatch.delenv("COURSE_PROGRESS")
    progress_bar(3, "wagon").close()
    assert "0/3" in capsys.readouterr().err


def test_work_done_before_counts(monkeypatch, capsys):
    monkeypatch.delenv("COURSE_PROGRESS")
    with progress_bar(10, "step", first=6) as bar:
        bar.update(2)
    assert "8/10" in capsys.readouterr().err


def test_it_is_plain_text(monkeypatch, capsys):
    """A widget would leave state in the notebook that shows nothing without its scripts."""
    monkeypatch.delenv("COURSE_PROGRESS")
    with progress_bar(2, "step") as bar:
        assert not hasattr(bar, "container")
        assert type(bar).__module__ == "tqdm.std"
    assert capsys.readouterr().err.startswith("\r")
