"""Tag schemes of named entities: BIO (IOB1), BIO2 and BIOES, their checks and conversions.

tokens   Marie  Curie  Paris  Lyon   left
BIO      I-PER  I-PER  I-LOC  B-LOC  O       B- only where an entity touches one of its own type
BIO2     B-PER  I-PER  B-LOC  B-LOC  O       every entity begins with B-
BIOES    B-PER  E-PER  S-LOC  S-LOC  O       ends are marked, entities of one token are S-
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

SCHEMES = ("BIO2", "BIOES", "BIO")  # the earlier wins where a file fits several
OUTSIDE = "O"
_PREFIXES = {"BIO": "BI", "BIO2": "BI", "BIOES": "BIES"}
_NUMBERED = "SBIE"  # the order of an entity type's four tags in the numbering of the library


class Span(NamedTuple):
  """One entity.

  Attributes:
    start: position of its first token.
    end: position of its last token.
    label: its type.
  """

  start: int
  end: int
  label: str


def tag_names(entity_types: Sequence[str]) -> tuple[str, ...]:
  """Names the BIOES tags by their numbers: O, then S-, B-, I- and E- of each type in turn.

  Args:
    entity_types: R names.

  Returns:
    4R+1 names.

  >>> tag_names(["PER"])
  ('O', 'S-PER', 'B-PER', 'I-PER', 'E-PER')
  """
  return (OUTSIDE, *(f"{prefix}-{label}" for label in entity_types for prefix in _NUMBERED))


def _split(tag: str) -> tuple[str, str]:
  """("B", "PER") of B-PER, ("O", "") of O, and a first part that no scheme has for anything else."""
  if tag == OUTSIDE:
    return OUTSIDE, ""
  prefix, hyphen, label = tag.partition("-")
  return (prefix, label) if len(prefix) == 1 and hyphen and label else ("", "")


def find_error(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
  """Finds the first place where tags break the rules of a scheme.

  Args:
    tags: of one sentence.
    scheme: one of `SCHEMES`.

  Returns:
    (position, what is wrong there), or None for a well-formed sequence.

  Raises:
    ValueError: unknown scheme.

  >>> find_error(["B-PER", "O", "I-PER"], "BIO2")
  (2, 'I-PER after O is not BIO2')
  >>> find_error(["B-PER", "O", "I-PER"], "BIOES")
  (0, 'B-PER before O is not BIOES')
  """
  allowed = _PREFIXES[check_scheme(scheme)]
  before, before_label = OUTSIDE, ""
  for position, tag in enumerate([*tags, OUTSIDE]):
    prefix, label = _split(tag)
    if prefix not in (*allowed, OUTSIDE):
      kinds = ", ".join(f"{one}-TYPE" for one in allowed)
      return position, f"{tag!r} is no {scheme} tag (O, {kinds})"
    inside = before in "BI" and label == before_label  # an entity of this type is open
    if scheme == "BIOES" and before in ("B", "I") and not (inside and prefix in "IE"):
      follower = tag if position < len(tags) else "the end"
      return position - 1, f"{tags[position - 1]} before {follower} is not BIOES"
    must_continue = {"BIO": prefix == "B", "BIO2": prefix == "I", "BIOES": prefix in "IE"}
    if must_continue[scheme] and not inside:
      previous = tags[position - 1] if position else "the start"
      return position, f"{tag} after {previous} is not {scheme}"
    before, before_label = prefix, label
  return None


def check_scheme(scheme: str) -> str:
  """Returns `scheme` if it is a known one; raises ValueError listing the known ones."""
  if scheme not in SCHEMES:
    raise ValueError(f"unknown tag scheme {scheme!r}; known are {', '.join(SCHEMES)}")
  return scheme


def spans(tags: Sequence[str], scheme: str = "BIOES") -> tuple[Span, ...]:
  """Reads the entities off a well-formed tag sequence.

  Args:
    tags: of one sentence.
    scheme: one of `SCHEMES`.

  Returns:
    The entities from left to right.

  Raises:
    ValueError: unknown scheme, or tags that break its rules.

  >>> spans(["S-LOC", "O", "B-PER", "E-PER"])
  (Span(start=0, end=0, label='LOC'), Span(start=2, end=3, label='PER'))
  """
  error = find_error(tags, scheme)
  if error:
    raise ValueError(f"position {error[0]}: {error[1]}; correct the tags or name their scheme")
  found: list[Span] = []
  for position, tag in enumerate(tags):
    prefix, label = _split(tag)
    if prefix == OUTSIDE:
      continue
    last = found[-1] if found else None
    if prefix in "BS" or last is None or last.end < position - 1 or last.label != label:
      found.append(Span(position, position, label))
    else:
      found[-1] = last._replace(end=position)
  return tuple(found)


def span_tags(entities: Iterable[Span], length: int, scheme: str = "BIOES") -> tuple[str, ...]:
  """Writes entities as tags: the inverse of `spans`.

  Args:
    entities: spans that do not overlap, in any order.
    length: n.
    scheme: one of `SCHEMES`.

  Returns:
    n tags.

  Raises:
    ValueError: unknown scheme; spans that overlap or leave the sentence.

  >>> span_tags([Span(0, 0, "LOC"), Span(1, 2, "LOC")], 4, "BIO")
  ('I-LOC', 'B-LOC', 'I-LOC', 'O')
  """
  check_scheme(scheme)
  tags = [OUTSIDE] * length
  free, touching = 0, None  # the first position not taken, and the type of the entity before it
  for start, end, label in sorted(entities):
    if not free <= start <= end < length:
      raise ValueError(
        f"entity {start}-{end} overlaps another one or leaves the sentence of {length} tokens; "
        "give spans that do not overlap, ends included"
      )
    tags[start : end + 1] = [f"I-{label}"] * (end + 1 - start)
    if scheme != "BIO" or (start == free and label == touching):
      tags[start] = f"B-{label}"
    if scheme == "BIOES":
      tags[end] = f"S-{label}" if start == end else f"E-{label}"
    free, touching = end + 1, label
  return tuple(tags)


def convert(tags: Sequence[str], source: str, target: str) -> tuple[str, ...]:
  """Rewrites well-formed tags in another scheme; the entities stay the same.

  Args:
    tags: of one sentence.
    source: the scheme they are in.
    target: the scheme wanted.

  Returns:
    As many tags.

  Raises:
    ValueError: as `spans`.

  >>> convert(["I-PER", "I-PER", "O"], "BIO", "BIOES")
  ('B-PER', 'E-PER', 'O')
  """
  return span_tags(spans(tags, source), len(tags), target)


_OTHERS = (
  ("BILOU", "UL", "write S- for U- and E- for L-, which is BIOES"),
  ("BMES", "M", "write I- for M-, which is BIOES"),
)


def other_scheme(sentences: Sequence[Sequence[str]]) -> str | None:
  """Names a scheme that is not read, if most sentences with entities are in it, and what to do.

  Args:
    sentences: tags of each.

  >>> other_scheme([["B-PER", "L-PER"], ["U-LOC", "O"]])
  'BILOU (U- and L-): write S- for U- and E- for L-, which is BIOES'
  """
  with_entities = [{tag[:2] for tag in tags} for tags in sentences if set(tags) != {OUTSIDE}]
  for name, letters, remedy in _OTHERS:
    prefixes = [f"{letter}-" for letter in letters]
    if 2 * sum(not found.isdisjoint(prefixes) for found in with_entities) > len(with_entities):
      return f"{name} ({' and '.join(prefixes)}): {remedy}"
  return None


def detect_scheme(sentences: Sequence[Sequence[str]]) -> str:
  """Names the scheme that the fewest sentences break: a few malformed ones do not mislead it.

  Args:
    sentences: tags of each.

  Returns:
    One of `SCHEMES`, the first of equals: BIO2 where there are no entities at all.

  >>> detect_scheme([["B-PER", "I-PER"], ["B-LOC", "O"], ["O", "I-LOC"]])
  'BIO2'
  """
  distinct = {tuple(tags) for tags in sentences}
  return min(
    SCHEMES, key=lambda scheme: sum(find_error(tags, scheme) is not None for tags in distinct)
  )
