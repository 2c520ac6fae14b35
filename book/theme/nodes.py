"""Document nodes (mdast) to HTML: one small function a family, a table for the trivial ones; unknown nodes are problems."""

from __future__ import annotations


from collections.abc import Callable
from html import escape
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from book.theme.outputs import output_html

__all__ = ["Renderer", "plain"]

Node = dict[str, Any]
TAGS = {
    "paragraph": "p", "strong": "strong", "emphasis": "em", "subscript": "sub", "superscript": "sup", "delete": "del",
    "underline": "u", "blockquote": "blockquote", "listItem": "li", "definitionList": "dl", "definitionDescription": "dd",
    "tableRow": "tr", "smallcaps": "span", "abbreviation": "abbr", "keyboard": "kbd", "legend": "div", "glossary": "div",
}  # fmt: skip
TRANSPARENT = {"root", "span", "include", "embed", "tableOfContents", "mystDirective", "mystRole"}
SILENT = {"comment", "mystTarget", "mystComment", "footnoteDefinition", "index", "myst"}


def plain(node: Node) -> str:
    """The text of a node without markup."""
    if "children" in node:
        return "".join(plain(c) for c in node["children"])
    return str(node.get("value", ""))


class Renderer:
    """Renders one page. `link` turns a target (url or slug and fragment) into a relative one; `problem` collects faults."""

    def __init__(self, page: Any, link: Callable[[str], str], asset: Callable[[str], str], problem: Callable[[str], None]) -> None:
        self.page, self.link, self.asset, self.problem = page, link, asset, problem
        self.headings: list[tuple[int, str, str]] = []
        self.footnotes: list[str] = []
        self.used: set[str] = set()
        self.definitions = {n["identifier"]: n for n in _walk(page.mdast) if n["type"] == "footnoteDefinition"}
        self.tabs = 0

    def render(self, node: Node) -> str:
        """HTML of `node`; a type without a renderer is reported as a problem."""
        kind = node["type"]
        method = getattr(self, f"_{kind}", None)
        if method is not None:
            return str(method(node))
        if kind in TAGS:
            return f"<{TAGS[kind]}{self._id(node)}>{self.inside(node)}</{TAGS[kind]}>"
        if kind in TRANSPARENT:
            return self.inside(node)
        if kind not in SILENT:
            self.problem(f"no renderer for the node type '{kind}'")
        return ""

    def inside(self, node: Node) -> str:
        """HTML of the children of `node`."""
        return "".join(self.render(c) for c in node.get("children", []))

    def notes(self) -> str:
        """The footnotes that were referred to, as a list."""
        items = "".join(
            f'<li id="fn-{escape(i)}">{self.inside(self.definitions[i])} <a href="#fnref-{escape(i)}" aria-label="back to the text">↩</a></li>'
            for i in self.footnotes
        )
        return f'<section class="footnotes" aria-label="Footnotes"><ol>{items}</ol></section>' if items else ""

    def _id(self, node: Node) -> str:
        """The id attribute, once: mystmd repeats a container's id on its cell and on its caption number."""
        name = node.get("html_id")
        if not name or name in self.used:
            return ""
        self.used.add(name)
        return f' id="{escape(name)}"'

    def _text(self, node: Node) -> str:
        return escape(node["value"], quote=False)

    def _inlineCode(self, node: Node) -> str:
        return f"<code>{escape(node['value'], quote=False)}</code>"

    def _break(self, node: Node) -> str:
        return "<br>"

    def _thematicBreak(self, node: Node) -> str:
        return "<hr>"

    def _html(self, node: Node) -> str:
        return str(node["value"])

    def _block(self, node: Node) -> str:
        if node.get("visibility") == "remove":
            return ""
        inner = self.inside(node)
        hidden = node.get("visibility") == "hide" and node.get("kind") == "notebook-code"
        inner = f"<details class='fold'><summary>Cell</summary>{inner}</details>" if hidden else inner
        return f"<div{self._id(node)} class='cell'>{inner}</div>" if node.get("kind") == "notebook-code" else f"<div{self._id(node)}>{inner}</div>"

    def _heading(self, node: Node) -> str:
        depth, name = min(node["depth"], 6), plain(node)
        number = f'<span class="number">{node["enumerator"]}</span> ' if node.get("enumerator") else ""
        identity = node.get("html_id") or node.get("identifier") or ""
        if identity and depth <= 3:
            self.headings.append((depth, identity, name))
        anchor = f'<a class="anchor" href="#{escape(identity)}" aria-label="Link to this section: {escape(name)}">#</a>' if identity else ""
        return f"<h{depth}{self._id(node)}>{number}{self.inside(node)}{anchor}</h{depth}>"

    def _list(self, node: Node) -> str:
        tag = "ol" if node.get("ordered") else "ul"
        start = f' start="{node["start"]}"' if node.get("start") not in (None, 1) else ""
        return f"<{tag}{self._id(node)}{start}>{self.inside(node)}</{tag}>"

    def _definitionTerm(self, node: Node) -> str:
        return f"<dt{self._id(node)}>{self.inside(node)}</dt>"

    def _code(self, node: Node) -> str:
        if node.get("visibility") == "remove":
            return ""
        try:
            lexer = get_lexer_by_name(node.get("lang") or "text")
        except ClassNotFound:
            lexer = get_lexer_by_name("text")
        body = highlight(node["value"], lexer, HtmlFormatter(nowrap=True))
        button = '<button class="copy" type="button" aria-label="Copy this code">Copy</button>'
        block = f'<div class="code"{self._id(node)}>{button}<pre tabindex="0"><code>{body}</code></pre></div>'
        if node.get("visibility") == "hide":
            return f'<details class="fold"><summary>Show code</summary>{block}</details>'
        return block

    def _outputs(self, node: Node) -> str:
        if node.get("visibility") == "remove":
            return ""
        inner = self.inside(node)
        if inner and node.get("visibility") == "hide":
            inner = f'<details class="fold"><summary>Show output</summary>{inner}</details>'
        return f'<div class="outputs"{self._id(node)}>{inner}</div>' if inner else ""

    def _output(self, node: Node) -> str:
        if not node.get("jupyter_data"):
            return self.inside(node)
        return output_html(node["jupyter_data"], self.page.alt, self.asset, self.problem)

    def _math(self, node: Node) -> str:
        number = f'<span class="eqno">({node["enumerator"]})</span>' if node.get("enumerator") else ""
        return f'<div class="equation"{self._id(node)} tabindex="0">{self._katex(node)}{number}</div>'

    def _inlineMath(self, node: Node) -> str:
        return self._katex(node)

    def _katex(self, node: Node) -> str:
        if node.get("error") or "html" not in node or "katex-error" in node["html"]:
            self.problem(f"the formula cannot be set: {node['value'][:80]}")
            return escape(node["value"])
        return str(node["html"])

    def _image(self, node: Node) -> str:
        if not node.get("alt"):
            self.problem(f"an image has no alt text: {node.get('url')}")
        width = f' style="width:{escape(str(node["width"]))}"' if node.get("width") else ""
        return f'<img src="{self.asset(node["url"])}" alt="{escape(node.get("alt") or "")}" loading="lazy"{width}>'

    def _container(self, node: Node) -> str:
        caption = [c for c in node.get("children", []) if c["type"] in ("caption", "legend")]
        rest = [c for c in node.get("children", []) if c["type"] not in ("caption", "legend")]
        self.page.alt = " ".join(plain({"children": [g for g in c.get("children", [])]}) for c in caption)
        self.page.alt = self.page.alts.get(node.get("label"), self.page.alt)
        identity = self._id(node)
        body = "".join(self.render(c) for c in rest)
        told = "".join(f"<figcaption>{self.inside(c)}</figcaption>" for c in caption)
        self.page.alt = ""
        return f'<figure{identity} class="{escape(node.get("kind", "figure"))}">{body}{told}</figure>'

    def _captionNumber(self, node: Node) -> str:
        return f'<span class="number">{self.inside(node)}</span> '

    def _caption(self, node: Node) -> str:
        return self.inside(node)

    def _table(self, node: Node) -> str:
        rows = node.get("children", [])
        head = [r for r in rows if all(c.get("header") for c in r["children"])]
        body = [r for r in rows if r not in head]
        top = f"<thead>{''.join(self.render(r) for r in head)}</thead>" if head else ""
        return f'<div class="wrap" tabindex="0"><table{self._id(node)}>{top}<tbody>{"".join(self.render(r) for r in body)}</tbody></table></div>'

    def _tableCell(self, node: Node) -> str:
        inner = self.inside(node)
        tag, scope = ("th", ' scope="col"') if node.get("header") and inner else ("td", "")
        align = f' style="text-align:{node["align"]}"' if node.get("align") else ""
        return f"<{tag}{scope}{align}>{inner}</{tag}>"

    def _admonition(self, node: Node) -> str:
        children = node.get("children", [])
        title = next((self.inside(c) for c in children if c["type"] == "admonitionTitle"), str(node.get("kind", "Note")).capitalize())
        body = "".join(self.render(c) for c in children if c["type"] != "admonitionTitle")
        return self._box(node, title, body, f"admonition {node.get('kind', 'note')}")

    def _exercise(self, node: Node) -> str:
        title = next((self.inside(c) for c in node["children"] if c["type"] == "admonitionTitle"), "")
        body = "".join(self.render(c) for c in node["children"] if c["type"] != "admonitionTitle")
        number = f" {node['enumerator']}" if node.get("enumerator") else ""
        return self._box(node, f"Exercise{number}{': ' if title and title != 'Exercise' else ''}{'' if title == 'Exercise' else title}", body, "admonition exercise")

    def _solution(self, node: Node) -> str:
        title = next((self.inside(c) for c in node["children"] if c["type"] == "admonitionTitle"), "Solution")
        body = "".join(self.render(c) for c in node["children"] if c["type"] != "admonitionTitle")
        return self._box(node, title, body, "admonition solution")

    def _proof(self, node: Node) -> str:
        return self._admonition(node | {"kind": node.get("kind", "theorem")})

    def _box(self, node: Node, title: str, body: str, classes: str) -> str:
        if "dropdown" in str(node.get("class", "")):
            return f'<details{self._id(node)} class="{classes}"><summary class="title">{title}</summary>{body}</details>'
        return f'<aside{self._id(node)} class="{classes}"><p class="title">{title}</p>{body}</aside>'

    def _details(self, node: Node) -> str:
        summary = next((self.inside(c) for c in node["children"] if c["type"] == "summary"), "More")
        body = "".join(self.render(c) for c in node["children"] if c["type"] != "summary")
        return f"<details{self._id(node)}><summary>{summary}</summary>{body}</details>"

    def _tabSet(self, node: Node) -> str:
        self.tabs += 1
        name = f"tabs-{self.tabs}"
        parts = []
        for position, item in enumerate(node["children"]):
            checked = " checked" if position == 0 else ""
            label = escape(str(item.get("title", position + 1)))
            parts.append(
                f'<input type="radio" name="{name}" id="{name}-{position}"{checked} data-sync="{label}">'
                f'<label for="{name}-{position}">{label}</label><div class="panel">{self.inside(item)}</div>'
            )
        return f'<div class="tabs"{self._id(node)}>{"".join(parts)}</div>'

    def _grid(self, node: Node) -> str:
        return f'<div class="grid"{self._id(node)}>{self.inside(node)}</div>'

    def _card(self, node: Node) -> str:
        inner = self.inside(node)
        if node.get("url"):
            return f'<a class="card" href="{self.link(node["url"])}">{inner}</a>'
        return f'<div class="card"{self._id(node)}>{inner}</div>'

    def _cardTitle(self, node: Node) -> str:
        return f'<p class="card-title">{self.inside(node)}</p>'

    def _header(self, node: Node) -> str:
        return f'<div class="card-head">{self.inside(node)}</div>'

    def _footer(self, node: Node) -> str:
        return f'<div class="card-foot">{self.inside(node)}</div>'

    def _div(self, node: Node) -> str:
        return f'<div{self._id(node)} class="{escape(str(node.get("class", "")))}">{self.inside(node)}</div>'

    def _aside(self, node: Node) -> str:
        return f"<aside{self._id(node)}>{self.inside(node)}</aside>"

    def _link(self, node: Node) -> str:
        inner = self.inside(node)
        if not inner:
            self.problem(f"a link to {node.get('url')} has no text")
        return f'<a href="{escape(self.link(node["url"]))}">{inner}</a>'

    def _crossReference(self, node: Node) -> str:
        if not node.get("resolved"):
            self.problem(f"unresolved reference to '{node.get('label') or node.get('identifier')}'")
            return self.inside(node)
        where = (node.get("url") or "") + (f"#{node['html_id']}" if node.get("html_id") else "")
        return f'<a class="xref" href="{escape(self.link(where))}">{self.inside(node)}</a>'

    def _cite(self, node: Node) -> str:
        known = self.page.citations.get(node["label"]) or self.page.citations.get(node.get("identifier"))
        if node.get("error") or not known:
            self.problem(f"missing citation '{node['label']}'")
            return escape(node["label"])
        self.page.cited[known["label"]] = known["html"]
        return f'<a class="cite" href="#cite-{escape(known["label"])}">{self.inside(node)}</a>'

    def _citeGroup(self, node: Node) -> str:
        joined = "; ".join(self.render(c) for c in node["children"])
        return f"({joined})" if node.get("kind") == "parenthetical" else joined

    def _footnoteReference(self, node: Node) -> str:
        name = node["identifier"]
        if name not in self.definitions:
            self.problem(f"footnote '{name}' is not defined")
            return ""
        if name not in self.footnotes:
            self.footnotes.append(name)
        return f'<sup id="fnref-{escape(name)}"><a href="#fn-{escape(name)}">{self.footnotes.index(name) + 1}</a></sup>'

    def _bibliography(self, node: Node) -> str:
        return "<!--bibliography-->"


def _walk(node: Node) -> list[Node]:
    found = [node]
    for child in node.get("children", []):
        found += _walk(child)
    return found


