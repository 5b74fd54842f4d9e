"""A page of the book as the cells of a notebook, from its fully resolved doctree.

A notebook front end knows no theorems, numbered equations, cross-references or citations. Sphinx has
resolved them all by the time a page is written, so walking its document tree is enough to say the same
in Markdown. The page's own code cells stay where they are.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from docutils import nodes
from markdown_math import inline_math
from markdown_text import details, quote
from markdown_writer import MarkdownWriter
from sphinx.builders import Builder
from sphinx.locale import admonitionlabels


class Piece(NamedTuple):
    """A part of the page in reading order: a ``heading``, a ``text``, or a code ``cell`` by its index."""

    kind: str
    text: str = ""
    cell: int = -1


class MarkdownPage(MarkdownWriter):
    """A page with its headings, boxes, exercises, references and code cells.

    Attributes:
        folded: the indices of the code cells inside folded boxes, known once ``cells`` has run.
    """

    def __init__(self, builder: Builder, docname: str, site_url: str = "") -> None:
        super().__init__(builder, docname, site_url)
        self.sections = builder.env.toc_secnumbers.get(docname, {})
        self.depth = 0
        self.folded: set[int] = set()

    def cells(self, document: nodes.document) -> list[str | int]:
        """Markdown texts and indices of code cells. A new text begins at each heading."""
        cells: list[str | int] = []
        for piece in [*self._pieces(document), *self._references(document)]:
            if piece.kind == "cell":
                cells.append(piece.cell)
            elif piece.kind == "text" and cells and isinstance(cells[-1], str):
                cells[-1] += f"\n\n{piece.text}"
            else:
                cells.append(piece.text)
        return cells

    def _pieces(self, node: nodes.Element) -> Iterator[Piece]:
        if "cell_index" in node:
            yield Piece("cell", cell=node["cell_index"])
            captions = [self.caption(figure) for figure in node.findall(nodes.figure)]
            yield from (Piece("text", caption) for caption in captions if caption)
        elif isinstance(node, nodes.title):
            yield Piece("heading", self._render_title(node))
        elif isinstance(node, nodes.document | nodes.section):
            self.depth += isinstance(node, nodes.section)
            for child in node.children:
                yield from self._pieces(child)
            self.depth -= isinstance(node, nodes.section)
        elif any("cell_index" in inner for inner in node.findall(nodes.container)):
            yield from self._interrupted(node)
        elif text := self.render(node).strip("\n"):
            yield Piece("text", text)

    def _interrupted(self, box: nodes.Element) -> Iterator[Piece]:
        """An exercise or a solution with code cells inside: its text before, between and after them."""
        title, *parts = box.children
        content = [node for part in parts for node in (part if isinstance(part, nodes.section) else [part])]
        if "cell_index" in content[0]:  # say whose code follows
            content.insert(0, nodes.comment())
        for is_code, run in groupby(content, key=lambda node: "cell_index" in node):
            if is_code:
                cells = list(run)
                self.folded |= {cell["cell_index"] for cell in cells if "dropdown" in box["classes"]}
                yield from (piece for cell in cells for piece in self._pieces(cell))
            else:
                part = box.copy()
                part.parent = box.parent
                part.extend(child.deepcopy() for child in (title, *run))
                yield Piece("text", self.render(part))
                title = title.deepcopy()
                title.append(nodes.Text(", continued"))

    def _references(self, document: nodes.document) -> Iterator[Piece]:
        """The works the page cites, unless it lists them itself."""
        cite: Any = self.builder.env.domains.get("cite")  # sphinxcontrib-bibtex's, which declares no types
        if cite is None or any(True for _ in document.findall(nodes.citation)):
            return
        here = [ref.targets for ref in cite.citation_refs if ref.docname == self.docname]
        keys = {target.key for targets in here for target in targets}
        entries = {work.key: work.formatted_entry for work in cite.citations if work.key in keys}
        works = []
        for entry in entries.values():
            label = f"[{entry.label}] " if self.config.bibtex_reference_style == "label" else ""
            works.append(f"- {label}{self.body(nodes.inline('', '', *entry.text.render(cite.backend)))}")
        if works:
            yield Piece("heading", "## References\n\n" + "\n".join(works))

    def render(self, node: nodes.Node) -> str:
        """The Markdown of one node, theorem-like nodes and admonitions of every name among them."""
        if isinstance(node, nodes.Element) and "realtype" in node:
            return self._theorem(node)
        if type(node).__name__ in admonitionlabels:
            return self._render_admonition(node)
        return super().render(node)

    def _render_title(self, node: nodes.Element) -> str:
        anchor = f"#{node.parent['ids'][0]}" if node.parent["ids"] else ""
        numbers = self.sections.get(anchor) or (self.sections.get("") if self.depth == 1 else None)
        number = ".".join(map(str, numbers)) + self.config.html_secnumber_suffix if numbers else ""
        return f"{'#' * min(self.depth, 6)} {number}{self.body(node)}"

    # Boxes

    def _box(self, label: str, node: nodes.Element, ending: str = "") -> str:
        """``label``, the box's title if it has one, and its content; folded if the page folds it."""
        has_title = bool(node.children) and isinstance(node[0], nodes.title)
        text = self.body(node, node.children[has_title:])
        if "dropdown" in node["classes"] and text:
            return details(f"{label} {self._plain(node[0]).strip() if has_title else ''}".strip(), text)
        title = f"{label} {self.body(node[0]).strip() if has_title else ''}".strip()
        return quote("\n\n".join(filter(None, [title and f"**{title}{ending}**", text])))

    def _theorem(self, node: nodes.Element) -> str:
        number = self.number(node["countertype"], node)
        return self._box(f"{node['realtype'].title()} {number}".strip(), node, ".")

    def _render_proof_node(self, node: nodes.Element) -> str:
        text = self.body(node[0])
        return quote(f"**Proof.** {text.removeprefix('Proof. ')}")

    def _render_exercise_enumerable_node(self, node: nodes.Element) -> str:
        return self._box(self.config.numfig_format["exercise"] % self.number("exercise", node), node, ".")

    def _render_solution_node(self, node: nodes.Element) -> str:
        return self._box("", node, ".")

    _render_exercise_node = _render_solution_node

    def _render_admonition(self, node: nodes.Element) -> str:
        return self._box(str(admonitionlabels.get(type(node).__name__, "")), node)

    _render_topic = _render_sidebar = _render_admonition

    def _render_dropdown_main(self, node: nodes.Element) -> str:
        return details(self._plain(node[0]).strip(), self.body(node, node.children[1:]))

    def _plain(self, node: nodes.Node) -> str:
        """A title for HTML: its words and formulas, without icons and links."""
        if isinstance(node, nodes.math):
            return inline_math(node.astext(), self.macros)
        if isinstance(node, nodes.raw):
            return ""
        return "".join(map(self._plain, node.children)) if node.children else node.astext()
