"""What the problem sets' tests are made of: comparisons that name the mistake, and limits on an answer.

An answer is foreign code, called in the process of its test. So `bounded` cuts what its exceptions say, and
`compare` takes plain numbers and tensors only: a subclass of Tensor would answer for `torch.allclose` itself.
What an answer does to other modules `course_lib.grading_guard` undoes, where a class is graded.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["OutOfTime", "bounded", "compare", "switched_off", "time_limit"]


SECONDS = float(os.environ.get("COURSE_ANSWER_SECONDS", "10"))
MAX_CHARACTERS = 100_000
PLAIN = (Tensor, torch.nn.Parameter)
SAID = 300  # characters of an answer's own exception that its author gets to read


def _undo() -> None:
    """Replaced where a class is graded, by what puts the library's functions back after an answer's call."""


class OutOfTime(BaseException):
    """Not an Exception, so that an answer's own `except Exception` does not catch it."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop the block after that many seconds, with an AssertionError that says so.

    By a timer signal, which only the main thread of a Unix process receives; elsewhere nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    running = True

    def stop(*_: object) -> None:
        if running:
            raise OutOfTime

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again and again, should the answer catch it
    try:
        yield
    except OutOfTime:
        raise AssertionError(f"stopped after {seconds:g} s: does it loop for ever?") from None
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """While the block runs, these functions of the library refuse to: the answer is to be the student's own.

    Args:
        names: full names, like "course_lib.rbm.RBM.free_energy". A function is replaced in its module or
            class and in every module that has imported it, the notebook among them.
    """
    replaced: list[tuple[Any, str, Any]] = []
    refusals: dict[int, Callable[..., None]] = {}
    try:
        for name in names:
            original = _resolve(name)

            def refuse(*_: object, name: str = name, **__: object) -> None:
                raise AssertionError(
                    f"this question asks you to write it yourself; {name} is switched off while your "
                    "answer is tested"
                )

            owner, attribute = _owner(name)
            replaced.append((owner, attribute, owner.__dict__[attribute]))
            setattr(owner, attribute, refuse)
            refusals[id(original)] = refuse
        for module in list(sys.modules.values()):
            entries = getattr(module, "__dict__", {})
            if refusals.keys().isdisjoint(map(id, list(entries.values()))):  # nearly always, and quickly
                continue
            for key, value in list(entries.items()):
                if id(value) in refusals:
                    replaced.append((module, key, value))
                    setattr(module, key, refusals[id(value)])
        yield
    finally:
        for owner, attribute, value in reversed(replaced):
            setattr(owner, attribute, value)


def bounded(
    function: Callable[..., Any],
    *arguments: Any,
    seconds: float | None = None,
    without: Sequence[str] = (),
    **named: Any,
) -> Any:
    """Call an answer: silenced, for a limited time, without the library's own solutions, on copies.

    Args:
        function: the student's.
        arguments: passed on; tensors are cloned first, so that an answer that writes into them harms nobody.
        seconds: the time it may take; None means SECONDS.
        without: names for `switched_off`.
        named: passed on.

    Raises:
        AssertionError: the answer is no function, failed, took too long, used what was switched off, or
            returned a tensor of a class of its own.
    """
    if not callable(function):
        raise AssertionError(f"expected a function, got {type(function).__name__}: has the cell been run?")
    arguments = tuple(a.clone() if isinstance(a, Tensor) else a for a in arguments)
    named = {key: a.clone() if isinstance(a, Tensor) else a for key, a in named.items()}
    undo = _undo  # now: the answer may replace it
    try:
        limit = SECONDS if seconds is None else seconds
        with switched_off(without), time_limit(limit), contextlib.redirect_stdout(_Nowhere()):
            result = function(*arguments, **named)
        for part in result if type(result) in (list, tuple) else [result]:
            if isinstance(part, Tensor) and type(part) not in PLAIN:
                raise AssertionError(
                    f"expected a torch.Tensor, got a class of its own, {type(part).__name__}"
                )
        return result
    except AssertionError as error:
        raise AssertionError(str(error)[:SAID]) from None
    except NotImplementedError:
        raise AssertionError("not answered yet") from None
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        said = str(error)[:SAID]
        raise AssertionError(f"your code failed with {type(error).__name__[:SAID]}: {said}") from None
    finally:
        undo()


