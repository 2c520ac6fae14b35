"""Nodes that stand on their own: headings, lists, tables, figures, admonitions, tabs, cards, listings."""

from __future__ import annotations

import re

from book.theme.cells import cell_code
from book.theme.highlight import highlight
from book.theme.page import Handler, Page, wrap
from book.theme.tables import finish_table
from book.theme.text import Node, attributes, escape, has_type, plain

__all__ = ["BLOCKS"]

LABELS = {"python": "Python", "bash": "Shell", "sh": "Shell", "yaml": "YAML", "json": "JSON", "toml": "TOML"}
LABELS |= {"console": "Shell", "ini": "INI", "text": "", "markdown": "Markdown"}


def heading(page: Page, node: Node) -> str:
    """A heading with its number and a link to itself."""
    depth = max(2, min(int(node["depth"]), 6))
    anchor = page.anchor(node)
    number = f'<span class="b-heading-number">{escape(node["enumerator"])}</span> ' if node.get("enumerator") else ""
    inner = number + page.children(node)
    if not anchor:
        return f"<h{depth}>{inner}</h{depth}>"
    name = node["html_id"]
    page.outline.append((depth, name, inner))
    label = escape(f"Link to {plain(node).strip()}")
    return f'<h{depth}{anchor}>{inner}<a class="b-self" href="#{escape(name)}" aria-label="{label}">#</a></h{depth}>'


def code(page: Page, node: Node) -> str:
    """A listing, or the code of a cell."""
    if node.get("executable"):
        return cell_code(page, node)
    label = LABELS.get(node.get("lang") or "", node.get("lang") or "")
    name = node.get("filename")
    head = f'<div class="b-code-name">{escape(name)}</div>' if name else ""
    body = highlight(
        node["value"], node.get("lang"), lines=bool(node.get("showLineNumbers")), marked=node.get("emphasizeLines") or [],
        first=int(node.get("startingLineNumber") or 1),
    )  # fmt: skip
    return f'<div class="b-code"{attributes(data_lang=label)}{page.anchor(node)}>{head}{body}</div>'


def list_(page: Page, node: Node) -> str:
    """A bulleted or numbered list; items with a check box are a task list."""
    tag = "ol" if node.get("ordered") else "ul"
    start = node.get("start", 1) if node.get("ordered") else 1
    tasks = any(item.get("checked") is not None for item in node.get("children", []))
    given = attributes(class_="b-tasks" if tasks else None, start=None if start == 1 else start)
    return f"<{tag}{given}{page.anchor(node)}>{page.children(node)}</{tag}>"


def list_item(page: Page, node: Node) -> str:
    """One item; a single paragraph in it is set without paragraph space."""
    inner = "".join(
        page.children(child) if child["type"] == "paragraph" and len(node["children"]) <= 2 else page.render(child)
        for child in node.get("children", [])
    )
    box = ""
    if node.get("checked") is not None:
        done = bool(node["checked"])
        box = f'<span class="b-box" role="img" aria-label="{"done" if done else "open"}">{"✓" if done else ""}</span>'
    return f"<li{page.anchor(node)}>{box}{inner}</li>"


def table(page: Page, node: Node) -> str:
    """A table: header rows on top, numbers set right, scrolls sideways where it must."""
    rows = node.get("children", [])
    head = 0
    while head < len(rows) and all(c.get("header") for c in rows[head].get("children", [])):
        head += 1
    top = f"<thead>{''.join(_row(page, r, 'col') for r in rows[:head])}</thead>" if head else ""
    body = f"<tbody>{''.join(_row(page, r, 'row') for r in rows[head:])}</tbody>"
    return finish_table(f"<table{page.anchor(node)}>{top}{body}</table>")


