"""The functions of a process as they were before foreign code ran in it, and how to put them back.

A cell of a notebook may replace `torch.allclose`, `course_lib.answer_checks.compare` or `builtins.abs`, and
every test that uses them then passes. Kept are the functions, classes and modules that the loaded modules of
some packages hold, everything that `course_lib` and `builtins` hold, the attributes of the classes that tests
rely on, and the modules by name. Not kept are a function's own parts: `course_lib.shielded` refuses to change
them.
"""

import builtins
import gc
import sys
from types import ModuleType
from typing import Any

import torch

__all__ = ["Originals"]

PACKAGES = frozenset(
    [
        *(
            "builtins",
            "contextlib",
            "copy",
            "course_lib",
            "functools",
            "hashlib",
            "hmac",
            "importlib",
            "inspect",
        ),
        *("io", "itertools", "json", "math", "numpy", "operator", "os", "otter", "posix", "random", "scipy"),
        *("signal", "threading", "time", "torch", "warnings"),
    ]
)
WHOLE = frozenset({"builtins", "course_lib"})  # also what is no function
CLASSES = (torch.Tensor, torch.nn.Parameter, torch.nn.Module, torch.Generator)
MISSING = object()


class Originals:
    """A copy of all names that matter; take it when everything that tests import has been imported."""

    def __init__(self) -> None:
        self._loaded: dict[str, ModuleType] = {}
        self._modules: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._classes: list[tuple[type, dict[str, Any]]] = [(kind, dict(vars(kind))) for kind in CLASSES]
        for name, module in list(sys.modules.items()):
            package = name.partition(".")[0]
            if package not in PACKAGES or not isinstance(module, ModuleType):
                continue
            self._loaded[name] = module
            everything = package in WHOLE
            names = vars(module)
            kept = {
                key: value
                for key, value in list(names.items())
                if everything
                or callable(value)
                or issubclass(type(value), ModuleType)  # runs no code of theirs
            }
            self._modules.append((names, kept))
            if package in ("course_lib", "otter"):
                own = [value for value in kept.values() if isinstance(value, type)]
                self._classes += [(kind, dict(vars(kind))) for kind in own if kind.__module__ == name]

    def restore(self) -> None:
        """Put back what was replaced, and end what watches: modes of torch, traces, the collector's hooks."""
        sys.settrace(None)
        sys.setprofile(None)
        gc.callbacks.clear()
        while torch._C._len_torch_function_stack():
            torch._C._pop_torch_function_stack()
        while torch._C._len_torch_dispatch_stack():
            torch._C._pop_torch_dispatch_stack()
        sys.modules.update(self._loaded)
        for names, kept in self._modules:
            for key, value in kept.items():
                if names.get(key, MISSING) is not value:
                    names[key] = value
            for key in (names.keys() - kept.keys()) & BUILTINS:  # a module's own `abs` hides the builtin one
                if callable(names[key]):
                    del names[key]
        for kind, attributes in self._classes:
            now = vars(kind)
            for key in [key for key in now if key not in attributes]:
                _without_failing(type.__delattr__, kind, key)
            for key, value in attributes.items():
                if now.get(key, MISSING) is not value:
                    _without_failing(type.__setattr__, kind, key, value)


BUILTINS = frozenset(dir(builtins))


def _without_failing(change: Any, *arguments: Any) -> None:
    """Some attributes, `__dict__` among them, are the class's own business."""
    try:
        change(*arguments)
    except (AttributeError, TypeError):
        return
