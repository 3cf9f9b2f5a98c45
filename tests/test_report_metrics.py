"""Reports of studies that are measured by something else than the accuracy of images."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import report as report_command
from experiments.reporting import curves, documents, drawing, findings, plots, report, tables
from experiments.reporting.formats import heading
from experiments.reporting.results import check_results, load_results
from tests.test_report import Page, column, make_results, row_of

RESULTS = Path(report_command.__file__).parent / "results"
# Test F1 by seed.
SCORES = {
  "scratch": [0.80, 0.81, 0.82],
  "token_kd": [0.81, 0.82, 0.83],
  "structural_kd": [0.84, 0.85, 0.86],
}
TITLES = {"scratch": "from scratch", "token_kd": "token KD", "structural_kd": "Structural KD"}
OTHERS = {"precision": "precision", "recall": "recall", "token_accuracy": "token accuracy"}
METRIC = {
  "key": "f1",
  "label": "F1",
  "others": [{"key": key, "label": label} for key, label in OTHERS.items()],
  "examples": "sentences",
}


def make_tagging_results(**changes):
  """Results of three methods on named entities: 4 epochs, the weights of both distilling ones alike."""
  rows, points, methods = [], [], {}
  for name, values in SCORES.items():
    methods[name] = {"title": TITLES[name], "phases": [{"name": "distil", "epochs": 4}]}
    for seed, value in enumerate(values):
      measured = {"f1": value, "precision": 0.7, "recall": 0.9, "token_accuracy": 0.96}
      measured["agreement"] = 0.97
      rows.append({"method": name, "seed": seed, "phase": "distil", "epochs": 4, "best_epoch": 3})
      rows[-1] |= {"validation": {"best": 0.88, "last": 0.87}, "timing": {"seconds": 60.0}}
      rows[-1]["test"] = {"best": measured, "last": {**measured, "f1": 0.79}}
      rows[-1]["timing"]["examples_per_second"] = 512.0
      for epoch in range(1, 5):
        points.append({"method": name, "seed": seed, "phase": "distil", "epoch": epoch})
        points[-1]["validation_f1"] = 0.2 * epoch
        share = epoch / 4
        weights = {f"{name}_weight": 0.5 * (1 - share), "labels_weight": share}
        points[-1]["schedules"] = {} if name == "scratch" else weights
  results = {
    "schema_version": 1,
    "study": "entities",
    "complete": True,
    "metric": METRIC,
    "case": {"name": "2a", "teacher": "linear-chain CRF", "student": "MaxEnt"},
    "dataset": {"name": "entities", "train": 1000, "validation": 100, "test": 200},
    "teacher": {"model": "CRF", "parameters": 800, "test_f1": 0.90, "validation_f1": 0.91},
    "student": {"model": "MaxEnt", "parameters": 80},
    "methods": methods,
    "rows": rows,
    "curves": points,
  }
  results["teacher"]["test"] = {"f1": 0.90, "precision": 0.89, "recall": 0.92}
  return check_results(results | changes)


@pytest.fixture
def text(monkeypatch):
  """Renders results as Markdown, without the figures' pixels."""
  monkeypatch.setattr(drawing, "to_png", lambda figure: b"")
  return lambda results: documents.to_markdown(report.blocks(results))


@pytest.mark.parametrize("study", ["digits", "cifar10_subset"])
def test_results_without_a_metric_give_the_report_they_always_gave(study, text):
  expected = (RESULTS / study / "report.md").read_text("utf-8")
  assert text(load_results(RESULTS / study)) == expected


def test_accuracy_of_images_may_be_stated(text):
  stated = {"key": "accuracy", "label": "accuracy", "examples": "images"}
  assert text(make_results(metric=stated)) == text(make_results())


