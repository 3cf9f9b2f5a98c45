"""What the commands print while they work."""

import pytest

from experiments.command_line import console, wording


@pytest.mark.parametrize(
  ("total", "before", "after"),
  [
    (1, "teacher: 1 epoch", "teacher: 1 epoch after "),
    (2, "teacher: 2 epochs", "teacher: 2 epochs after "),
  ],
)
def test_counts_of_one_are_singular(capsys, total, before, after):
  with console.Progress("teacher", total, "epochs") as progress:
    for _ in range(total):
      progress.advance()
  first, last = capsys.readouterr().out.splitlines()
  assert first == before
  assert last.startswith(after)


def test_nouns_that_end_in_es():
  assert [wording.counted(n, "processes") for n in (0, 1, 2)] == [
    "0 processes",
    "1 process",
    "2 processes",
  ]


def test_an_estimate_is_singular_too(capsys, monkeypatch):
  monkeypatch.setattr(console, "_LINE_SECONDS", 0.0)
  with console.Progress("precompute", 1, "rows") as progress:
    progress.advance()
  assert "precompute: 1/1 row, about 0 s left" in capsys.readouterr().out.splitlines()
