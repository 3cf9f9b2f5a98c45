"""What a study found, in sentences that are drawn from its numbers alone."""

from collections.abc import Mapping
from typing import Any

from ..command_line.wording import counted, noun
from .formats import and_, duration, flatten, interval, percent, plain
from .metric import metric_of
from .statistics import (
  MIN_SEEDS,
  SCRATCH,
  Estimate,
  baselines,
  estimate,
  excludes_zero,
  gain,
  labels_alone,
  method_titles,
  network_score,
  paper_score,
  pick,
  test_scores,
)

Results = Mapping[str, Any]

NEAR_CHANCE = 0.02
"""A teacher that is so little above one answer to everything has little to teach."""


def verdict(name: str, difference: Estimate) -> str:
  """What one paired difference shows, in words."""
  size = f"{percent(difference.mean, sign='+')} points"
  if difference.count < MIN_SEEDS:
    seeds = counted(difference.count, "seeds")
    return f"{size} against {name} ({seeds}: too few for a verdict)"
  size += f", {interval(difference, sign='+')}"
  if not excludes_zero(difference):
    return f"no difference from {name} beyond the interval ({size})"
  return f"{'beats' if difference.mean > 0 else 'is worse than'} {name} ({size})"


def reading(results: Results) -> list[str]:
  """The findings in plain sentences, each drawn from the numbers alone."""
  titles, bases = _spoken(results), baselines(results)
  gains = {
    name: {base: gain(results, name, base) for base in bases} for name in titles if name != SCRATCH
  }
  lines: list[str] = []
  counts: list[int] = []
  comparisons = 0
  for base in bases:
    found = {name: both[base] for name, both in gains.items() if both[base] is not None}
    judged = {name: value for name, value in found.items() if value.count >= MIN_SEEDS}
    comparisons += len(judged)
    counts += [value.count for value in found.values()]
    if judged:
      winners = [titles[name] for name, value in judged.items() if value.low > 0]
      losers = [titles[name] for name, value in judged.items() if value.high < 0]
      others = [titles[name] for name, value in judged.items() if value.low <= 0 <= value.high]
      verb, rest = ("beat" if len(winners) > 1 else "beats"), ("do" if len(others) > 1 else "does")
      line = f"Beyond the 95 % interval, {and_(winners) or 'no method'} {verb} {titles[base]}"
      line += f"; {and_(others)} {rest} not" if winners and others else ""
      if losers:
        line += f"; {and_(losers)} {'are' if len(losers) > 1 else 'is'} worse than it"
      lines.append(f"{line}.")
  for name, both in gains.items():
    said = [verdict(titles[base], value) for base, value in both.items() if value is not None]
    if said:
      lines.append(f"{titles[name]}: {'; '.join(said)}.")
  if counts and min(counts) < MIN_SEEDS:
    lines.append(
      f"Some comparisons rest on fewer than {MIN_SEEDS} seeds: an interval from so few says next "
      "to nothing, and no winner is named from them."
    )
  missing = [title for name, title in titles.items() if not test_scores(results, name)]
  if missing:
    lines.append(f"Without a test result so far: {and_(missing)}.")
  lines += _beside_chance(results, titles)
  return lines + _limits(results, comparisons) + _against_paper(results, titles, gains)


def chance(results: Results) -> str:
  """What an answer that has learnt nothing scores."""
  metric = metric_of(results)
  if metric.chance is None:
    return f"No chance level is known for {metric.label} here."
  return f"Chance is the best {metric.label} of one answer to all test {metric.examples}."


def within_chance(results: Results) -> str:
  """How large a gain the seeds and their spread alone leave undecided, in one sentence; "" without gains.

  That is half the width of the paired interval: the least gain that would exclude 0.
  """
  for base, short in baselines(results).items():
    found = {name: gain(results, name, base) for name in method_titles(results)}
    found = {name: value for name, value in found.items() if value is not None}
    if not found:
      continue
    counts = sorted({value.count for value in found.values()})
    if counts[0] < MIN_SEEDS:
      return f"With fewer than {MIN_SEEDS} seeds no gain can be told from chance."
    titles = method_titles(results)
    halves = {titles[name]: (value.high - value.low) / 2 for name, value in found.items()}
    order = sorted(halves, key=halves.get)
    ends = " to ".join(
      f"{percent(halves[title])} ({title})" for title in dict.fromkeys((order[0], order[-1]))
    )
    seeds = " to ".join(dict.fromkeys(map(str, (counts[0], counts[-1]))))
    return f"With {seeds} seeds and this spread, gains over {short} under {ends} points are within chance."
  return ""


