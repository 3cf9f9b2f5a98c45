"""The study's report: statistics, tables, sentences, both renderings, and bad input."""

import html.parser
import json
import re

import numpy as np
import pytest
from scipy import stats

from experiments import report as report_command
from experiments.command_line import console
from experiments.reporting import curves, documents, drawing, findings, plots, report, tables
from experiments.reporting.comparison import comparison
from experiments.reporting.results import check_results
from experiments.reporting.statistics import estimate, excludes_zero, paired_difference, pick
from tests.commands import run_here

# Test accuracies by seed: `strong` beats scratch at every seed, `weak` only wavers around it.
ACCURACIES = {
  "scratch": [0.880, 0.884, 0.882, 0.886, 0.881],
  "kd": [0.881, 0.883, 0.883, 0.885, 0.882],
  "strong": [0.890, 0.893, 0.892, 0.897, 0.891],
  "weak": [0.876, 0.889, 0.880, 0.888, 0.879],
}
TITLES = {"scratch": "Scratch", "kd": "KD", "strong": "Strong-KD", "weak": "Weak-KD"}


def make_results(seeds=5, **changes):
  """Results of four methods; Strong-KD has two phases, with a temperature in the first."""
  rows, points, methods = [], [], {}
  for name, values in ACCURACIES.items():
    phases = ["anneal", "finetune"] if name == "strong" else ["train"]
    methods[name] = {
      "title": TITLES[name],
      "equation": "L = || z_s - Phi(T) z_t ||²",
      "reference": "arXiv 2104.07163",
      "settings": {"max_temperature": 4},
      "phases": [{"name": phase, "epochs": 8 // len(phases)} for phase in phases],
    }
    for seed, value in enumerate(values[:seeds]):
      for index, phase in enumerate(phases):
        final = index == len(phases) - 1
        measured = {"accuracy": value if final else 0.5, "agreement": 0.9, "ece": 0.02}
        measured["kl_to_teacher"] = 0.25
        row = {"method": name, "seed": seed, "phase": phase, "epochs": 8 // len(phases)}
        row |= {"final": final, "best_epoch": 3, "validation": {"best": 0.9, "last": 0.89}}
        row |= {"test": {"best": measured, "last": {**measured, "accuracy": 0.871}}}
        row["timing"] = {"seconds": 30.0, "examples_per_second": 1000.0, "device": "cpu"}
        rows.append(row)
        for epoch in range(1, 1 + 8 // len(phases)):
          point = {"method": name, "seed": seed, "phase": phase, "epoch": epoch}
          point["validation_accuracy"] = 0.5 + 0.04 * epoch
          point["schedules"] = {"temperature": 5.0 - epoch} if phase == "anneal" else {}
          points.append(point)
  results = {
    "schema_version": 1,
    "study": "synthetic",
    "complete": True,
    "config": {"batch_size": 128, "optimiser": {"name": "sgd"}},
    "command": "python -m experiments.study synthetic",
    "device": {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1},
    "versions": {"jax": "0.10.2"},
    "dataset": {"name": "digits", "train": 1200, "validation": 237, "test": 360},
    "teacher": {"model": "resnet-56", "parameters": 800, "test_accuracy": 0.93},
    "student": {"model": "resnet-8", "parameters": 80},
    "methods": methods,
    "paper": {"source": "A paper", "test_accuracy": {"scratch": 0.88, "kd": 0.881, "strong": 0.95}},
    "rows": rows,
    "curves": points,
  }
  return check_results(results | changes)


def test_several_versions_that_took_part_are_shown_side_by_side():
  first, second = {"jax": "0.10.1", "commit": "abc"}, {"jax": "0.10.2"}

  def shown(*made_with):
    return documents.to_markdown(report._settings(make_results(made_with=list(made_with))))

  assert "Trained with several versions" not in shown() + shown(first)
  text = shown(first, second)
  assert "Trained with several versions" in text
  (line,) = (line for line in text.splitlines() if "0.10.1" in line)
  assert [cell.strip() for cell in line.strip("|").split("|")] == ["jax", "0.10.1", "0.10.2"]


def row_of(table, title):
  return next(row for row in table.rows if row[0].split("\n")[0] == title)


def column(table, start):
  return next(i for i, cell in enumerate(table.header) if cell.replace("\n", " ").startswith(start))


def test_estimate_agrees_with_scipy():
  values = [0.91, 0.88, 0.905, 0.93, 0.87]
  found = estimate(values, level=0.9)
  low, high = stats.t.interval(0.9, 4, loc=np.mean(values), scale=stats.sem(values))
  np.testing.assert_allclose(found, [5, np.mean(values), np.std(values, ddof=1), low, high])


def test_estimate_by_hand():
  # Two values 0 and 2: sd = sqrt 2, half-width = t(0.975; 1) = tan(0.475 pi) times 1.
  found = estimate([0.0, 2.0])
  np.testing.assert_allclose(found[1:3], [1, np.sqrt(2)])
  np.testing.assert_allclose(found.high - 1, np.tan(0.475 * np.pi))
  assert estimate([3.0]) == (1, 3.0, None, None, None)


def test_estimate_of_equal_values_has_no_width():
  assert estimate([0.25] * 4) == (4, 0.25, 0.0, 0.25, 0.25)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_estimate_refuses_what_has_no_mean(values):
  with pytest.raises(ValueError, match="finite"):
    estimate(values)


def test_pairing_uses_shared_seeds_and_removes_their_common_part():
  values, baseline = {0: 1.1, 1: 5.2, 2: 9.3, 7: 100.0}, {2: 9.0, 1: 5.0, 0: 1.0, 5: -100.0}
  found = paired_difference(values, baseline)
  expected = stats.ttest_rel([1.1, 5.2, 9.3], [1.0, 5.0, 9.0]).confidence_interval(0.95)
  assert found.count == 3
  np.testing.assert_allclose((found.low, found.high), expected)
  assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_excludes_zero():
  assert excludes_zero(estimate([1.0, 1.1, 1.2])) is True
  assert excludes_zero(estimate([-1.0, -1.1, -1.2])) is True
  assert excludes_zero(estimate([-1.0, 1.0, 0.5])) is False
  assert excludes_zero(estimate([1.0])) is None


def test_pick_refuses_percentages_and_text():
  with pytest.raises(ValueError, match=r"88\.4: metrics are fractions"):
    pick({"test": {"best": {"accuracy": 88.4}}}, "test", "best", "accuracy")
  with pytest.raises(ValueError, match="'high'"):
    pick({"ece": "high"}, "ece")


def test_main_table_of_five_seeds():
  table = tables.main_table(make_results())
  strong = row_of(table, "Strong-KD")
  # 89.0, 89.3, 89.2, 89.7, 89.1: mean 89.26, squared deviations 0.292, sd 0.2702.
  assert strong[1] == "5"
  assert strong[column(table, "Test, %")].startswith("89.26 ± 0.27\n[88.92, 89.60]")
  assert strong[column(table, "Last epoch")] == "87.10 ± 0.00"
  # Differences 1.0, 0.9, 1.0, 1.1, 1.0: mean 1, sd sqrt(0.005), half-width 2.776 · sd / sqrt 5.
  assert strong[column(table, "Gain over scratch")] == "+1.00\n[+0.91, +1.09]\nexcludes 0"
  assert row_of(table, "Weak-KD")[column(table, "Gain over scratch")].endswith("includes 0")
  assert row_of(table, "Scratch")[column(table, "Gain over scratch")] == "–"
  assert strong[column(table, "Paper")] == "95.00\n(+7.00)"
  details = tables.detail_table(make_results())
  assert row_of(details, "Strong-KD")[1:] == [
    "90.00 ± 0.00",
    "0.250 ± 0.000",
    "0.020 ± 0.000",
    "60 s",
  ]
  assert all(len(row) == len(t.header) for t in (table, details) for row in t.rows)


def test_main_table_fits_a_terminal(capsys):
  results = make_results()
  for row in results["rows"]:
    # The widest that numbers get: a spread of tens of points.
    row["test"]["best"]["accuracy"] = row["test"]["last"]["accuracy"] = 0.2 * row["seed"]
  results["methods"]["strong"]["title"] = "Continuation-KD [b]"
  console.show_table(*tables.main_table(results))
  printed = capsys.readouterr().out
  assert max(map(len, printed.splitlines())) <= 120
  # No cell is broken over lines.
  assert "Continuation-KD [b]" in printed
  assert "[0.74, 79.26]" in printed
  assert "40.00 ± 31.62" in printed


def test_main_table_leaves_out_earlier_phases_and_phase_table_keeps_them():
  results = make_results()
  assert [row[0].split("\n")[0] for row in tables.main_table(results).rows] == [
    "Teacher",
    *TITLES.values(),
  ]
  phases = tables.phase_table(results)
  anneal = row_of(phases, "Strong-KD: anneal")
  assert anneal[column(phases, "Test, best")] == "50.00 ± 0.00"
  assert [row[0] for row in phases.rows][2:4] == ["Strong-KD: anneal", "Strong-KD: finetune"]


def test_one_seed_has_no_deviation_and_no_verdict():
  results = make_results(1)
  table = tables.main_table(results)
  assert row_of(table, "KD")[column(table, "Test, %")] == "88.10"
  assert row_of(table, "KD")[column(table, "Gain over scratch")] == "+0.10"
  said = " ".join(findings.reading(results))
  assert "too few for a verdict" in said
  assert "fewer than 3 seeds" in said
  assert "beats" not in said


def test_two_seeds_have_an_interval_but_no_verdict():
  results = make_results(2)
  table = tables.main_table(results)
  # Differences +1.0 and +0.9: 0.95 ± 12.706 · 0.05.
  gain = row_of(table, "Strong-KD")[column(table, "Gain over scratch")]
  assert gain == "+0.95\n[+0.31, +1.59]\nexcludes 0"
  assert "beats" not in " ".join(findings.reading(results))


def test_reading_names_winners_and_those_that_do_not_win():
  said = findings.reading(make_results())
  assert (
    "Beyond the 95 % interval, Strong-KD beats training from scratch; KD and Weak-KD do not."
    in said
  )
  assert any(line.startswith("Weak-KD: no difference from training from scratch") for line in said)
  assert any(
    re.match(r"Strong-KD over training from scratch: \+7\.00 .* outside our interval", x)
    for x in said
  )
  assert any("One of the 360 test examples is 0.28 points" in line for line in said)


def test_reading_says_when_a_method_is_worse():
  results = make_results()
  for row in results["rows"]:
    if row["method"] == "kd":
      row["test"]["best"]["accuracy"] -= 0.05
  said = findings.reading(results)
  assert (
    said[0]
    == "Beyond the 95 % interval, Strong-KD beats training from scratch; Weak-KD does not; KD is worse than it."
  )
  assert any(
    line.startswith("KD: is worse than training from scratch (-4.98 points") for line in said
  )


def test_the_least_gain_that_would_be_seen_is_half_of_the_paired_interval():
  # Gains over scratch, in points, of Strong-KD and Weak-KD; those of KD lie between in spread.
  halves = [
    stats.t.ppf(0.975, 4) * np.std(gains, ddof=1) / 5**0.5
    for gains in ([1.0, 0.9, 1.0, 1.1, 1.0], [-0.4, 0.5, -0.2, 0.2, -0.2])
  ]
  assert findings.within_chance(make_results()) == (
    f"With 5 seeds and this spread, gains over scratch under {halves[0]:.2f} (Strong-KD) to {halves[1]:.2f} "
    "(Weak-KD) points are within chance."
  )
  assert "fewer than 3 seeds no gain" in findings.within_chance(make_results(seeds=2))


def test_chance_has_a_row_where_it_is_known():
  metric = {"key": "accuracy", "label": "accuracy", "examples": "images", "chance": 0.125}
  row = row_of(tables.main_table(make_results(metric=metric)), "Chance")
  assert row == ["Chance", "–", "12.50", "–", "–", "–", "–", "–"]
  assert findings.chance(make_results(metric=metric)).endswith("one answer to all test images.")
  assert findings.chance(make_results()) == "No chance level is known for accuracy here."


def test_studies_side_by_side_name_what_differs():
  config = {"seeds": 5, "teacher": {"depth": 56}}
  small = make_results(config=config | {"teacher": {"depth": 20}}, seeds=3)
  table = comparison({"large": make_results(config=config), "small": small})
  assert [row[:5] for row in table.rows if row[3] == "KD"] == [
    ["large", "teacher.depth 56", "93.00", "KD", "5"],
    ["small", "teacher.depth 20", "93.00", "KD", "3"],
  ]
  assert all(len(row) == len(table.header) for row in table.rows)
  # Studies of before the option begin at seed 0.
  later = {n: make_results(config=config | {"first_seed": n}) for n in (0, 5)}
  differ = [
    row[1] for row in comparison({"old": make_results(config=config), "new": later[0]}).rows
  ]
  assert set(differ) == {"–"}
  table = comparison({"old": make_results(config=config), "new": later[5]})
  assert {(row[0], row[1]) for row in table.rows} == {
    ("old", "first_seed 0"),
    ("new", "first_seed 5"),
  }
  with pytest.raises(ValueError, match="two or more studies, got 1"):
    comparison({"large": small})
  other = make_results(metric={"key": "f1", "label": "F1"})
  with pytest.raises(ValueError, match="one metric, got large: accuracy, other: F1"):
    comparison({"large": small, "other": other})


def test_unequal_training_lengths_are_said():
  results = make_results()
  assert not any("equally long" in line for line in findings.reading(results))
  results["methods"]["strong"]["phases"][1]["epochs"] = 40
  assert any("Strong-KD 44" in line for line in findings.reading(results) if "equally long" in line)
  about_labels = "the same number of epochs in its last phase"
  assert not any(about_labels in line for line in findings.reading(results))
  results["config"]["equal_epochs"] = "labels"
  assert any(about_labels in line for line in findings.reading(results))


def test_gap_closed():
  table = tables.capacity_table(make_results())
  # Scratch 88.26, Strong-KD 89.26, teacher 93: 1.00 of 4.74 points.
  assert row_of(table, "resnet-8, Strong-KD")[1:] == ["80", "10.0×", "89.26", "21.1 %"]
  worse = {"model": "resnet-56", "parameters": 800, "test_accuracy": 0.85}
  results = make_results(teacher=worse)
  assert row_of(tables.capacity_table(results), "resnet-8, Strong-KD")[-1] == "–"
  assert any("no gap to close" in line for line in findings.reading(results))


def test_missing_test_results_are_dashes_and_said():
  results = make_results()
  for row in results["rows"]:
    row["test"] = None
  table = tables.main_table(results)
  assert row_of(table, "KD")[column(table, "Test, %")] == "–"
  assert row_of(table, "KD")[column(table, "Validation")] == "90.00 ± 0.00"
  assert (
    "Without a test result so far: training from scratch, KD, Strong-KD and Weak-KD."
    in findings.reading(results)
  )
  assert plots.scores(results) is None


def test_an_empty_study_still_gives_a_report():
  results = check_results({"schema_version": 1})
  document = report.blocks(results)
  assert "Incomplete" in documents.to_markdown(document)
  assert "Nothing to draw yet" in documents.to_html(document, "t")


def test_final_phase_is_found_where_rows_do_not_say():
  results = make_results()
  rows = [{k: v for k, v in row.items() if k != "final"} for row in results["rows"]]
  assert make_results(rows=rows)["rows"] == results["rows"]


def test_local_epochs_of_a_second_phase_are_counted_on():
  points = curves._points(make_results())["strong"]
  assert sorted({point["at"] for point in points}) == list(range(1, 9))


class Page(html.parser.HTMLParser):
  """Checks that tags close in order, and collects tags and addresses."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.addresses = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.addresses += [value for key, value in attrs if key in ("src", "srcset", "href", "action")]
    if tag not in ("meta", "img", "source", "br"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_report_on_disk(tmp_path, capsys):
  """One real run: hostile names, an incomplete study, all files, nothing loaded from elsewhere."""
  results = make_results(3, complete=False)
  results["methods"]["strong"]["title"] = "<script>alert('x')</script> | _a_ $[b](http://x.invalid)"
  results["methods"]["weak"]["title"] = r"_\frac{$"
  results["paper"]["source"] = 'see <img src="https://x.invalid/a.png">'
  (tmp_path / "results.json").write_text(json.dumps(results))
  assert report_command.main([str(tmp_path)]) == 0
  written = capsys.readouterr().out.split()
  names = ["learning_curves", "accuracy", "size"]
  expected = ["report.md", "report.html", *(f"figures/{name}.png" for name in names)]
  assert written == [str(tmp_path / name) for name in expected]
  assert not list(tmp_path.rglob("*.part"))

  page = (tmp_path / "report.html").read_text("utf-8")
  parser = Page()
  parser.feed(page)
  assert parser.open == []
  assert not {"script", "link", "iframe", "object"} & set(parser.tags)
  assert len(parser.addresses) == 6
  assert all(address.startswith("data:image/png;base64,") for address in parser.addresses)
  assert "url(" not in page
  assert "@import" not in page
  assert "&lt;script&gt;alert" in page
  assert "Incomplete: this study has not finished" in page
  assert "prefers-color-scheme: dark" in page

  text = (tmp_path / "report.md").read_text("utf-8")
  assert "<script" not in text
  assert not re.search(r"(?<!\\)\]\(http", text)
  assert r"\| \_a\_" in text
  assert "> **Incomplete" in text
  for name in names:
    assert f"](figures/{name}.png)" in text
    assert (tmp_path / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
  # Every line of a table has as many cells as its header.
  for table in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_learning_curves_show_the_temperature_beneath_and_the_phase_boundary():
  figure = curves.learning_curves(make_results(2))
  top, beneath = figure.axes
  assert beneath.get_ylabel() == "temperature"
  assert [line.get_label() for line in top.get_lines()][:4] == list(TITLES.values())
  np.testing.assert_array_equal(beneath.get_lines()[0].get_ydata(), [4, 3, 2, 1])
  assert [text.get_text() for text in top.texts] == ["Strong-KD: anneal → finetune"]
  np.testing.assert_allclose(top.get_lines()[-1].get_xdata(), 4.5)


def test_weights_that_mirror_each_other_share_a_panel():
  results = make_results(2)
  for point in results["curves"]:
    if point["method"] == "weak":
      ramp = point["epoch"] / 8
      point["schedules"] = {"label_weight": ramp, "soft_weight": 0.1 * (1 - ramp)}
  *_, panel = curves.learning_curves(results).axes
  label, soft = (line.get_ydata() for line in panel.get_lines()[:2])
  np.testing.assert_allclose(label, np.arange(1, 9) / 8)
  np.testing.assert_allclose(soft, (7 - np.arange(8)) / 7)
  assert [text.get_text() for text in panel.texts] == ["label (max 1)", "soft (max 0.0875)"]


def test_bands_are_left_out_where_they_would_cover_one_another():
  results = make_results(2)
  assert not curves.learning_curves(results).axes[0].collections
  results["methods"].pop("weak")
  for part in ("rows", "curves"):
    results[part] = [row for row in results[part] if row["method"] != "weak"]
  assert len(curves.learning_curves(results).axes[0].collections) == curves.MAX_BANDS


def test_spread_apart_keeps_order_gap_and_centre():
  places = drawing.spread_apart([1.0, 1.1, 1.2, 9.0], 1.0)
  np.testing.assert_allclose(places, [0.1, 1.1, 2.1, 9.0])


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    (None, "does not exist"),
    ('{"schema_version": 1, "rows": [', "not valid JSON"),
    ("[1]", "expected an object"),
    ('{"schema_version": 2}', "schema_version is 2"),
    ("{}", "schema_version is None"),
    ('{"schema_version": 1, "rows": 5}', "rows is 5"),
    ('{"schema_version": 1, "rows": [{"method": "kd"}]}', "needs method, seed and phase"),
    ('{"schema_version": 1, "teacher": {"test_accuracy": 93.8}}', "fractions from 0 to 1"),
    (
      '{"schema_version": 1, "rows": [{"method": "a", "seed": 0, "phase": "t"},'
      ' {"method": "a", "seed": 0, "phase": "t"}]}',
      "two rows for method a, seed 0, phase t",
    ),
  ],
)
def test_bad_results_give_one_readable_line(tmp_path, capsys, content, expected):
  if content is not None:
    (tmp_path / "results.json").write_text(content)
  assert run_here(report_command, tmp_path) == 1
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.count("\n") == 1
  assert "results.json" in captured.err
  assert expected in captured.err
  assert not (tmp_path / "report.md").exists()
