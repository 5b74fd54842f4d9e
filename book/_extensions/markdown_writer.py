"""Sphinx document nodes as plain Markdown: one ``_render_<node>`` method for each kind of node.

A kind without a method is a warning, which the build treats as an error, so nothing vanishes unnoticed.
"""

import posixpath
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from urllib.parse import urlsplit

from docutils import nodes
from markdown_math import display_math, inline_math
from markdown_text import code_span, data_uri, escape, fence, indent, paragraph, pipe_table, quote, safe_html
from sphinx.builders import Builder
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Nodes that show nothing; what a system_message says, the build has already reported.
INVISIBLE = {
    "colspec", "comment", "highlightlang", "index", "meta", "pending", "sd_tab_input",
    "substitution_definition", "system_message", "tabular_col_spec", "target", "toctree",
}  # fmt: skip
TRANSPARENT = {
    "PassthroughTextElement", "abbreviation", "acronym", "caption", "compound", "container", "definition",
    "definition_list", "document", "generated", "glossary", "inline", "legend", "list_item", "problematic",
    "section", "term",
}  # fmt: skip
EMPHASIS = {
    "emphasis": "*", "literal_emphasis": "*", "title_reference": "*",
    "literal_strong": "**", "rubric": "**", "sd_tab_label": "**", "strong": "**",
}  # fmt: skip


