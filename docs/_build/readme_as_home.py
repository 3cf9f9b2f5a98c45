"""Makes the README the site's first page, and formulas of docstrings what the site's renderer reads."""

import re
from pathlib import Path

from mkdocs.structure.files import File

README = Path(__file__).parents[2] / "README.md"


def on_files(files, config):
  """The README, whose links are to docs/, as the first page."""
  text = README.read_text(encoding="utf-8").replace("](docs/", "](")
  text = text.replace("](experiments/", "](../experiments/")
  files.append(File.generated(config, "index.md", content=text))
  return files


def on_page_markdown(markdown, page, config, files):
  """Links into the repository stay text: the site does not hold what they lead to."""
  return re.sub(r"!?\[([^\]]*)\]\((?:\.\./|CHANGELOG|CONTRIBUTING)[^)]*\)", r"\1", markdown)
