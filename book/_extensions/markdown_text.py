"""Small pieces of Markdown, written so that every notebook front end reads them alike."""

import base64
import mimetypes
import re
from collections.abc import Iterable
from html import escape as escape_html
from pathlib import Path

# Notebook front ends cut formulas out before they read Markdown, and then a line's "> " stays in the formula.
_DISPLAY = re.compile(r"^( *)\$\$\n(.*?)\n *\$\$$", re.DOTALL | re.MULTILINE)
_UNSAFE = re.compile(r"(?i)<\s*(script|style|iframe|object|embed|link|form)\b|\son\w+\s*=|javascript:")


def escape(text: str) -> str:
    """Plain text that Markdown must not interpret."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;").replace("](", "]&#40;")
    text = re.sub(r"([\\`*$])", r"\\\1", text).replace("~~", r"\~~")
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)  # inside a word, _ is only a letter


def paragraph(text: str) -> str:
    """A paragraph whose first characters must not start a heading, a list, a quotation or a definition."""
    text = re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
    start = r"^(?:[#>]|~(?=~~)|\[(?=[^\]]*\]:)|[-+](?=[\s-]|$))"
    return re.sub(start, lambda character: f"&#{ord(character[0])};", text)


def quote(text: str) -> str:
    """A block quotation; formulas inside go on one line."""
    text = _DISPLAY.sub(lambda formula: f"{formula[1]}$$ {' '.join(formula[2].split())} $$", text)
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def details(summary: str, text: str) -> str:
    """A folded block. ``summary`` is plain text; the blank lines let the Markdown inside render."""
    return f"<details>\n<summary><b>{escape_html(summary, quote=False)}</b></summary>\n\n{text}\n\n</details>"


def fence(code: str, language: str = "") -> str:
    """A code block, fenced by more backticks than it contains."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    language = "" if language in ("default", "none", "text") else language.replace("ipython3", "python")
    return f"{ticks}{language}\n{code.rstrip()}\n{ticks}"


def code_span(code: str) -> str:
    """Code inside a line of text."""
    code = re.sub(r"\s+", " ", code)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return f"{ticks} {code} {ticks}" if "`" in code else f"`{code}`"


def indent(text: str, marker: str) -> str:
    """A list item: ``marker`` before the first line, as many spaces before the others."""
    first, *rest = text.split("\n")
    return "\n".join([marker + first, *(" " * len(marker) + line if line else "" for line in rest)])


def pipe_table(rows: list[list[str]], has_head: bool) -> str:
    """A table of one-line cells; without a head the first row stays empty, as Markdown demands one."""
    width = max(len(row) for row in rows)
    rows = [[_cell(text) for text in row] + [""] * (width - len(row)) for row in rows]
    head, body = (rows[0], rows[1:]) if has_head else ([""] * width, rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * width, *body])


def _cell(text: str) -> str:
    """A cell's text on one line, its bars spelled so that they part no columns, also within formulas."""

    def bars(span: re.Match[str]) -> str:
        return re.sub(r"\\\|", r"\\Vert ", span[0]).replace("|", r"\vert ")

    text = re.sub(r"\n\n+", "<br>", text).replace("\n", " ")
    parts = re.split(r"(\$\$?[^$]+\$\$?)", text)
    return "".join(
        re.sub(r".+", bars, part) if part.startswith("$") else part.replace("|", r"\|") for part in parts
    )


def data_uri(uri: str, folders: Iterable[str | Path]) -> str:
    """The image file ``uri``, looked for in ``folders``, as text inside the notebook.

    Raises:
        FileNotFoundError: the file is in none of them.
    """
    for folder in folders:
        path = Path(folder, uri)
        if path.is_file():
            kind = mimetypes.guess_type(path.name)[0] or "image/png"
            return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    raise FileNotFoundError(f"image {uri!r} is in none of {[str(folder) for folder in folders]}")


def safe_html(html: str, instead: str) -> str:
    """HTML that a notebook may show as it stands; ``instead`` where it would run or restyle something."""
    html = re.sub(r"<!--.*?-->", "", html, flags=re.DOTALL)
    return instead if _UNSAFE.search(html) else html