def _row(page: Page, row: Node, scope: str) -> str:
    cells = []
    for cell in row.get("children", []):
        kids = cell.get("children", [])
        inner = page.children(kids[0]) if len(kids) == 1 and kids[0]["type"] == "paragraph" else page.children(cell)
        tag = "th" if cell.get("header") and inner.strip() else "td"
        place = {"right": "b-right-text", "center": "b-center-text", "left": "b-left-text"}.get(cell.get("align", ""))
        spans = {"colspan": cell.get("colspan"), "rowspan": cell.get("rowspan")}
        cells.append(f"<{tag}{attributes(scope=scope if tag == 'th' else None, class_=place, **spans)}>{inner}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def container(page: Page, node: Node) -> str:
    """A figure, table or listing with its caption; the code of an executed figure stands before it."""
    kind = node.get("kind", "figure")
    if kind == "quote":
        return wrap("div", "b-quote")(page, node)
    copied = bool(node.get("source"))
    page.embedding += copied
    caption = next((c for c in node.get("children", []) if c["type"] == "caption"), None)
    words = " ".join(plain(caption).split()) if caption else ""
    parts = []
    before = ""
    for child in node.get("children", []):
        if child["type"] in ("caption", "legend"):
            continue
        if child["type"] == "code" and child.get("executable"):
            before += "" if copied else page.render(child)
            continue
        if child["type"] == "image" and child.get("alt") is None:
            child = child | {"_caption": words}
        if child["type"] == "outputs":
            child = child | {"_alt": page.site.alts.get((node.get("source") or {}).get("label", ""), words)}
        parts.append(page.render(child))
    below = "".join(page.render(c) for c in node.get("children", []) if c["type"] in ("caption", "legend"))
    name = {"table": "b-tabled", "code": "b-listing"}.get(kind, "b-figure")
    css = " ".join(filter(None, [name, "b-sub" if node.get("subcontainer") else "", node.get("class")]))
    subs = sum(bool(c.get("subcontainer")) for c in node.get("children", []))
    inside = f'<div class="b-panels">{"".join(parts)}</div>' if subs else "".join(parts)
    order = below + inside if kind == "table" else inside + below
    body = f"<figure{attributes(class_=css)}{page.anchor(node)}>{order}</figure>"
    page.embedding -= copied
    return before + page.keep(node, body)


def admonition(page: Page, node: Node) -> str:
    """A note, a warning, an exercise, a theorem; `dropdown` makes it open on demand."""
    kind = node["type"] if node["type"] != "admonition" else node.get("kind") or "plain"
    kids = list(node.get("children", []))
    title = page.children(kids.pop(0)) if kids and kids[0]["type"] == "admonitionTitle" else ""
    if kind in ("exercise", "proof"):
        name = "Exercise" if kind == "exercise" else str(node.get("kind", "theorem")).capitalize()
        number = f" {node['enumerator']}" if node.get("enumerator") and name != "Proof" else ""
        title = f"{name}{escape(number)}" + (f'<span class="b-subtitle">{title}</span>' if title else "")
    inner = "".join(page.render(k) for k in kids)
    classes = (node.get("class") or "").split()
    slug = re.sub(r"\W+", "-", plain(node["children"][0]).strip().lower()) if title and kind == "plain" else ""
    css = " ".join(["b-admonition", f"b-{kind}", *classes, *([f"b-is-{slug}"] if slug else [])])
    content = f'<div class="b-admonition-body">{inner}</div>' if inner else ""
    if "dropdown" in classes:
        if kind == "solution":  # its title is a link to the exercise; inside a summary one cannot be operated well
            title = escape(plain(node["children"][0]).strip())
        body = f'<details{attributes(class_=css, open=bool(node.get("open")))}{page.anchor(node)}><summary class="b-admonition-title">{title}</summary>{content}</details>'
    else:
        head = f'<p class="b-admonition-title">{title}</p>' if title else ""
        body = f"<div{attributes(class_=css)}{page.anchor(node)}>{head}{content}</div>"
    return page.keep(node, body)


def details(page: Page, node: Node) -> str:
    """A dropdown."""
    return f'<details class="b-dropdown"{attributes(open=bool(node.get("open")))}{page.anchor(node)}>{page.children(node)}</details>'


def tab_set(page: Page, node: Node) -> str:
    """Tabs; without JavaScript, and in print, all panels are shown one after the other."""
    name = page.unique("tabs")
    buttons, panels = [], []
    for position, item in enumerate(node.get("children", [])):
        tab, first = f"{name}-{position}", position == 0
        buttons.append(
            f'<button type="button" role="tab" id="{tab}-tab" aria-controls="{tab}" aria-selected="{str(first).lower()}"'
            f"{attributes(data_sync=item.get('sync'), tabindex=None if first else '-1')}>{escape(item.get('title', ''))}</button>"
        )
        panels.append(
            f'<div role="tabpanel" id="{tab}" aria-labelledby="{tab}-tab" tabindex="0"{attributes(hidden=not first)}>'
            f'<p class="b-tab-title">{escape(item.get("title", ""))}</p>{page.children(item)}</div>'
        )
    return f'<div class="b-tabs"{page.anchor(node)}><div role="tablist" aria-label="Variants">{"".join(buttons)}</div>{"".join(panels)}</div>'


def grid(page: Page, node: Node) -> str:
    """Cards or other things side by side, as many columns as the author asks for and the window allows."""
    columns = node.get("columns") or [1, 2, 2, 3]
    return f'<div class="b-grid" style="--columns:{int(columns[-1])}"{page.anchor(node)}>{page.children(node)}</div>'


def card(page: Page, node: Node) -> str:
    """A card; with a link the whole of it can be clicked."""
    inner = page.children(node)
    if url := node.get("url"):
        href = url if url.startswith("http") else page.link(url)
        title = next((page.children(c) for c in node["children"] if c["type"] == "cardTitle"), "")
        linked = f'<p class="b-card-title"><a href="{escape(href)}">{title or escape(page.site.title_of(url))}</a></p>'
        inner = inner.replace(f'<p class="b-card-title">{title}</p>', linked) if title else linked + inner
    return f'<div class="b-card"{page.anchor(node)}>{inner}</div>'


def definition_list(page: Page, node: Node) -> str:
    """Terms and what they mean; a term with a label is kept with its meaning for previews."""
    items = []
    kids = node.get("children", [])
    for position, child in enumerate(kids):
        items.append(page.render(child))
        if child["type"] == "definitionTerm" and child.get("html_id") and position + 1 < len(kids):
            copy = page.render(kids[position + 1]) if not has_type(kids[position + 1], "footnoteReference") else ""
            page.keep(child, f"<dl><dt>{page.children(child)}</dt>{copy}</dl>")
    return f"<dl{page.anchor(node)}>{''.join(items)}</dl>"


def embed(page: Page, node: Node) -> str:
    """A copy of something with a label, without a second anchor."""
    page.embedding += 1
    inner = page.children(node)
    page.embedding -= 1
    return f'<div class="b-embed">{inner}</div>'


def bibliography(page: Page, node: Node) -> str:
    """Everything that any page cites."""
    return page.references(page.site.cited(*page.site.slugs), "")


def plain_block(page: Page, node: Node) -> str:
    """A block of the page."""
    anchor = page.anchor(node)
    return f"<div{anchor}>{page.children(node)}</div>" if anchor else page.children(node)


BLOCKS: dict[str, Handler] = {
    "root": plain_block,
    "paragraph": wrap("p"),
    "heading": heading,
    "code": code,
    "list": list_,
    "listItem": list_item,
    "table": table,
    "container": container,
    "caption": wrap("figcaption"),
    "legend": wrap("div", "b-legend"),
    "admonition": admonition,
    "admonitionTitle": wrap("p", "b-admonition-title"),
    "exercise": admonition,
    "solution": admonition,
    "proof": admonition,
    "details": details,
    "summary": wrap("summary"),
    "tabSet": tab_set,
    "grid": grid,
    "grid-item": wrap("div"),
    "card": card,
    "cardTitle": wrap("p", "b-card-title"),
    "header": wrap("div", "b-card-head"),
    "footer": wrap("div", "b-card-foot"),
    "definitionList": definition_list,
    "definitionTerm": wrap("dt"),
    "definitionDescription": wrap("dd"),
    "glossary": wrap("div", "b-glossary"),
    "blockquote": wrap("blockquote"),
    "aside": wrap("aside", "b-aside"),
    "div": wrap("div"),
    "embed": embed,
    "include": plain_block,
    "bibliography": bibliography,
    "thematicBreak": lambda page, node: "<hr>",
}
