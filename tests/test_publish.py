"""Glued values against MyST-NB's own glue, whose records the pages read."""

import types

import pytest
import torch

from course_lib.publish import glue

myst_nb = pytest.importorskip("myst_nb")
capture = pytest.importorskip("IPython.utils.capture")
traitlets = pytest.importorskip("traitlets.config")
interactiveshell = pytest.importorskip("IPython.core.interactiveshell")


@pytest.fixture
def shell():
    """A running IPython with a module of its own, so that pytest's __main__ stays what it is."""
    config = traitlets.Config(HistoryManager={"enabled": False})
    yield interactiveshell.InteractiveShell.instance(config=config, user_module=types.ModuleType("cells"))
    interactiveshell.InteractiveShell.clear_instance()


def published(function, *arguments):
    """The one display message that a call publishes: its data and metadata."""
    with capture.capture_output() as captured:
        function(*arguments)
    (output,) = captured.outputs
    return output.data, output.metadata


@pytest.mark.parametrize("value", [3, -1.25, 1e-20, "two words", True])
def test_glue_publishes_the_record_of_myst_nb(shell, value):
    theirs = published(myst_nb.glue, "answer", value, False)
    assert published(glue, "answer", value) == theirs
    assert published(glue, "other", value) != theirs


@pytest.mark.parametrize("value", [torch.tensor(2.5), torch.tensor(2.5).double().numpy()])
def test_a_tensor_of_one_element_is_glued_as_the_number(shell, value):
    assert published(glue, "answer", value) == published(myst_nb.glue, "answer", 2.5, False)


def test_outside_a_notebook_nothing_is_published(capsys):
    glue("answer", 1)
    assert capsys.readouterr() == ("", "")
