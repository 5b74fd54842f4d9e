"""Formulas as every notebook front end accepts them: plain LaTeX between dollar signs.

Notebook front ends differ. Some keep a macro from one cell to the next and some do not, some refuse
``align`` between dollars, and all of them read Markdown around the formula. So macros are expanded,
numbered environments become their inner forms (``align`` → ``aligned``), and the number is a ``\\tag``.
"""

import re
from collections.abc import Mapping, Sequence

# MathJax's form: name → body, or [body, number of arguments, default of the first]
Macros = Mapping[str, str | Sequence[object]]

INNER_ENVIRONMENT = {
    "align": "aligned",
    "alignat": "alignedat",
    "eqnarray": "aligned",
    "flalign": "aligned",
    "gather": "gathered",
    "multline": "gathered",
    "split": "aligned",
}
_ENVIRONMENT = re.compile(rf"\\(begin|end)\{{({'|'.join(INNER_ENVIRONMENT)})\*?\}}")
_MOST_EXPANSIONS = 1_000


def inline_math(tex: str, macros: Macros | None = None) -> str:
    """``$…$`` on one line."""
    return f"${' '.join(_portable(tex, macros or {}).split())}$"


def display_math(tex: str, number: str = "", macros: Macros | None = None) -> str:
    r"""``$$ … \tag{number} $$`` with the formula on lines of its own, and no blank line inside."""
    tex = re.sub(r"\\(begin|end)\{equation\*?\}", "", tex)
    rows = [row.strip() for row in re.split(r"\n\s*\n", tex) if row.strip()]
    tex = rows[0] if len(rows) == 1 else "\\begin{gathered}\n" + "\n\\\\\n".join(rows) + "\n\\end{gathered}"
    tex = _portable(tex, macros or {})
    if _has_rows(tex):
        tex = f"\\begin{{aligned}}\n{tex}\n\\end{{aligned}}"
    return f"$$\n{tex}\n\\tag{{{number}}}\n$$" if number else f"$$\n{tex}\n$$"


def expand_macros(tex: str, macros: Macros) -> str:
    """``tex`` with every macro of a MathJax ``macros`` table written out, however deeply they nest.

    Raises:
        ValueError: a macro is used without its arguments, or calls itself for ever.
    """
    if not macros:
        return tex
    names = re.compile(rf"\\({'|'.join(map(re.escape, macros))})(?![A-Za-z])")
    for _ in range(_MOST_EXPANSIONS):
        found = names.search(tex)
        if found is None:
            return tex
        body, end = _call(tex, found, macros[found[1]])
        tex = tex[: found.start()] + body + tex[end:]
    raise ValueError(f"the math macros in {tex[:80]!r}… expand for ever: one of them contains itself")


def _call(tex: str, found: re.Match[str], macro: str | Sequence[object]) -> tuple[str, int]:
    """The body of one macro call with its arguments filled in, and where the call ends in ``tex``."""
    body, count, *default = [macro, 0] if isinstance(macro, str) else [*macro, 0][: max(2, len(macro))]
    values, end = [], found.end()
    for position in range(int(str(count))):
        if position == 0 and default:
            optional = re.compile(r"\s*\[([^\]]*)\]").match(tex, end)
            values.append(optional[1] if optional else str(default[0]))
            end = optional.end() if optional else end
            continue
        argument = re.compile(r"\s*(\\[A-Za-z]+|\\.|[^\s{}])").match(tex, end)
        if argument:
            values.append(argument[1])
            end = argument.end()
        else:
            group, end = _braced(tex, end, found[0])
            values.append(group)
    apart = re.sub(r"(\\[A-Za-z]+)#", r"\1 #", str(body))  # \alpha#1 must not become one word
    return re.sub(r"#(\d)", lambda match: values[int(match[1]) - 1], apart), end


def _braced(tex: str, start: int, name: str) -> tuple[str, int]:
    """The inside of the ``{…}`` that opens at or after ``start``, and the position behind it."""
    depth = 0
    opening = re.compile(r"\s*\{").match(tex, start)
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(tex, start) if opening else ():
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if opening and depth == 0:
            return tex[opening.end() : brace.start()], brace.end()
    raise ValueError(f"macro {name} lacks an argument in {tex!r}")


def _portable(tex: str, macros: Macros) -> str:
    tex = _ENVIRONMENT.sub(lambda match: rf"\{match[1]}{{{INNER_ENVIRONMENT[match[2]]}}}", tex.strip())
    tex = re.sub(r"(?<!\\)%.*", "", expand_macros(tex, macros))  # a comment would swallow a joined line
    return re.sub(r"<(?=[A-Za-z/!?])", "< ", tex)  # a<b must not look like the start of an HTML tag


def _has_rows(tex: str) -> bool:
    """Whether the formula breaks or aligns lines outside any environment, so that it needs one."""
    depth = 0
    for token in re.finditer(r"\\(begin|end)\{|\\\\|\\&|&", tex):
        depth += {"begin": 1, "end": -1}.get(token[1] or "", 0)
        if depth == 0 and token[0] in ("\\\\", "&"):
            return True
    return False