class MarkdownWriter:
    """Renders nodes of the page ``docname``.

    Links lead to ``site_url``; without it they are relative, seen from a folder beside the site's pages.
    """

    def __init__(self, builder: Builder, docname: str, site_url: str = "") -> None:
        self.builder, self.config, self.docname = builder, builder.config, docname
        self.site = site_url or ".."
        self.path = builder.get_target_uri(docname)
        self.macros = (getattr(self.config, "mathjax3_config", None) or {}).get("tex", {}).get("macros", {})
        self.numbers = builder.env.toc_fignumbers.get(docname, {})

    def render(self, node: nodes.Node) -> str:
        """The Markdown of one node: a run of text, or a block without blank lines around it."""
        name = type(node).__name__
        if name in INVISIBLE:
            return ""
        if name in EMPHASIS:
            text = self.body(node).strip()
            return f"{EMPHASIS[name]}{text}{EMPHASIS[name]}" if text else ""
        if name in TRANSPARENT and "cell_index" not in node:
            return self.body(node)
        method = getattr(self, f"_render_{name}", None)
        if method is None:
            message = "no rule turns %r into notebook Markdown: write _render_%s in %s"
            place = {"location": node, "type": "notebook", "subtype": "unknown_node"}
            logger.warning(message, name, name, __name__, **place)
            return self.body(node)
        return str(method(node))

    def body(self, parent: nodes.Element, children: Iterable[nodes.Node] | None = None) -> str:
        """The children: runs of text joined as they are, blocks parted by a blank line."""

        def flows(child: nodes.Node) -> bool:
            alone = isinstance(child, nodes.raw | nodes.image) and not isinstance(parent, nodes.TextElement)
            return isinstance(child, nodes.Text | nodes.Inline) and not alone

        blocks: list[str] = []
        for flowing, run in groupby(parent.children if children is None else children, key=flows):
            texts = [self.render(child) for child in run]
            blocks += ["".join(texts)] if flowing else texts
        return "\n\n".join(block.strip("\n") for block in blocks if block.strip())

    def number(self, kind: str, node: nodes.Element) -> str:
        """``5.3`` for the third ``kind`` of chapter 5; empty where the node has no number."""
        return ".".join(map(str, self.numbers.get(kind, {}).get(node["ids"][0], ()))) if node["ids"] else ""

    def caption(self, node: nodes.Element) -> str:
        """``**Fig. 5.1.** caption`` of a figure, a table or a listing, with its legend."""
        kind = {"figure": "figure", "table": "table"}.get(type(node).__name__, "code-block")
        number = self.number(kind, node)
        label = f"**{self.config.numfig_format[kind] % number}.** " if number else ""
        text = [self.body(child) for child in node.children if isinstance(child, nodes.caption | nodes.title)]
        legend = [self.body(child) for child in node.children if isinstance(child, nodes.legend)]
        return "\n\n".join(filter(None, [(label + " ".join(text)).strip(), *legend]))

    def link(self, uri: str) -> str | None:
        """The address of a link of this page as its notebook needs it; None if it stays on the page."""
        parts = urlsplit(uri)
        if parts.scheme:
            return uri
        path = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), parts.path))
        fragment = f"#{parts.fragment}" if parts.fragment else ""
        return None if not parts.path or path == self.path else f"{self.site}/{path}{fragment}"

    # Text

    def _render_Text(self, node: nodes.Text) -> str:
        return escape(re.sub(r"\s+", " ", node.astext()))

    def _render_literal(self, node: nodes.Element) -> str:
        return code_span(node.astext())

    def _render_reference(self, node: nodes.Element) -> str:
        text, url = self.body(node), self.link(node.get("refuri", ""))
        return f"[{text}]({re.sub(r'[()<> ]', lambda c: f'%{ord(c[0]):02X}', url)})" if url else text

    _render_number_reference = _render_reference

    def _render_download_reference(self, node: nodes.Element) -> str:
        return f"[{self.body(node)}]({self.site}/_downloads/{node['filename']})"

    def _render_superscript(self, node: nodes.Element) -> str:
        return f"<sup>{self.body(node)}</sup>"

    def _render_subscript(self, node: nodes.Element) -> str:
        return f"<sub>{self.body(node)}</sub>"

    def _render_footnote_reference(self, node: nodes.Element) -> str:
        return f"<sup>{self.body(node)}</sup>"

    def _render_math(self, node: nodes.Element) -> str:
        return inline_math(node.astext(), self.macros)

    def _render_math_block(self, node: nodes.Element) -> str:
        number = self.number("displaymath", node) or str(node.get("number") or "")
        return display_math(node.astext(), number, self.macros)

    def _render_raw(self, node: nodes.Element) -> str:
        html = node.astext() if "html" in node["format"].split() else ""
        return safe_html(html, f"*This part is interactive: see it on [the page]({self.site}/{self.path}).*")

    # Blocks

    def _render_paragraph(self, node: nodes.Element) -> str:
        return paragraph(self.body(node).strip())

    def _render_literal_block(self, node: nodes.Element) -> str:
        return fence(node.astext(), node.get("language", ""))

    _render_doctest_block = _render_literal_block

    def _render_block_quote(self, node: nodes.Element) -> str:
        return quote(self.body(node))

    def _render_attribution(self, node: nodes.Element) -> str:
        return f"— {self.body(node)}"

    def _render_transition(self, node: nodes.Element) -> str:
        return "---"

    def _render_line_block(self, node: nodes.Element) -> str:
        return "<br>\n".join(self.body(line) for line in node.children)

    def _render_footnote(self, node: nodes.Element) -> str:
        label, *content = node.children
        return f"<sup>{escape(label.astext())}</sup> {self.body(node, content)}"

    def _render_citation(self, node: nodes.Element) -> str:
        label, *content = node.children
        return indent(f"[{escape(label.astext())}] {self.body(node, content)}", "- ")

    def _list(self, items: Sequence[str]) -> str:
        return ("\n\n" if any("\n\n" in item for item in items) else "\n").join(items)

    def _render_bullet_list(self, node: nodes.Element) -> str:
        return self._list([indent(self.body(item), "- ") for item in node.children])

    def _render_enumerated_list(self, node: nodes.Element) -> str:
        numbered = enumerate(node.children, int(node.get("start", 1)))
        return self._list([indent(self.body(item), f"{position}. ") for position, item in numbered])

    def _render_definition_list_item(self, node: nodes.Element) -> str:
        terms = ", ".join(f"**{self.body(term)}**" for term in node.children if isinstance(term, nodes.term))
        meaning = self.body(node, [part for part in node.children if isinstance(part, nodes.definition)])
        return indent(f"{terms}: {meaning}", "- ")

    def _render_table(self, node: nodes.Element) -> str:
        rows = [[self.body(entry) for entry in row.children] for row in node.findall(nodes.row)]
        has_head = any(True for _ in node.findall(nodes.thead))
        return "\n\n".join(filter(None, [self.caption(node), pipe_table(rows, has_head)]))

    def _render_image(self, node: nodes.Element) -> str:
        uri = next(iter(node.get("candidates", {}).values()), node["uri"])
        folders = (self.builder.srcdir, posixpath.join(self.builder.outdir, posixpath.dirname(self.path)))
        return f"![{escape(node.get('alt', ''))}]({uri if urlsplit(uri).scheme else data_uri(uri, folders)})"

    def _render_figure(self, node: nodes.Element) -> str:
        shown = [child for child in node.children if not isinstance(child, nodes.caption | nodes.legend)]
        return "\n\n".join(filter(None, [self.body(node, shown), self.caption(node)]))
