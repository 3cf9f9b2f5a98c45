"""Counts with their nouns."""


def noun(count: float, plural: str) -> str:
  """A noun in the number that a count asks for; regular nouns alone.

  >>> noun(1, "epochs"), noun(0, "epochs"), noun(1, "processes")
  ('epoch', 'epochs', 'process')
  """
  if count != 1:
    return plural
  return plural.removesuffix("es") if plural.endswith("sses") else plural.removesuffix("s")


def counted(count: int, plural: str) -> str:
  """A count and its noun.

  >>> counted(1, "epochs"), counted(1200, "rows")
  ('1 epoch', '1,200 rows')
  """
  return f"{count:,} {noun(count, plural)}"