def test_main_table_of_f1():
  table = tables.main_table(make_tagging_results())
  assert table.header == [
    "Method",
    "Seeds",
    "Test F1, %\nmean ± sd\n95 % interval",
    "Last epoch,\ntest, %",
    "Validation,\nbest, %",
    "Gain over\nscratch, points",
    "Gain over\ntoken KD, points",
  ]
  assert row_of(table, "Teacher")[1:] == ["–", "90.00", "–", "91.00", "–", "–"]
  # 84, 85, 86: sd 1, half-width t(0.975; 2) / sqrt 3 = 4.3027 / 1.7321 = 2.48.
  structural = row_of(table, "Structural KD")
  assert structural[1:5] == ["3", "85.00 ± 1.00\n[82.52, 87.48]", "79.00 ± 0.00", "88.00 ± 0.00"]
  assert [cell.split("\n")[0] for cell in structural[5:]] == ["+4.00", "+3.00"]
  assert row_of(table, "token KD")[6] == "–"


def test_second_baseline_is_kd_then_token_kd_then_none():
  results = make_tagging_results()
  methods = {**results["methods"], "kd": {"title": "KD"}}
  assert tables.main_table(results | {"methods": methods}).header[6] == "Gain over\nKD, points"
  rows = [row for row in results["rows"] if row["method"] != "token_kd"]
  methods = {name: spec for name, spec in methods.items() if name in ("scratch", "structural_kd")}
  table = tables.main_table(results | {"methods": methods, "rows": rows})
  assert table.header[-1] == "Gain over\nscratch, points"
  assert {len(row) for row in table.rows} == {len(table.header)}


def test_detail_table_has_what_was_measured():
  table = tables.detail_table(make_tagging_results())
  assert [cell.replace("\n", " ") for cell in table.header] == [
    "Method",
    "Precision, %",
    "Recall, %",
    "Token accuracy, %",
    "Agreement with teacher, %",
    "Time per seed",
  ]
  assert row_of(table, "Teacher")[1:] == ["89.00", "92.00", "–", "–", "–"]
  cells = [f"{value}.00 ± 0.00" for value in (70, 90, 96, 97)]
  assert row_of(table, "Structural KD")[1:] == [*cells, "60 s"]


def test_calibration_appears_where_it_was_measured():
  results = make_tagging_results()
  results["rows"][0]["test"]["best"]["ece"] = 0.03125
  table = tables.detail_table(results)
  at = column(table, "ECE")
  assert [row_of(table, name)[at] for name in ("from scratch", "token KD")] == ["0.031", "–"]
  assert column(table, "Agreement") < at


def test_other_tables_and_the_note_name_the_metric(text):
  results = make_tagging_results()
  # (85 - 81) / (90 - 81)
  assert row_of(tables.capacity_table(results), "MaxEnt, Structural KD")[3:] == ["85.00", "44.4 %"]
  assert tables.capacity_table(results).header[3] == "Test\nF1, %"
  phases = tables.phase_table(results)
  assert row_of(phases, "Structural KD: distil")[column(phases, "Sentences/s")] == "512"
  assert row_of(phases, "Structural KD: distil")[column(phases, "Test, last")] == "79.00 ± 0.00"
  assert row_of(tables.seed_table(results), "token KD")[1:] == ["81.00", "82.00", "83.00"]
  assert "Precision, recall, token accuracy and agreement are of the same checkpoint" in text(
    results
  )
  others = [*METRIC["others"], {"key": "agreement", "label": "agreement on tokens"}]
  renamed = text(make_tagging_results(metric=METRIC | {"others": others}))
  assert "token accuracy and agreement on tokens are" in renamed


def test_a_network_may_have_its_test_results_in_one_object():
  results = make_tagging_results()
  del results["teacher"]["test_f1"]
  assert row_of(tables.main_table(results), "Teacher")[2] == "90.00"


def test_parsing_study_names_its_own_metrics():
  key = "las_no_punctuation"
  metric = {
    "key": "las",
    "label": "LAS",
    "others": [{"key": key, "label": "LAS without punctuation"}],
  }
  results = make_tagging_results(metric=metric | {"examples": "sentences"})
  for row in results["rows"]:
    for which in ("best", "last"):
      row["test"][which] = {"las": row["test"][which]["f1"], key: 0.5}
  assert row_of(tables.main_table(results), "Structural KD")[2].startswith("85.00 ± 1.00")
  assert tables.detail_table(results).header[1:] == [
    "LAS without\npunctuation, %",
    "Time\nper seed",
  ]
  assert row_of(tables.detail_table(results), "token KD")[1] == "50.00 ± 0.00"