def _beside_chance(results: Results, titles: dict[str, str]) -> list[str]:
  """Networks that have learnt little or nothing of the task, where the results say what that is."""
  lines, metric = [], metric_of(results)
  if metric.chance is None:
    return lines
  constant = f"one answer to all test {metric.examples} ({percent(metric.chance)} %)"
  ceiling = network_score(results, "teacher")
  if ceiling is not None and ceiling - metric.chance < NEAR_CHANCE:
    lines.append(
      f"The teacher ({percent(ceiling)} %) has learnt little of this task beside {constant}: differences "
      "between methods mean as little."
    )
  scores = {title: test_scores(results, name).values() for name, title in titles.items()}
  found = {title: estimate(values) for title, values in scores.items() if len(values) >= MIN_SEEDS}
  near = [title for title, value in found.items() if value.low <= metric.chance]
  if near:
    few = f"{and_(near)} {'is' if len(near) == 1 else 'are'} not"
    who = "No student is" if len(near) == len(titles) else few[0].upper() + few[1:]
    lines.append(f"{who} better than {constant} beyond the 95 % interval.")
  return lines


def _spoken(results: Results) -> dict[str, str]:
  """Method titles that a sentence can take in."""
  titles = method_titles(results)
  return titles | ({SCRATCH: _training(results)} if SCRATCH in titles else {})


def _training(results: Results) -> str:
  """Training without a teacher, as a sentence calls it."""
  short = labels_alone(results)
  return "training from scratch" if short == SCRATCH else f"training on {short}"


def _limits(results: Results, comparisons: int) -> list[str]:
  """What the intervals leave out, and a teacher that is no better than the student."""
  lines, metric = [], metric_of(results)
  scratch = test_scores(results, SCRATCH)
  examples, ceiling = pick(results["dataset"], "test"), network_score(results, "teacher")
  if comparisons > 1:
    lines.append(
      f"The {comparisons} intervals are not corrected for one another: where nothing differs, "
      "about one in 20 still excludes 0."
    )
  lengths = {
    name: sum(pick(phase, "epochs") or 0 for phase in spec["phases"])
    for name, spec in results["methods"].items()
    if spec.get("phases")
  }
  assistant = pick(results["assistant"], "seconds")
  if assistant is not None:
    lines.append(
      f"An assistant is trained beside its students ({duration(assistant)}, not in their time), once for all "
      "seeds: the spread of its method leaves out the assistant's own."
    )
  if ceiling is not None and pick(results["teacher"], "seconds") is None:
    lines.append(
      "The teacher was imported. It may have learnt from the examples held out here, so its validation "
      f"{metric.label} is not given; the students have not seen them."
    )
  if results["config"].get("equal_epochs") == "labels":
    lines.append(
      "Every method has the same number of epochs in its last phase, as many as training on the labels alone; "
      "a first phase comes on top."
    )
  if len(set(lengths.values())) > 1:
    titles = method_titles(results)
    said = [f"{titles[name]} {plain(length)}" for name, length in lengths.items()]
    lines.append(
      f"The methods do not train equally long (epochs: {', '.join(said)}): "
      "a gain over a shorter method may come from the length alone."
    )
  if scratch:
    mean = estimate(scratch.values()).mean
    if examples and metric.is_accuracy:
      error = 100 * (mean * (1 - mean) / examples) ** 0.5
      lines.append(
        f"The intervals cover the spread over seeds only. One of the {examples:,.0f} test "
        f"examples is {100 / examples:.2g} points, and an accuracy of {percent(mean)} % "
        f"measured on so many has a sampling error of about ±{error:.2g} points of its own."
      )
    elif examples:
      lines.append(
        f"The intervals cover the spread over seeds only: the {examples:,.0f} test {metric.examples} "
        f"are one sample, and how far {metric.label} would differ on another is not estimated here."
      )
    if ceiling is not None and ceiling <= mean:
      lines.append(
        f"The teacher ({percent(ceiling)} %) is no better than the student after {_training(results)} "
        f"({percent(mean)} %): there is no gap to close here."
      )
  return lines


def _against_paper(results: Results, titles: dict[str, str], gains: dict) -> list[str]:
  """The paper's gain over training without a teacher beside ours."""
  lines, floor = [], paper_score(results, SCRATCH)
  differing = (results["paper"] or {}).get("differing") or []
  if differing:
    lines.append(
      "The paper's numbers are of another setting and only for orientation; this run differs in "
      f"{and_([str(name).replace('_', ' ') for name in differing])}."
    )
  for name, both in gains.items():
    value, ours = paper_score(results, name), both.get(SCRATCH)
    if None in (floor, value, ours):
      continue
    theirs = value - floor
    line = (
      f"{titles[name]} over {titles[SCRATCH]}: {percent(theirs, sign='+')} points in the paper, "
      f"{percent(ours.mean, sign='+')} here"
    )
    if ours.count >= MIN_SEEDS and not differing:
      inside = ours.low <= theirs <= ours.high
      line += f" (the paper's is {'inside' if inside else 'outside'} our interval)"
    lines.append(line + ".")
  return lines


