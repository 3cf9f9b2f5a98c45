"""Finished studies that differ in their seeds or methods alone, joined into one by their results.json."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kd_jax.environment import distinct

from ..domains.registry import KINDS
from ..domains.study import plain
from ..reporting.formats import and_, flatten
from ..reporting.results import Results, check_results
from ..reporting.statistics import pick
from .differences import Difference, differing, short

FREE = (
  *("name", "quick", "methods", "vary", "settings", "seeds", "first_seed", "seeds_together"),
  *("cache_outputs", "paper", "papers"),
)
"""Settings that joined studies may differ in. `settings` are compared method by method, and a method that reads
more than the `cache_outputs` is refused before it is trained."""
PATHS = ("teacher_weights", "student_weights", "files", "unlabelled")
"""Settings that count by the names of their files: digests and fingerprints tell the contents."""
LATER = ("validation_fingerprint", "test_fingerprint", "start_digest", "assistant_digest")
"""What results of before 0.2 do not record."""
STUDENT = ("model", "source", "parameters", "start_digest")
NOT_MEASURED = ("timing", "digest")
"""Of a row: what may differ between two runs of one method and seed with the same result."""

Key = tuple[str, int]
"""Method and seed."""


def join(studies: Mapping[str, Results], command: str = "") -> Results:
  """The results of one study with the rows of all.

  Methods and seeds are those that any of the studies has. A method and seed that several studies have is taken
  once. Means, intervals and paired differences are not stored, so reports compute them over the union.

  Args:
    studies: checked results by the names that messages and the report call the studies, at least two. A joined
      study can be joined again.
    command: what is written down as the command of the joined study.

  Returns:
    Checked results; `parts` has devices, versions, commits and times of each study. The sizes and speeds of the
    networks are those of the first.

  Raises:
    ValueError: one study alone, a study that is not finished, or studies that differ in anything else that
      decides a result, or in the result of one method and seed.
  """
  if len(studies) < 2:
    raise ValueError(f"a join must be of two or more studies, got {len(studies)}")
  for name, results in studies.items():
    if not results.get("complete"):
      raise ValueError(f"studies must be finished, got {name}, which is not: run it to its end")
  notes = [
    note
    for one, other in itertools.combinations(studies, 2)
    for note in _refuse_other_settings(one, studies[one], other, studies[other])
  ]
  first, every = next(iter(studies.values())), list(studies.values())
  rows, owners = _joined_rows(studies)
  methods = _methods(every)
  order = {method: index for index, method in enumerate(dict.fromkeys([*methods, *_names(every)]))}
  keys = sorted(rows, key=lambda key: (order[key[0]], key[1]))
  curves = _curves(every)
  dataset = {**first["dataset"], "notes": _distinct_notes(every) + notes}
  joined = {
    **first,
    "study": " + ".join(dict.fromkeys(str(results.get("study") or "unnamed") for results in every)),
    "created": max(str(results.get("created") or "") for results in every),
    "command": command,
    "parts": _parts(studies, owners),
    "config": _common([results["config"] for results in every])
    | {"methods": list(methods), "seeds": sorted({seed for _, seed in rows})},
    "device": _same([results["device"] for results in every]),
    "versions": _same([results["versions"] for results in every]),
    "made_with": distinct([found for results in every for found in results["made_with"]]),
    "dataset": dataset,
    "assistant": next((r["assistant"] for r in every if r["assistant"]), None),
    "methods": methods,
    "paper": _paper(every),
    "rows": [row for key in keys for row in rows[key]],
    "curves": [point for key in keys for point in curves.get(key, ())],
  }
  return check_results(joined)


def _refuse_other_settings(one: str, a: Results, other: str, b: Results) -> list[str]:
  """Notes on what two studies do not both record.

  Raises:
    ValueError: something that decides a result differs.
  """
  before, after = _decisive(a), _decisive(b)
  found = [d for name in before for d in differing(name, before[name], after[name])]
  found += _teachers_differ(a["teacher"], b["teacher"])
  digests = [(r["assistant"] or {}).get("digest") for r in (a, b)]
  recorded = any("assistant_digest" in entry for r in (a, b) for entry in r["methods"].values())
  if None not in digests and not recorded:
    found += differing("assistant.digest", *digests)
  for method in a["methods"]:
    if method in b["methods"]:
      found += differing(f"methods.{method}", _method(a, method), _method(b, method))
  lacking = [d for d in found if d.name.endswith(LATER) and None in (d.old, d.new)]
  found = [difference for difference in found if difference not in lacking]
  if found:
    raise ValueError(_refusal(one, other, found))
  return [
    f"{one if difference.old is None else other} does not record {difference.name}, so it was not compared"
    for difference in lacking
  ]


def _refusal(one: str, other: str, found: list[Difference]) -> str:
  names = [difference.name for difference in found[1:]]
  more = names[:2] + ([f"{len(names) - 2} more"] if len(names) > 2 else [])
  first = found[0]
  return (
    f"joined studies must differ in methods and seeds alone, got {one} and {other} with {first.name} "
    f"{short(first.old, 60)} and {short(first.new, 60)}"
    + (f"; {and_(more)} {'differ' if len(more) > 1 else 'differs'}, too" if more else "")
    + ": compare them without --join"
  )


def _decisive(results: Results) -> dict[str, Any]:
  """What decides the results of every method, by name."""
  return {
    "config": _config(results),
    "dataset": {key: value for key, value in results["dataset"].items() if key != "notes"},
    "metric": results.get("metric"),
    "case": results["case"],
    "teacher": {"model": results["teacher"].get("model")},
    "student": {key: results["student"].get(key) for key in STUDENT},
  }


def _config(results: Results) -> dict[str, Any]:
  config = _filled(results["config"], _defaults(results))
  config = {key: value for key, value in config.items() if key not in FREE}
  for key in PATHS:
    if isinstance(config.get(key), str):
      config[key] = Path(config[key]).name
    elif isinstance(config.get(key), list):
      config[key] = [Path(str(path)).name for path in config[key]]
  return config


def _defaults(results: Results) -> dict[str, Any]:
  """The defaults of the kind of study, for settings that are younger than the results."""
  # The kind is the one with most of the settings: some may be of another version.
  kinds = [dataclasses.fields(kind.study) for kind in KINDS.values()]
  fields = max(kinds, key=lambda fields: sum(field.name in results["config"] for field in fields))
  return {field.name: plain(_default(field)) for field in fields}


def _default(field: dataclasses.Field) -> Any:
  made = field.default_factory
  return field.default if made is dataclasses.MISSING else made()


def _filled(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
  """Nested settings with the defaults of those that are absent."""
  filled = {**defaults, **settings}
  for key in settings.keys() & defaults.keys():
    if isinstance(settings[key], dict) and isinstance(defaults[key], dict):
      filled[key] = _filled(settings[key], defaults[key])
  return filled


def _teachers_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
  """Two digests, unless one network is the other with pseudo classifiers, which `cache_outputs` ask for."""
  if one.get("digest") == other.get("digest"):
    return []
  before, after = (list(network.get("made_from") or ()) for network in (one, other))
  if before[:1] == after[:1] != [] and len(before) != len(after):
    return []
  return [Difference("teacher.digest", one.get("digest"), other.get("digest"))]


def _method(results: Results, name: str) -> dict[str, Any]:
  """What decides the results of one method."""
  entry = results["methods"][name]
  own = entry.get("method") or name.partition(".")[0]
  defaults = (_defaults(results).get("settings") or {}).get(own) or {}
  described = entry.get("description")
  return {
    "phases": entry.get("phases"),
    "settings": _filled(entry.get("settings") or {}, defaults),
    "description": described,
    "assistant_digest": entry.get("assistant_digest"),
  }


def _joined_rows(
  studies: Mapping[str, Results],
) -> tuple[dict[Key, list[dict[str, Any]]], dict[Key, str]]:
  """The rows of each method and seed, and the first study that has them.

  Raises:
    ValueError: two studies have different ones.
  """
  rows: dict[Key, list[dict[str, Any]]] = {}
  owners: dict[Key, str] = {}
  for name, results in studies.items():
    for key, found in _by_key(results["rows"]).items():
      owner = owners.setdefault(key, name)
      if owner != name:
        _refuse_other_values(key, owner, rows[key], name, found)
      rows.setdefault(key, found)
  return rows, owners


def _refuse_other_values(key: Key, one: str, old: list, other: str, new: list) -> None:
  measured = [
    {
      row["phase"]: {name: value for name, value in row.items() if name not in NOT_MEASURED}
      for row in found
    }
    for found in (old, new)
  ]
  if measured[0] == measured[1]:
    return
  flat = [{"phases": ", ".join(values), **flatten(values)} for values in measured]
  name = next(name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name))
  raise ValueError(
    f"{one} and {other} both have {key[0]} with seed {key[1]}, but with {name} {flat[0].get(name)} and "
    f"{flat[1].get(name)}: evaluate one of them without it (--methods, --first-seed, --seeds)"
  )


def _by_key(rows: Iterable[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
  found: dict[Key, list[dict[str, Any]]] = {}
  for row in rows:
    found.setdefault((row["method"], row["seed"]), []).append(row)
  return found


def _curves(every: list[Results]) -> dict[Key, list[dict[str, Any]]]:
  """The curves of each method and seed, of the first study that has any."""
  found: dict[Key, list[dict[str, Any]]] = {}
  for results in every:
    for key, points in _by_key(results["curves"]).items():
      found.setdefault(key, points)
  return found


def _methods(every: list[Results]) -> dict[str, Any]:
  """Every method; of two titles the longer one, which has the value of an option that is varied."""
  found: dict[str, Any] = {}
  for results in every:
    for name, entry in results["methods"].items():
      titles = [str(e["title"]) for e in (found.get(name, entry), entry) if e.get("title")]
      found[name] = {
        **found.get(name, entry),
        **({"title": max(titles, key=len)} if titles else {}),
      }
  return found


def _names(every: list[Results]) -> list[str]:
  return [row["method"] for results in every for row in results["rows"]]


def _parts(studies: Mapping[str, Results], owners: Mapping[Key, str]) -> list[dict[str, Any]]:
  """What was joined: every study or, if it is a joined one, its parts; with the seeds taken from each."""
  found: list[dict[str, Any]] = []
  for name, results in studies.items():
    for part in results["parts"] or [_itself(name, results)]:
      taken = {
        method: kept
        for method, seeds in part["seeds"].items()
        if (kept := [seed for seed in seeds if owners.get((method, seed)) == name])
      }
      # A part that was joined before is there already.
      again = [all(old[k] == part.get(k) for k in old.keys() - {"name", "seeds"}) for old in found]
      if taken or not any(again):
        found.append({**part, "seeds": taken})
  return found


def _itself(name: str, results: Results) -> dict[str, Any]:
  """A study as a part of another."""
  seconds = [pick(row, "timing", "seconds") for row in results["rows"]]
  seeds: dict[str, list[int]] = {}
  for method, seed in _by_key(results["rows"]):
    seeds.setdefault(method, []).append(seed)
  return {
    "name": name,
    "study": results.get("study"),
    "created": results.get("created"),
    "command": results.get("command"),
    "device": results["device"],
    "versions": results["versions"],
    "made_with": results["made_with"],
    "seconds": sum(filter(None, seconds)),
    "teacher_seconds": pick(results["teacher"], "seconds"),
    "seeds": seeds,
  }


def _common(settings: list[dict[str, Any]]) -> dict[str, Any]:
  """The settings that are the same in all, nested ones too."""
  found = {}
  for key, value in settings[0].items():
    values = [other.get(key) for other in settings]
    if all(other == value for other in values):
      found[key] = value
    elif all(isinstance(other, dict) for other in values):
      found[key] = _common(values)
  return found


def _same(values: list[dict[str, Any]]) -> dict[str, Any]:
  """The value of all, or {}."""
  return values[0] if all(value == values[0] for value in values) else {}


def _distinct_notes(every: list[Results]) -> list[str]:
  notes = (note for results in every for note in results["dataset"].get("notes") or ())
  return list(dict.fromkeys(notes))


def _paper(every: list[Results]) -> dict[str, Any] | None:
  """The published numbers; the joined study differs from their setting in what any part does."""
  papers = [results["paper"] for results in every if results["paper"]]
  if not papers:
    return None
  if not any("differing" in paper for paper in papers):
    return papers[0]
  differing_in = (name for paper in papers for name in paper.get("differing") or ())
  return papers[0] | {"differing": list(dict.fromkeys(differing_in))}