def test_paper_numbers_are_of_the_metric():
  paper = {"source": "A paper", "test_f1": {"scratch": 0.80, "structural_kd": 0.83}}
  results = make_tagging_results(paper=paper | {"test_accuracy": {"structural_kd": 0.99}})
  assert row_of(tables.main_table(results), "Structural KD")[-1] == "83.00\n(+3.00)"
  said = findings.reading(results)
  assert any("Structural KD over training from scratch: +3.00 points in the" in x for x in said)
  right = plots.scores(results).axes[1]
  assert [83.0] in [list(line.get_xdata()) for line in right.get_lines()]


def test_reading_compares_with_token_kd_and_leaves_the_binomial_error_out():
  said = " ".join(findings.reading(make_tagging_results()))
  assert "Beyond the 95 % interval, Structural KD beats token KD." in said
  assert "sampling error" not in said
  assert "the 200 test sentences are one sample" in said
  assert "sampling error" in " ".join(findings.reading(make_results()))


def test_summary_names_the_case():
  results = make_tagging_results()
  assert "Structural KD, case 2a: linear-chain CRF → MaxEnt." in findings.summary(results)
  assert "100 validation, 200 test sentences)" in findings.summary(results)
  results["case"]["marginals"] = "P(y_i)"
  assert "→ MaxEnt; the teacher's marginals: P(y_i)." in findings.summary(results)
  assert "case" not in findings.summary(make_results())
  results["dataset"] |= {"labelled": 40, "unlabelled": 1060}
  assert " test sentences; 1,060 train without labels)." in findings.summary(results)


def test_figures_name_the_metric():
  results = make_tagging_results()
  assert curves.learning_curves(results).axes[0].get_ylabel() == "validation F1, %"
  labels = [axis.get_xlabel() for axis in plots.scores(results).axes]
  assert labels == ["test F1, %: students", "test F1, %: with teacher"]
  assert plots.size(results).axes[0].get_ylabel() == "test F1, %"
  top = curves.learning_curves(results).axes[0].get_lines()[0]
  np.testing.assert_allclose(top.get_ydata(), [20, 40, 60, 80])


def test_equal_schedules_share_a_line_and_say_so():
  panel = curves.learning_curves(make_tagging_results()).axes[1]
  assert len(panel.get_lines()) == 2
  assert {text.get_text() for text in panel.texts} == {
    "labels (max 1), 2 methods",
    "structural kd and 1 more (max 0.375), 2 methods",
  }
  for line in panel.get_lines():
    assert line.get_color() == drawing.LIGHT.ink


def test_report_on_disk_speaks_of_f1_alone(tmp_path, capsys):
  results = make_tagging_results()
  (tmp_path / "results.json").write_text(json.dumps(results))
  assert report_command.main([str(tmp_path)]) == 0
  figures = [Path(name).name for name in capsys.readouterr().out.split()][2:]
  assert figures == ["learning_curves.png", "f1.png", "size.png"]
  page = (tmp_path / "report.html").read_text("utf-8")
  parser = Page()
  parser.feed(page)
  assert parser.open == []
  page = re.sub(r"data:image/png;base64,[^\"]*", "", page.partition("<body>")[2])
  for written in ((tmp_path / "report.md").read_text("utf-8"), page):
    assert "Test F1 of every seed, %" in written
    assert "Beside F1" in written
    # Tokens have an accuracy; nothing else has.
    words = re.sub(r"[Tt]oken(_| |<br>)accuracy", "", written)
    assert "accuracy" not in words.lower()
    assert not re.search(r"\bimages?\b", words.lower())


