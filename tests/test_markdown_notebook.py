r"""Every construct that a page may use, resolved by Sphinx and said again in plain Markdown.

The page below is built by Sphinx as the book is; each test states what a reader of the notebook must see.
"""

import base64
import io
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from markdown_math import display_math, expand_macros, inline_math
from markdown_notebook import MarkdownPage
from markdown_text import escape, fence, paragraph, pipe_table, quote, safe_html
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

CONF = """
extensions = ["myst_nb", "sphinx_proof", "sphinx_exercise", "sphinx_design", "sphinxcontrib.bibtex"]
extensions += ["sphinx_book_theme", "round_citations"]
nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "html_image", "substitution"]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year_round"
numfig = True
numfig_secnum_depth = 1
mathjax3_config = {"tex": {"macros": {"KL": [r"D_{KL}(#1 \\| #2)", 2]}}}
html_theme = "sphinx_book_theme"
"""

BIB = """
@article{jensen1906, author={Jensen, Johan}, title={Sur les fonctions convexes}, journal={Acta}, year={1906}}
@article{unused2000, author={Nobody, Ann}, title={Never cited}, journal={Acta}, year={2000}}
"""

OTHER = """
(other-page)=
# Another page

```{glossary}
nat
  The unit of information with natural logarithms.
```

```{bibliography}
:style: plain
```
"""

PAGE = r"""---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {name: python3, display_name: Python 3}
---
# The bound

Start with a < b, 5 * 3, snake_case, _under_, $x_1 < y$ and $\KL{q}{p}$; `a|b`, *emphasis*, **strong**.
2^nd^ is literal. Cost: \$5.

```{code-cell} ipython3
:tags: [hide-input]
value = 1.2345
```

```{code-cell} ipython3
:tags: [remove-cell]
secret = 1
```

(a-section)=
## Jensen

$$
\log \mathbb{E}[h(y)] &\ge \mathbb{E}[\log h(y)] \\
&= 0
$$ (jensen)

The value is {glue:text}`value:.2f` nats, see {eq}`jensen`, {prf:ref}`thm-jensen`, {prf:ref}`def-bound`,
{ref}`ex-one`, {numref}`a-figure`, {ref}`a-section`, {ref}`other-page`, {term}`nat`,
[a site](https://example.org/a_(b)) and {cite:p}`jensen1906`, {cite:t}`jensen1906`.[^note]

\begin{align}
a &= b \\
c &= d
\end{align}

```{prf:definition} Bound
:label: def-bound
A *bound* is

$$
\mathcal L \le
\log p(x).
$$ (bound)
```

```{prf:theorem} Jensen, $h(y)$
:label: thm-jensen
If $f$ is concave:

1. first,
2. second.
```

```{prf:proof}
By {eq}`jensen`.

- a point
```

```{exercise} A pencil & paper one
:label: ex-one
Show it.
```

```{solution} ex-one
:class: dropdown
Use {eq}`bound`:

$$
a = 1
$$
```

```{exercise-start}
:label: ex-two
```
Compute $x$.
```{exercise-end}
```

```{solution-start} ex-two
:class: dropdown
```
First run this.

```{code-cell} ipython3
answer = 42
```

Then read.
```{solution-end}
```

```{solution-start} ex-one
:label: code-first
:class: dropdown
```

```{code-cell} ipython3
first = 1
```

```{solution-end}
```

:::{note}
A note.
:::

:::{admonition} My *title*
:class: dropdown
Folded text.
:::

:::{dropdown} More
Inside.
:::

:::{margin} Aside
In the margin.
:::

| a | $p(x\|z)$ |
|---|-----------|
| 1 | b \| c    |

```{list-table} Costs
:header-rows: 1
:name: a-table
* - Name
  - Value
* - x
  - 2
```

```{figure} dot.png
:name: a-figure
:alt: a dot
A *caption* with $x$.

And a legend.
```

> Quoted text.
>
> -- Somebody

Term
: Its meaning.

- one
  - nested

    with a paragraph
- two

3. three
4. four

```{code-block} python
print("`tick`")
```

Line with <b>bold</b> HTML and ![dot](dot.png).

<div>safe</div>

<script>alert(1)</script>

***

[^note]: A note with {eq}`jensen`.

```{code-cell} ipython3
:mystnb:
:  figure: {caption: "A drawn *figure*.", name: drawn}
draw()
```

See {numref}`drawn`.

```{code-cell} ipython3
:tags: [check]
assert value > 1
```
"""

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da6364f8ff"
    "bf1e000584027f6b6d1d6c0000000049454e44ae426082"
)