def compare(
    what: str,
    seen: Any,
    expected: Tensor | float,
    mistakes: Mapping[str, Tensor | float] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-6,
    show: bool = True,
) -> None:
    """Pass if the answer is right; else say what is wrong with it, by name where the mistake is known.

    Args:
        what: the quantity, as the student calls it.
        seen: the answer.
        expected: what it should be.
        mistakes: for each known mistake a sentence and the value it leads to.
        rtol, atol: relative and absolute tolerance of every comparison.
        show: whether an unknown mistake is shown beside the right value; not in hidden tests.

    Raises:
        AssertionError: the answer is not right; says why.
    """
    if seen is None or seen is Ellipsis:
        raise AssertionError(f"{what}: nothing was returned; not answered yet?")
    with torch._C.DisableTorchFunction():  # a mode that an answer has entered would compare in our place
        _compare(what, seen, torch.as_tensor(expected), mistakes or {}, rtol, atol, show)


def _compare(
    what: str,
    seen: Any,
    expected: Tensor,
    mistakes: Mapping[str, Tensor | float],
    rtol: float,
    atol: float,
    show: bool,
) -> None:
    try:
        if not _is_plain(seen):
            raise TypeError
        value = torch.as_tensor(seen).detach().to(expected.device, expected.dtype)
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: expected numbers, got {type(seen).__name__[:SAID]}") from None
    if value.shape != expected.shape:
        raise AssertionError(f"{what}: expected the shape {tuple(expected.shape)}, got {tuple(value.shape)}")
    if value.is_floating_point() and not torch.isfinite(value).all() and torch.isfinite(expected).all():
        raise AssertionError(f"{what}: {int((~torch.isfinite(value)).sum())} values are NaN or infinite")
    if torch.allclose(value, expected, rtol, atol):
        return
    for sentence, wrong in mistakes.items():
        wrong = torch.as_tensor(wrong).to(expected.device, expected.dtype)
        if wrong.shape == value.shape and torch.allclose(value, wrong, rtol, atol):
            raise AssertionError(f"{what}: {sentence}")
    detail = f" Yours {_brief(value)}, expected {_brief(expected)}." if show else ""
    raise AssertionError(f"{what}: not the right value.{detail}")


def _is_plain(seen: Any) -> bool:
    """Whether it is made of numbers and tensors, whose classes are nobody's own."""
    if type(seen) in (list, tuple):
        return all(map(_is_plain, seen))
    return type(seen) in (bool, int, float, complex, np.ndarray, *PLAIN) or (
        isinstance(seen, np.generic) and type(seen).__module__ == "numpy"
    )


class _Nowhere:
    """A file that forgets, and loses patience."""

    def __init__(self) -> None:
        self.length = 0

    def write(self, text: str) -> int:
        self.length += len(text)
        if self.length > MAX_CHARACTERS:
            raise AssertionError(f"your code printed more than {MAX_CHARACTERS:,} characters")
        return len(text)

    def flush(self) -> None:
        return None


def _brief(value: Tensor) -> str:
    numbers = [f"{float(v):.5g}" for v in value.flatten()[:4]]
    return ", ".join(numbers) + (", …" if value.numel() > 4 else "")


def _owner(name: str) -> tuple[Any, str]:
    """The module or class that holds a function, and the function's name there."""
    path, _, attribute = name.rpartition(".")
    return _resolve(path), attribute


def _resolve(name: str) -> Any:
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(f"no module or function is called {name!r}")
