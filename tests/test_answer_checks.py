"""Comparisons name mistakes and accept numbers only; answers are limited, silent and work on copies."""

import os
import threading
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from course_lib import answer_checks, distributions
from course_lib.answer_checks import bounded, compare, switched_off, time_limit


def says(*arguments, **named):
    """The message of a comparison that fails."""
    with pytest.raises(AssertionError) as caught:
        compare(*arguments, **named)
    return str(caught.value)


@pytest.mark.parametrize(
    "seen",
    [torch.tensor([1.0, 2.0]), [1, 2], (1.0, 2.0), np.array([1.0, 2.0]), [torch.tensor(1.0), np.float64(2)],
     torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0], dtype=torch.float64)],
)  # fmt: skip
def test_right_numbers_pass_whatever_holds_them(seen):
    compare("it", seen, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(("seen", "expected"), [(3, 3.0), (True, torch.tensor(True)), (np.int64(3), 3)])
def test_right_scalars_pass(seen, expected):
    compare("it", seen, expected)


def test_messages():
    expected = torch.tensor([1.0, 2.0])
    assert "not answered yet" in says("it", None, expected)
    assert "not answered yet" in says("it", ..., expected)
    assert "expected numbers, got str" in says("it", "12", expected)
    assert "expected the shape (2,), got (3,)" in says("it", torch.ones(3), expected)
    assert "1 values are NaN or infinite" in says("it", torch.tensor([1.0, torch.nan]), expected)
    assert "did you forget the half?" in says(
        "it", 2 * expected, expected, {"did you forget the half?": 2 * expected}
    )
    assert says("it", 3 * expected, expected) == "it: not the right value. Yours 3, 6, expected 1, 2."
    assert says("it", 3 * expected, expected, show=False) == "it: not the right value."


def test_infinity_may_be_expected():
    compare("it", [-torch.inf], torch.tensor([-torch.inf]))


class Agreeable(Tensor):
    """A tensor that is close to everything."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return (
            True
            if function is torch.allclose
            else super().__torch_function__(function, types, args, kwargs or {})
        )


class Number(float):
    """A number of a student's own."""


class Lying(list):
    """A list of a student's own."""


@pytest.mark.parametrize(
    "seen", [torch.zeros(2).as_subclass(Agreeable), Lying([1.0, 2.0]), [Number(1), Number(2)]]
)
def test_classes_of_ones_own_are_no_numbers(seen):
    assert "expected numbers" in says("it", seen, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (torch.ones(1), x), lambda x: [x]])
def test_an_answer_returns_no_tensor_of_a_class_of_its_own(wrap):
    assert "class of its own, Agreeable" in fails(lambda: wrap(torch.zeros(2).as_subclass(Agreeable)))
    bounded(lambda: wrap(torch.nn.Parameter(torch.zeros(2))))


def test_a_mode_does_not_compare_in_our_place():
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return True if function is torch.allclose else function(*args, **(kwargs or {}))

    with Mode():
        assert torch.allclose(torch.zeros(2), torch.ones(2))
        assert "not the right value" in says("it", torch.zeros(2), torch.ones(2))


def test_the_device_of_an_answer_does_not_matter(device):
    compare("it", torch.ones(2, device=device), torch.ones(2))


# bounded


def fails(function, *arguments, **named):
    """The message about an answer that fails."""
    with pytest.raises(AssertionError) as caught:
        bounded(function, *arguments, **named)
    return str(caught.value)


def test_an_answer_gets_copies_and_is_silent(capsys):
    def add(x, y):
        print("talks")
        return x.add_(y)

    x = torch.ones(2)
    assert torch.equal(bounded(add, x, y=x), 2 * torch.ones(2))
    assert torch.equal(x, torch.ones(2))
    assert capsys.readouterr().out == ""


def raises(error):
    def answer():
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "expected a function, got NoneType"),
        (raises(ValueError("bad")), "your code failed with ValueError: bad"),
        (raises(SystemExit(3)), "your code failed with SystemExit: 3"),
        (raises(KeyboardInterrupt()), "your code failed with KeyboardInterrupt"),
        (raises(NotImplementedError()), "not answered yet"),
        (raises(AssertionError("mine")), "mine"),
        (lambda: print("x" * 200_000), "printed more than 100,000 characters"),
    ],
)
def test_what_is_said_about_an_answer_that_fails(answer, message):
    assert message in fails(answer)


@pytest.mark.parametrize("kind", [AssertionError, ValueError, type("T" * 10_000, (Exception,), {})])
def test_an_answers_own_words_are_few(kind):
    assert len(fails(raises(kind("secret " * 1000)))) <= 700
    assert fails(raises(kind("secret " * 1000))).count("secret") <= 43


def test_an_answer_has_limited_time_even_if_it_catches_everything():
    def stubborn():
        while True:
            try:
                while True:
                    pass
            except BaseException:
                if time.monotonic() > end:
                    raise

    end = time.monotonic() + 0.5
    assert "stopped after 0.1 s" in fails(stubborn, seconds=0.1)
    assert time.monotonic() < end + 2


def test_a_thread_has_no_limit_and_no_error():
    found = []

    def run():
        with time_limit(0.01):
            time.sleep(0.05)
        found.append("done")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == ["done"]


def test_what_an_answer_replaces_is_put_back_before_its_test_goes_on(monkeypatch):
    """By what was there when the answer was called: it may replace that as well."""
    put_back = []
    monkeypatch.setattr(answer_checks, "_undo", lambda: put_back.append(1))

    def replaces():
        monkeypatch.setattr(answer_checks, "_undo", lambda: None)
        raise ValueError

    fails(replaces)
    assert put_back == [1]


# switched_off


def test_what_is_switched_off_refuses_everywhere_and_comes_back():
    name = "course_lib.distributions.log_mean_exp"
    original = distributions.log_mean_exp
    globals()["imported_under_another_name"] = original
    with switched_off([name]):
        assert "write it yourself" in fails(distributions.log_mean_exp, torch.ones(2))
        assert name in fails(globals()["imported_under_another_name"], torch.ones(2))
        assert name in fails(lambda: bounded(distributions.log_mean_exp, torch.ones(2)))
    assert distributions.log_mean_exp is original
    assert globals().pop("imported_under_another_name") is original


def test_what_is_switched_off_comes_back_after_a_failure():
    original = distributions.log_mean_exp
    fails(raises(ValueError()), without=["course_lib.distributions.log_mean_exp"])
    assert distributions.log_mean_exp is original


def test_a_method_is_switched_off_in_its_class():
    from course_lib.rbm import RBM

    rbm = RBM(3, 2)
    with switched_off(["course_lib.rbm.RBM.free_energy"]), pytest.raises(AssertionError, match="yourself"):
        rbm.free_energy(torch.zeros(1, 3))
    assert rbm.free_energy(torch.zeros(1, 3)).shape == (1,)


def test_an_unknown_name_is_an_error():
    with pytest.raises((ModuleNotFoundError, AttributeError)), switched_off(["course_lib.nothing.at_all"]):
        pass


def test_the_limit_can_be_set_by_the_environment():
    assert float(os.environ.get("COURSE_ANSWER_SECONDS", "10")) == answer_checks.SECONDS
