"""Reads and checks a study's results.json."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .metric import check_fractions

SCHEMA_VERSION = 1
Results = dict[str, Any]


def load_results(directory: str | os.PathLike[str]) -> Results:
  """A study's results, checked for all that the report relies on.

  Raises:
    ValueError: the file is missing or broken, or of another schema; one line says which.
  """
  path = Path(directory) / "results.json"
  try:
    # NaN and Infinity are no JSON: a number that a run could not give counts as missing.
    results = json.loads(path.read_text("utf-8"), parse_constant=lambda _: None)
  except FileNotFoundError:
    raise ValueError(f"{path} does not exist: run the study with this directory first") from None
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} cannot be read: {error}") from None
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(
      f"{path} is not valid JSON ({error}): run the study again, it writes the file anew"
    ) from None
  try:
    return check_results(results)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def to_json(results: dict[str, Any]) -> str:
  """JSON with a line for each field, and for each row and point of a curve."""
  fields = []
  for name, value in results.items():
    if isinstance(value, list):
      lines = ",\n  ".join(json.dumps(item) for item in value)
      fields.append(f'"{name}": [\n  {lines}\n ]')
    else:
      fields.append(f'"{name}": {json.dumps(value)}')
  return "{\n " + ",\n ".join(fields) + "\n}\n"


def check_results(results: Any) -> Results:
  """The results with optional parts filled in.

  Raises:
    ValueError: another schema version, a part of the wrong type, or a row that is there twice.
  """
  if not isinstance(results, dict):
    raise ValueError(f"expected an object, found {type(results).__name__}")
  version = results.get("schema_version")
  if version != SCHEMA_VERSION or isinstance(version, bool):
    raise ValueError(
      f"schema_version is {version!r}, this report reads {SCHEMA_VERSION}: "
      "use the version of the report that belongs to the study"
    )
  results = dict(results)
  parts = (
    "config",
    "device",
    "versions",
    "dataset",
    "teacher",
    "assistant",
    "student",
    "paper",
    "case",
  )
  for name, kind in {
    **dict.fromkeys((*parts, "methods"), dict),
    "rows": list,
    "curves": list,
    "made_with": list,
    "parts": list,
  }.items():
    results[name] = kind() if results.get(name) is None else results[name]
    if not isinstance(results[name], kind):
      raise ValueError(f"{name} is {results[name]!r:.60}: expected a JSON {kind.__name__}")
  for name, spec in results["methods"].items():
    phases = spec.get("phases") or [] if isinstance(spec, dict) else None
    if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
      raise ValueError(f"methods.{name} is {spec!r:.60}: expected an object with phases")
  for index, part in enumerate(results["parts"]):
    seeds = part.get("seeds") if isinstance(part, dict) else None
    if not isinstance(seeds, dict) or not all(isinstance(s, list) for s in seeds.values()):
      raise ValueError(f"parts[{index}] is {part!r:.60}: expected an object with seeds by method")
    for name in ("device", "versions"):
      if not isinstance(part.get(name) or {}, dict):
        raise ValueError(f"parts[{index}].{name} is {part[name]!r:.60}: expected an object")
  for part in ("rows", "curves"):
    for index, row in enumerate(results[part]):
      if not isinstance(row, dict) or not {"method", "seed", "phase"} <= row.keys():
        raise ValueError(f"{part}[{index}] is {row!r:.60}: it needs method, seed and phase")
      if not isinstance(row["method"], str) or not isinstance(row["phase"], str):
        raise ValueError(f"{part}[{index}] is {row!r:.60}: method and phase must be text")
      if not isinstance(row["seed"], int):
        raise ValueError(f"{part}[{index}].seed is {row['seed']!r}: expected a whole number")
      for key in ("timing", "schedules"):
        if not isinstance(row.get(key) or {}, dict):
          raise ValueError(f"{part}[{index}].{key} is {row[key]!r:.60}: expected an object")
  seen = set()
  for row in results["rows"]:
    key = row["method"], row["seed"], row["phase"]
    if key in seen:
      raise ValueError(f"two rows for method {key[0]}, seed {key[1]}, phase {key[2]}")
    seen.add(key)
  check_fractions(results)
  results["rows"] = [{**row, "final": _is_final(results, row)} for row in results["rows"]]
  return results


def _is_final(results: Results, row: Mapping[str, Any]) -> bool:
  if row.get("final") is not None:
    return bool(row["final"])
  phases = results["methods"].get(row["method"], {}).get("phases")
  return not phases or phases[-1].get("name") == row["phase"]