@pytest.mark.parametrize(
  ("changes", "expected"),
  [
    ({"metric": "f1"}, "metric is 'f1': expected an object"),
    ({"metric": {"label": "F1"}}, "expected key, such as f1"),
    ({"metric": {"key": "../f1", "label": "F1"}}, "expected key, such as f1"),
    ({"metric": METRIC | {"label": 1}}, "and label, such as F1"),
    ({"metric": METRIC | {"others": {"key": "recall"}}}, "metric.others is"),
    ({"metric": METRIC | {"others": [{"label": "recall"}]}}, r"metric.others\[0\] is"),
    ({"metric": METRIC | {"examples": ""}}, "metric.examples is ''"),
    ({"teacher": {"test_f1": 90.0}}, r"teacher.test_f1 is 90.0: metrics are fractions"),
    ({"teacher": {"test": {"recall": 1.5}}}, r"teacher.test.recall is 1.5"),
    ({"paper": {"test_f1": {"kd": 85}}}, r"paper.test_f1.kd is 85"),
    ({"case": "2a"}, "case is '2a': expected a JSON dict"),
    ({"metric": METRIC | {"lowest": -2}}, "metric.lowest is -2: expected a number from -1 to 0"),
    ({"metric": METRIC | {"lowest": "no"}}, "metric.lowest is 'no'"),
    ({"metric": METRIC | {"chance": 67}}, "metric.chance is 67: expected a number from 0 to 1"),
  ],
)
def test_bad_metrics_are_refused(changes, expected):
  with pytest.raises(ValueError, match=expected):
    make_tagging_results(**changes)


def test_percentages_in_rows_and_curves_are_refused():
  results = make_tagging_results()
  results["rows"][1]["test"]["last"]["precision"] = 70.0
  with pytest.raises(ValueError, match=r"rows\[1\]\.test\.last\.precision is 70\.0"):
    check_results(results)
  results = make_tagging_results()
  results["curves"][0]["validation_f1"] = -0.5
  with pytest.raises(ValueError, match=r"curves\[0\]\.validation_f1 is -0\.5"):
    check_results(results)


@pytest.mark.parametrize(("above", "said"), [(-0.05, True), (0.019, True), (0.021, False)])
def test_a_teacher_near_one_answer_to_everything_is_named_so(text, above, said):
  results = make_tagging_results(metric=METRIC | {"chance": 0.65})
  results["teacher"]["test_f1"] = 0.65 + above
  line = "has learnt little of this task beside one answer to all test sentences (65.00 %)"
  assert (line in text(results)) == said


@pytest.mark.parametrize(
  ("best", "who"), [(0.9, "Training from scratch and token KD are not"), (0.5, "No student is")]
)
def test_students_at_chance_are_named(text, best, who):
  results = make_tagging_results(metric=METRIC | {"chance": 0.5})
  means = {"scratch": 0.52, "structural_kd": best}
  for row in results["rows"]:
    row["test"]["best"]["f1"] = means.get(row["method"], 0.5) + 0.02 * (row["seed"] - 1)
  said = f"{who} better than one answer to all test sentences (50.00 %) beyond the 95 % interval."
  assert said in text(results)


CORRELATION = {
  "key": "matthews",
  "label": "Matthews correlation",
  "lowest": -1,
  "others": [{"key": "pearson", "label": "Pearson", "lowest": -1}, {"key": "f1", "label": "F1"}],
  "examples": "texts",
}


def make_correlated_results(**changes):
  """The tagging results as correlations: test values from -0.2 on, validation values from -0.4 on."""
  results = make_tagging_results()
  for row in results["rows"]:
    row["validation"] = {"best": -0.3, "last": -0.35}
    for measured in row["test"].values():
      value = measured.pop("f1") - 1
      measured |= {"matthews": value, "pearson": value / 2, "f1": 0.5}
  for point in results["curves"]:
    point["validation_matthews"] = point.pop("validation_f1") / 2 - 0.5
  results["teacher"] = {"model": "BERT", "test_matthews": -0.05, "parameters": 800}
  return check_results(results | {"metric": CORRELATION} | changes)


def test_correlations_may_be_negative(text):
  results = make_correlated_results()
  table = tables.main_table(results)
  assert row_of(table, "Teacher")[2] == "-5.00"
  assert row_of(table, "Structural KD")[2].startswith("-15.00 ± 1.00\n[-17.48, -12.52]")
  assert row_of(table, "Structural KD")[4] == "-30.00 ± 0.00"
  details = tables.detail_table(results)
  assert row_of(details, "Structural KD")[column(details, "Pearson")] == "-7.50 ± 0.50"
  assert "Test Matthews correlation" in text(results)


