"""The key of a notebook: a hash of everything its outputs depend on, and of nothing else."""

import ast
import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from pipeline.settings import FIXED_VARIABLES, Settings

__all__ = ["notebook_key", "reached_files"]

PACKAGE = "course_lib"
# The only cell tags that change what a run does; the others decide how it is shown or compared.
EXECUTION_TAGS = {"raises-exception", "skip-execution"}
READS_RESULTS = re.compile(r"benchmarks\W+results")


def notebook_key(notebook: NotebookNode, settings: Settings) -> str:
    """The hash of a notebook's code and of whatever else its outputs depend on.

    That is: the code cells, the modules of course_lib they reach through imports, the locked versions, the
    Python and torch in use, the data set and the device, and the result files if the code mentions
    `benchmarks/results`. Prose is no part of it.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    sources = [cell.source for cell in cells]
    files = reached_files(sources, settings.root / PACKAGE)
    texts = sources + [path.read_text(encoding="utf-8") for path in files if path.suffix == ".py"]
    if any(READS_RESULTS.search(text) for text in texts):
        files |= _files(settings.root / "benchmarks" / "results")
    ingredients = {
        "cells": sources,
        "tags": [sorted(EXECUTION_TAGS & set(cell.metadata.get("tags", []))) for cell in cells],
        "files": _hashes({*files, settings.root / "constraints.txt"}, settings.root),
        "versions": [platform.python_version(), _version("torch"), _version("torchvision")],
        "dataset": settings.dataset,
        "data": "" if settings.dataset == "digits" else Path(settings.data_dir).name,
        "device": settings.device,
        "variables": FIXED_VARIABLES,
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def reached_files(sources: Iterable[str], package: Path) -> set[Path]:
    """The files of a package that pieces of notebook code reach, directly or through other modules.

    Args:
        sources: code cells; IPython's `%` and `!` lines are allowed.
        package: the package's folder; its name is the name that imports use.
    Returns:
        the modules' files, and the package's data files as soon as one module is reached. The whole package
        where the code names it in a way that reading imports cannot follow: in a shell line, a string or
        through importlib.
    """
    waiting: list[Path] = []
    for source in sources:
        try:
            tree = ast.parse(TransformerManager().transform_cell(source))
        except SyntaxError:  # running the cell will say what is wrong with it
            return _files(package)
        if _names_package_in_text(tree, package.name):
            return _files(package)
        for name in _imported_names(tree, importer=""):
            waiting += _module_files(name, package)
    reached: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in reached:
            continue
        reached.add(file)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        relative = file.relative_to(package.parent).with_suffix("")
        importer = ".".join(relative.parts)
        names = set(_imported_names(tree, importer))
        if "importlib.import_module" in names or "importlib" in names:
            return _files(package)
        for name in names:
            waiting += _module_files(name, package)
    if reached:
        reached |= {path for path in _files(package) if path.suffix != ".py"}
    return reached


def _imported_names(tree: ast.AST, importer: str) -> Iterator[str]:
    """Dotted names that import statements may refer to; `importer` is the module that contains them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = importer.removesuffix(".__init__").split(".")
                # One dot means the package of the importing module, which for __init__ is itself.
                dots = node.level - (1 if importer.endswith(".__init__") else 0)
                base = ".".join([*parent[: len(parent) - dots], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _module_files(name: str, package: Path) -> list[Path]:
    """The files that importing a dotted name runs: the packages on the way, then the module itself."""
    parts = name.split(".")
    if parts[0] != package.name:
        return []
    if parts[-1] == "*":
        folder = package.joinpath(*parts[1:-1])
        return sorted(folder.glob("*.py")) if folder.is_dir() else []
    found = []
    for depth in range(1, len(parts) + 1):
        path = package.joinpath(*parts[1:depth])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                found.append(file)
    return found


def _names_package_in_text(tree: ast.AST, name: str) -> bool:
    """Whether a string of the code could have the package run: a shell line, a magic, `import_module`.

    The bare word among others is prose, as in a printed sentence.
    """
    runs = re.compile(rf"\b{name}\.\w|(-m|import|from)\s+{name}\b|^{name}$")
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return any(isinstance(value, str) and runs.search(value) for value in strings)


def _files(folder: Path) -> set[Path]:
    """Every file under a folder that is source, not a by-product."""
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def _hashes(files: Iterable[Path], root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