def build_toy(folder: Path, page: str, conf: str = CONF) -> tuple[Sphinx, io.StringIO]:
    """Build a site of a front page, another page and ``05_toy``; return it and its warnings."""
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "conf.py").write_text(conf)
    (source / "references.bib").write_text(BIB)
    (source / "dot.png").write_bytes(PNG)
    (source / "index.md").write_text("# Home\n\n```{toctree}\n:numbered:\n\n05_toy\nother\n```\n")
    (source / "other.md").write_text(OTHER)
    notebook = jupytext.reads(page, fmt="md:myst")
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in notebook.cells:
        if cell.source.startswith("value"):
            record = {"application/papermill.record/text/plain": "1.2345"}
            scrapbook = {"name": "value", "mime_prefix": "application/papermill.record/"}
            cell.outputs = [nbformat.v4.new_output("display_data", record, metadata={"scrapbook": scrapbook})]
        elif cell.source == "draw()":
            picture = {"image/png": base64.b64encode(PNG).decode()}
            cell.outputs = [nbformat.v4.new_output("display_data", picture, metadata={})]
    nbformat.write(notebook, source / "05_toy.ipynb")
    warnings = io.StringIO()
    with docutils_namespace():  # what one project registers must not reach the next
        app = Sphinx(
            source, source, folder / "html", folder / "doctrees", "html", status=None, warning=warnings
        )
        app.build()
    return app, warnings


def cells_of(app: Sphinx, site_url: str = "") -> list[str | int]:
    document = app.env.get_and_resolve_doctree("05_toy", app.builder)
    return MarkdownPage(app.builder, "05_toy", site_url).cells(document)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sphinx, io.StringIO]:
    return build_toy(tmp_path_factory.mktemp("toy"), PAGE)


@pytest.fixture(scope="module")
def cells(built: tuple[Sphinx, io.StringIO]) -> list[str | int]:
    return cells_of(built[0])


@pytest.fixture(scope="module")
def text(cells: list[str | int]) -> str:
    return "\n\n".join(cell for cell in cells if isinstance(cell, str))


def test_every_construct_has_a_rule(built: tuple[Sphinx, io.StringIO], cells: list[str | int]) -> None:
    assert cells
    assert built[1].getvalue() == ""


def test_code_cells_stay_in_place_between_the_texts(cells: list[str | int], text: str) -> None:
    assert [cell for cell in cells if isinstance(cell, int)] == [1, 4, 6, 8, 10]  # 2 is tagged remove-cell
    where = cells.index(4)
    assert str(cells[where - 1]).endswith("First run this.\n\n</details>")
    assert str(cells[where + 1]).startswith(
        "<details>\n<summary><b>Solution to Exercise 1.2, continued</b></summary>\n\nThen read."
    )
    assert str(cells[cells.index(6) - 1]).endswith(
        "\n\n> **Solution to Exercise 1.1 (A pencil & paper one).**"
    )
    assert "answer = 42" not in text


def test_no_directive_or_role_is_left(text: str) -> None:
    assert not residue(text)
    for raw in ("see {eq}`a`", "```{note}\n```", ":::{note}", "(a)=\n# A", "+++"):
        assert residue(raw)


