"""What a report is made of, and its two renderings: Markdown, and one HTML page that loads nothing."""

import base64
import html
import re
from collections.abc import Iterable
from typing import NamedTuple


class Heading(NamedTuple):
  """A heading of level 1 to 3."""

  level: int
  text: str


class Paragraph(NamedTuple):
  """Running text; a warning stands out."""

  text: str
  warning: bool = False


class Bullets(NamedTuple):
  """A list."""

  items: list[str]


class Code(NamedTuple):
  """Text as it is, in a fixed-width face."""

  text: str


class Table(NamedTuple):
  """The first column is text, the others are numbers; a newline in a cell starts a new line."""

  header: list[str]
  rows: list[list[str]]


class Picture(NamedTuple):
  """A figure on a light and on a dark ground, with its caption."""

  name: str
  caption: str
  light: bytes
  dark: bytes


Block = Heading | Paragraph | Bullets | Code | Table | Picture


def markdown_text(text: str) -> str:
  r"""Text with Markdown's own signs made harmless; a newline is a line break.

  >>> markdown_text("a|b <i>")
  'a\\|b &lt;i>'
  """
  text = re.sub(r"([\\`*|~]|(?<!\w)_|_(?!\w)|\](?=[(\[]))", r"\\\1", str(text))
  return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")


def to_markdown(document: Iterable[Block]) -> str:
  """The report as GitHub Markdown; figures are files under figures/."""
  return "\n\n".join(filter(None, map(_markdown, document))) + "\n"


def _markdown(block: Block) -> str:
  match block:
    case Heading(level, text):
      return f"{'#' * level} {markdown_text(text)}"
    case Paragraph(text, warning):
      return f"> **{markdown_text(text)}**" if warning else markdown_text(text)
    case Bullets(items):
      return "\n".join(f"- {markdown_text(item)}" for item in items)
    case Code(text):
      fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
      return f"{fence}text\n{text}\n{fence}"
    case Table(header, rows) if rows:
      align = ["---"] + ["---:" if _numeric(block) else "---"] * (len(header) - 1)
      lines = [map(markdown_text, header), align, *(map(markdown_text, row) for row in rows)]
      return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    case Table():
      return "Nothing yet."
    case Picture(name, caption):
      alt = name.replace("_", " ")
      return f"![{alt}](figures/{name}.png)\n\n{markdown_text(caption)}"


def _numeric(table: Table) -> bool:
  return table.header != ["Name", "Value"]


def to_html(document: Iterable[Block], title: str) -> str:
  """The report as one HTML page that needs nothing beside itself."""
  body = "\n".join(map(_html, document))
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    # Even a name that smuggled markup in could load nothing.
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
  )


def _html(block: Block) -> str:
  match block:
    case Heading(level, text):
      return f"<h{level}>{html_text(text)}</h{level}>"
    case Paragraph(text, warning):
      return f"<p{' class=warning role=note' if warning else ''}>{html_text(text)}</p>"
    case Bullets(items):
      return f"<ul>{''.join(f'<li>{html_text(item)}</li>' for item in items)}</ul>"
    case Code(text):
      return f"<pre><code>{html.escape(str(text))}</code></pre>"
    case Table(header, rows) if rows:
      head = "".join(f"<th scope=col>{html_text(cell)}</th>" for cell in header)
      lines = (
        f"<tr><th scope=row>{html_text(row[0])}</th>"
        + "".join(f"<td>{html_text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
      )
      kind = "numbers" if _numeric(block) else "settings"
      return (
        f"<div class=table tabindex=0><table class={kind}><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
      )
    case Table():
      return "<p>Nothing yet.</p>"
    case Picture(name, caption, light, dark):
      alt = html.escape(name.replace("_", " "))
      return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_uri(dark)}">'
        f'<img src="{_uri(light)}" alt="{alt}"></picture>'
        f"<figcaption>{html_text(caption)}</figcaption></figure>"
      )


def html_text(text: str) -> str:
  """Escaped text; a newline is a line break."""
  return html.escape(str(text)).replace("\n", "<br>")


def _uri(image: bytes) -> str:
  return f"data:image/png;base64,{base64.b64encode(image).decode('ascii')}"


STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --dim: #5f6670; --line: #d9dde2;
  --shade: #f5f6f8; --warn: #8a4b00; --warn-paper: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e8eb; --dim: #a9b0ba;
  --line: #3a3f47; --shade: #1f2228; --warn: #ffc66b; --warn-paper: #33260f; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 80rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; margin: 0.5rem 0 1rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 0.75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 0.4rem; }
p, ul, figcaption { max-width: 52rem; } li { margin: 0.3rem 0; }
.warning { background: var(--warn-paper); color: var(--warn); border-left: 4px solid; padding: 0.7rem 1rem;
  font-weight: 600; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
thead th { font-weight: 600; color: var(--dim); border-bottom-width: 2px; vertical-align: bottom; }
tbody th { font-weight: 600; } .numbers td, .numbers thead th { text-align: right; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
th:first-child, .settings th, .settings td { text-align: left !important; }
th:first-child { position: sticky; left: 0; background: var(--paper); }
tbody tr:hover > * { background: var(--shade); }
pre { background: var(--shade); padding: 0.7rem 1rem; border-radius: 6px; overflow-x: auto;
  font-size: 0.85rem; }
figure { margin: 1.5rem 0 2rem; } img { max-width: 100%; width: 60rem; height: auto; }
figcaption { color: var(--dim); font-size: 0.9rem; }
"""