def summary(results: Results) -> str:
  """What was run, in one paragraph."""
  data, teacher, student = results["dataset"], results["teacher"], results["student"]
  parts = []
  if data:
    splits = {key: pick(data, key) for key in ("train", "validation", "test")}
    counts = ", ".join(f"{count:,.0f} {key}" for key, count in splits.items() if count)
    name = f"{data.get('name') or 'unnamed'} {data.get('version') or ''}".strip()
    metric = metric_of(results)
    examples = "examples" if metric.is_accuracy else metric.examples
    unlabelled = pick(data, "unlabelled")
    hidden = f"; {unlabelled:,.0f} train without labels" if unlabelled else ""
    parts.append(f"Data: {name}" + (f" ({counts} {examples}{hidden})." if counts else "."))
    all_of_teacher = pick(data, "teacher_train")
    if all_of_teacher and teacher.get("source") == "trained":
      parts.append(
        f"The teacher was trained on {all_of_teacher:,.0f} {examples}, the students on "
        f"{splits['train']:,.0f} of them."
      )
  source = f" ({teacher['source']})" if teacher.get("source") else ""
  models = [f"{teacher.get('model') or 'teacher'}{source}"]
  if results["assistant"]:
    models.append(f"{results['assistant'].get('model') or ''} (assistant)".strip())
  start = f" ({student['source']})" if student.get("source") else ""
  models.append(f"{student.get('model') or 'student'}{start}")
  parts.append(f"Teacher → student: {' → '.join(models)}.")
  parts += filter(None, [case(results)])
  epochs = [
    f"{method_titles(results)[name]} {' + '.join(plain(pick(p, 'epochs')) for p in spec['phases'])}"
    for name, spec in results["methods"].items()
    if spec.get("phases")
  ]
  seeds = len({row["seed"] for row in results["rows"]})
  settings = flatten(results["config"]).items()
  batches = {value for key, value in settings if key.split(".")[-1] == "batch_size"}
  facts = [counted(seeds, "seeds")]
  facts += [f"epochs: {', '.join(epochs)}"] if epochs else []
  facts += [f"batch size {', '.join(sorted(batches))}"] if batches else []
  parts.append("; ".join(facts) + ".")
  return " ".join([*parts, *_where(results)])


def case(results: Results) -> str:
  """Which case of Structural KD the study is of; empty where it is of none."""
  said = {key: str(value) for key, value in (results.get("case") or {}).items() if value}
  if not said:
    return ""
  models = f"{said.get('teacher', 'teacher')} → {said.get('student', 'student')}"
  marginals = f"; the teacher's marginals: {said['marginals']}" if "marginals" in said else ""
  return f"Structural KD, case {said.get('name', 'unnamed')}: {models}{marginals}."


def device_text(device: Mapping[str, Any]) -> str:
  """The device of a study, in words.

  >>> device_text({"kind": "cpu", "count": 1, "cpu_cores": 2, "processes": 1})
  '1 × cpu (2 cores), 1 process'
  """
  count, hosts = pick(device, "count") or 1, pick(device, "processes") or 1
  kind = device.get("kind") or device.get("platform") or "unknown"
  cores = pick(device, "cpu_cores")
  of = f" ({cores:g} cores)" if kind == "cpu" and cores else ""
  return f"{count:g} × {kind}{of}, {hosts:g} {noun(hosts, 'processes')}"


def _where(results: Results) -> list[str]:
  """The device and the time taken."""
  parts: list[str] = []
  joined = [part.get("device") for part in results["parts"]] or [results["device"]]
  devices = list(dict.fromkeys(device_text(device) for device in joined if device))
  if devices:
    parts.append(f"{noun(len(devices), 'Devices')}: {'; '.join(devices)}.")
  used = {str((row.get("timing") or {}).get("device") or "") for row in results["rows"]} - {""}
  if len(used) > 1:
    parts.append(f"Timings come from several devices ({', '.join(sorted(used))}).")
  times = [pick(row, "timing", "seconds") for row in results["rows"]]
  times += [pick(results[role], "seconds") for role in ("teacher", "assistant")]
  if any(times):
    parts.append(f"Training took {duration(sum(filter(None, times)))} over all models and seeds.")
  return parts
