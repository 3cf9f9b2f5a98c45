"""Docstrings as the site's renderer reads them: formulas between dollars, every doctest under "Examples:"."""

import re
import textwrap

import griffe

_MATH = re.compile(r"^( *)\.\. math::((?:.*\n?)(?:\1 +\S.*\n?)*)", re.MULTILINE)
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_PROMPT = re.compile(r"\n\n(?=>>> )")


def rewritten(text: str) -> str:
  """A docstring in Markdown.

  >>> rewritten("Adds.\\n\\n.. math:: a + b\\n\\n>>> 1 + 1\\n2")
  'Adds.\\n\\n$$\\na + b\\n$$\\n\\nExamples:\\n  >>> 1 + 1\\n  2'
  """

  def displayed(match: re.Match) -> str:
    indent, formula = match[1], " ".join(match[2].split())
    return "\n".join(indent + line for line in ("$$", formula, "$$")) + "\n"

  text = _MATH.sub(displayed, text)
  text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
  text = _EXAMPLE.sub(r"\1Examples:", text)
  parts = _PROMPT.split(text, maxsplit=1)
  if len(parts) == 2:
    text = f"{parts[0]}\n\nExamples:\n{textwrap.indent(parts[1], '  ')}"
  return text.rstrip("\n")


class Docstrings(griffe.Extension):
  """Rewrites every docstring before it is parsed."""

  def on_object(self, *, obj: griffe.Object, **_) -> None:
    if obj.docstring is not None:
      obj.docstring.value = rewritten(obj.docstring.value)