def residue(text: str) -> list[str]:
    """What a notebook front end would show as raw MyST."""
    return re.findall(r"\{[a-z:]+\}`|^\s*(?:```|:::)\{|^\(.+\)=$|^%%%|^\+\+\+", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "expected",
    [
        "# 1. The bound",
        "## 1.1. Jensen",
        r"Start with a &lt; b, 5 \* 3, snake_case",
        r"$x_1 < y$ and $D_{KL}(q \| p)$; `a|b`, *emphasis*, **strong**. 2^nd^ is literal. Cost: \$5.",
        "$$\n\\begin{aligned}\n\\log \\mathbb{E}[h(y)] &\\ge \\mathbb{E}[\\log h(y)] \\\\\n&= 0\n"
        "\\end{aligned}\n\\tag{1.1}\n$$",
        "$$\n\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned}\n\\tag{1.2}\n$$",
        "The value is 1.23 nats, see (1.1), Theorem 1.1, Definition 1.1, Exercise 1.1, Fig. 1.1, Jensen,",
        "[Another page](../other.html#other-page), [nat](../other.html#term-nat)",
        "[a site](https://example.org/a_%28b%29)",
        "([Jensen, 1906](../other.html#id2)), Jensen ([1906](../other.html#id2)).<sup>1</sup>",
        "> **Definition 1.1 (Bound).**\n>\n> A *bound* is\n>\n"
        "> $$ \\mathcal L \\le \\log p(x). \\tag{1.3} $$\n\n",
        "> **Theorem 1.1 (Jensen, $h(y)$).**\n>\n> If $f$ is concave:\n>\n> 1. first,\n> 2. second.\n\n",
        "> **Proof.** By (1.1).\n>\n> - a point\n\n",
        "> **Exercise 1.1 (A pencil & paper one).**\n>\n> Show it.\n\n",
        "<details>\n<summary><b>Solution to Exercise 1.1 (A pencil &amp; paper one)</b></summary>\n\n"
        "Use (1.3):\n\n$$\na = 1\n$$\n\n</details>\n\n",
        "> **Exercise 1.2.**\n>\n> Compute $x$.\n\n",
        "> **Note**\n>\n> A note.\n\n",
        "<details>\n<summary><b>My title</b></summary>\n\nFolded text.\n\n</details>\n\n",
        "<details>\n<summary><b>More</b></summary>\n\nInside.\n\n</details>\n\n",
        "> **Aside**\n>\n> In the margin.\n\n",
        "| a | $p(x\\vert z)$ |\n| --- | --- |\n| 1 | b \\| c |\n\n",
        "**Table 1.1.** Costs\n\n| Name | Value |\n| --- | --- |\n| x | 2 |\n\n",
        "\n\n**Fig. 1.1.** A *caption* with $x$.\n\nAnd a legend.\n\n",
        "**Fig. 1.2.** A drawn *figure*.\n\nSee Fig. 1.2.",
        "> Quoted text.\n>\n> – Somebody\n\n",
        "- **Term**: Its meaning.\n\n",
        "- one\n\n  - nested\n\n    with a paragraph\n\n- two\n\n3. three\n4. four\n\n",
        '```python\nprint("`tick`")\n```',
        "Line with <b>bold</b> HTML and ![dot](data:image/png;base64,",
        "<div>safe</div>\n\n*This part is interactive: see it on [the page](../05_toy.html).*\n\n---",
        "<sup>1</sup> A note with (1.1).",
    ],
)
def test_construct_reads_as_plain_markdown(text: str, expected: str) -> None:
    assert expected in text


def test_only_the_cited_works_are_listed(cells: list[str | int]) -> None:
    assert cells[-1] == "## References\n\n- Johan Jensen. Sur les fonctions convexes. *Acta*, 1906."


def test_images_travel_inside_the_notebook(text: str) -> None:
    assert f"![a dot](data:image/png;base64,{base64.b64encode(PNG).decode()})" in text
    assert "<script" not in text


def test_links_lead_to_the_site_when_it_has_an_address(built: tuple[Sphinx, io.StringIO]) -> None:
    text = "\n\n".join(map(str, cells_of(built[0], "https://example.org/course")))
    assert "[Another page](https://example.org/course/other.html#other-page)" in text
    assert "](../" not in text


