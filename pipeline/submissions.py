"""Made-up submissions: a student's notebook filled in, and the answers that every question must survive."""

import ast
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy

from nbformat import NotebookNode

CHECK = re.compile(r'grader\.check\("(\w+)"\)')

__all__ = ["filled_in", "hostile_answers"]

SPOILED = '''
def _spoiled(function):
    """The right answer with every number in it replaced by NaN."""
    import torch

    def nan(value):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value * float("nan")
        if isinstance(value, (tuple, list)):
            return type(value)(map(nan, value))
        return float("nan")

    return lambda *arguments, **named: nan(function(*arguments, **named))
'''

STUBBORN = """
while True:
    try:
        while True:
            pass
    except Exception:
        pass
"""


def filled_in(notebook: NotebookNode, answers: Mapping[str, str]) -> NotebookNode:
    """A student's notebook with code in the place of its empty answers.

    Args:
        notebook: as it was handed out.
        answers: code by question; a question that is missing keeps its empty answer.
    """
    notebook = deepcopy(notebook)
    waiting: list[NotebookNode] = []  # the answer cells since the last check, which names their question
    for cell in notebook.cells:
        if cell.cell_type == "code" and "otter_answer_cell" in cell.metadata.get("tags", []):
            waiting.append(cell)
        elif check := CHECK.match(cell.source):
            if check[1] in answers:
                waiting[0].source = answers[check[1]]
                for other in waiting[1:]:
                    other.source = ""
            waiting = []
    return notebook


def hostile_answers(answer: str) -> Iterator[tuple[str, str]]:
    """Names and codes of the answers made from a right one.

    Args:
        answer: the reference answer. Its functions are spoiled; where it has none, the cell itself is.
    """
    functions = [node.name for node in ast.parse(answer).body if isinstance(node, ast.FunctionDef)]
    if not functions:
        yield "crashes", f"raise RuntimeError('no')\n{answer}"
        yield "loops for ever", f"while True:\n    pass\n{answer}"
        return
    yield "crashes", _with_bodies(answer, "raise RuntimeError('no')")
    yield "loops for ever", _with_bodies(answer, "while True:\n    pass")
    yield "loops and catches everything", _with_bodies(answer, STUBBORN)
    yield "prints a megabyte", _with_bodies(answer, "print('x' * 1_000_000)", keep=True)
    yield "returns nothing", _with_bodies(answer, "return None")
    spoiled = "\n".join(f"{name} = _spoiled({name})" for name in functions)
    yield "returns NaN", f"{answer}\n{SPOILED}\n{spoiled}"


def _with_bodies(answer: str, body: str, keep: bool = False) -> str:
    """The answer with another body for each of its functions, or with one put in front."""
    tree = ast.parse(answer)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.body = [*ast.parse(body).body, *(node.body if keep else [])]
    return ast.unparse(ast.fix_missing_locations(tree))