def test_negative_values_are_within_the_figures():
  results = make_correlated_results()
  top = curves.learning_curves(results).axes[0]
  low, high = top.get_ylim()
  # The means go from -40 to -10 %; the very first epochs may lie below the frame.
  assert low < -30
  assert -10 < high < 0
  for axis in plots.scores(results).axes:
    drawn = [x for line in axis.get_lines() for x in line.get_xdata() if isinstance(x, float)]
    low, high = axis.get_xlim()
    assert drawn
    assert low <= min(drawn) <= max(drawn) <= high
  bottom, top = plots.size(results).axes[0].get_ylim()
  assert bottom < -19
  assert top > -5


def test_intervals_end_where_the_metric_does():
  table = tables.main_table(make_tagging_results())
  assert "100.0" not in str(table.rows)
  results = make_correlated_results()
  for row, value in zip(
    (r for r in results["rows"] if r["final"]), itertools.cycle((-0.5, 0.9, 1.0))
  ):
    row["test"]["best"]["matthews"] = value
  cells = [row[2] for row in tables.main_table(results).rows[1:]]
  # 46.67 % with a half-width of 208: no correlation lies outside [-1, 1].
  assert set(cells) == {"46.67 ± 83.86\n[-100.00, 100.00]"}


def test_training_on_labels_alone_is_not_called_from_scratch(text):
  """Where students start from pretrained layers, every sentence says so."""
  results = make_correlated_results()
  results["methods"]["scratch"]["title"] = "labels alone"
  results["student"]["source"] = "from layers 1 to 3 of the teacher"
  found = text(results)
  assert "Gain over labels alone" in " ".join(found.replace("<br>", " ").split())
  assert "training on labels alone" in found
  assert "Gap closed = (method - labels alone) / (teacher - labels alone)" in found
  assert "(from layers 1 to 3 of the teacher)" in found
  assert "scratch" not in found


def test_columns_without_content_are_left_out(text):
  results = make_tagging_results()
  results["methods"].pop("scratch")
  results["rows"] = [row for row in results["rows"] if row["method"] != "scratch"]
  results["curves"] = [point for point in results["curves"] if point["method"] != "scratch"]
  found = text(results)
  assert "Gap closed" not in found
  assert "scratch" not in found


@pytest.mark.parametrize(
  ("change", "expected"),
  [
    ({"teacher": {"test_matthews": -1.5}}, r"test_matthews is -1\.5: .* from -1 to 1"),
    ({"teacher": {"test_f1": -0.1}}, r"test_f1 is -0\.1: .* from 0 to 1"),
    ({"metric": CORRELATION | {"lowest": 0}}, r"validation\.best is -0\.3: .* from 0 to 1"),
  ],
)
def test_only_what_may_be_negative_is_accepted_below_0(change, expected):
  with pytest.raises(ValueError, match=expected):
    make_correlated_results(**change)


def test_an_accuracy_below_0_is_refused():
  results = make_results()
  results["rows"][0]["validation"] = {"best": -0.3}
  with pytest.raises(ValueError, match=r"rows\[0\]\.validation\.best is -0\.3"):
    check_results(results)


def test_size_and_speed(text):
  results = make_tagging_results()
  assert tables.speed_table(results) is None
  assert "Size and speed" not in text(results)
  speed = {"bytes": 3_200_000, "latency_ms": 8.0, "examples_per_second": 500.0}
  results["teacher"] |= speed
  results["student"] |= {"bytes": 320_000, "latency_ms": 0.5, "examples_per_second": 2000.0}
  table = tables.speed_table(results)
  assert table.header == [
    "Network",
    "Parameters",
    "Weights,\nMB",
    "One sentence,\nms",
    "Sentences/s",
  ]
  assert row_of(table, "Teacher")[1:] == ["800", "3.2", "8", "500"]
  assert row_of(table, "Student")[1:] == ["80", "0.32", "0.5", "2,000"]
  assert table.rows[-1][1:] == ["10×", "10×", "16×", "0.25×"]
  assert "## Size and speed" in text(results)
  del results["student"]["latency_ms"]
  assert tables.speed_table(results).rows[-1][3] == "–"


def test_heading_keeps_the_unit_with_the_last_word():
  assert heading("UAS") == "UAS, %"
  assert heading("UAS without punctuation") == "UAS without\npunctuation, %"