def test_a_node_without_a_rule_is_a_warning(tmp_path: Path) -> None:
    page = (
        PAGE.split("# The bound")[0]
        + "# A\n\n```{eval-rst}\n:field: kept text\n```\n\n```{code-cell}\n1\n```\n"
    )
    app, warnings = build_toy(tmp_path, page)
    assert "no rule turns" not in warnings.getvalue()
    cells = cells_of(app)
    assert "no rule turns 'field_list' into notebook Markdown" in warnings.getvalue()
    assert "kept text" in str(cells)


def test_macros_are_written_out() -> None:
    macros = {
        "E": r"\mathbb{E}",
        "KL": [r"D(#1 \| #2)", 2],
        "norm": [r"\lVert #2\rVert_#1", 2, "2"],
        "half": [r"\tfrac12#1", 1],
        "Exp": r"\E",
    }
    assert expand_macros(r"\E_q[\KL{q_{\phi}}{p}] \Ex \Exp x", macros) == (
        r"\mathbb{E}_q[D(q_{\phi} \| p)] \Ex \mathbb{E} x"
    )
    assert expand_macros(r"\norm{x} + \norm[1]{x}", macros) == r"\lVert x\rVert_2 + \lVert x\rVert_1"
    assert expand_macros(r"\KL\alpha p", macros) == r"D(\alpha \| p)"
    assert inline_math(r" \E\n".replace(r"\n", "\n"), macros) == r"$\mathbb{E}$"
    with pytest.raises(ValueError, match=r"\\KL lacks an argument"):
        expand_macros(r"\KL{q}", macros)
    with pytest.raises(ValueError, match="contains itself"):
        expand_macros(r"\a", {"a": r"\a"})


def test_formulas_suit_every_front_end() -> None:
    assert inline_math("a<b") == "$a< b$"  # <b would open a tag
    assert display_math("a % comment\n= b", "5.3") == "$$\na \n= b\n\\tag{5.3}\n$$"
    assert display_math("\\begin{equation}a\\end{equation}") == "$$\na\n$$"
    assert display_math("\\begin{cases}a & b \\\\ c\\end{cases}") == (
        "$$\n\\begin{cases}a & b \\\\ c\\end{cases}\n$$"
    )
    assert display_math("a\n\nb") == "$$\n\\begin{gathered}\na\n\\\\\nb\n\\end{gathered}\n$$"


def test_text_is_never_taken_for_markup() -> None:
    assert escape(r"a\b `c` *d* _e_ f_g $h <i> &amp; ~~j~~ [k](l)") == (
        r"a\\b \`c\` \*d\* \_e\_ f_g \$h &lt;i> &amp;amp; \~~j\~~ [k]&#40;l)"
    )
    starts = ["1. x", "12) x", "# x", "- x", "> x", "[a]: b", "---"]
    assert [paragraph(start) for start in starts] == [
        "1\\. x", "12\\) x", "&#35; x", "&#45; x", "&#62; x", "&#91;a]: b", "&#45;--",
    ]  # fmt: skip
    assert [paragraph(plain) for plain in ("1.5 nats", "-3", "[a](b)")] == ["1.5 nats", "-3", "[a](b)"]


def test_quoted_formulas_stay_on_one_line() -> None:
    assert quote("a\n\n- b\n\n  $$\n  x\n  \\tag{1}\n  $$") == "> a\n>\n> - b\n>\n>   $$ x \\tag{1} $$"


def test_tables_code_and_html_are_safe() -> None:
    assert pipe_table([["a", "b\n\nc"], ["d"]], has_head=False) == (
        "|  |  |\n| --- | --- |\n| a | b<br>c |\n| d |  |"
    )
    assert fence("a ``` b\n\n", "ipython3") == "````python\na ``` b\n````"
    assert safe_html("<!-- gone --><b>bold</b>", "instead") == "<b>bold</b>"
    for html in ("<iframe src='x'>", "<p onclick='x'>", "<a href='javascript:x'>", "<style>p{}</style>"):
        assert safe_html(html, "instead") == "instead"
