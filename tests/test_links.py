"""Links of the lineage: their form on disk is that of every version, and each is read back as it was."""

import dataclasses

import pytest

from experiments.domains.links import IMPORTED, Link, LinkKind

# As they stand in checkpoints and caches of studies, since the first version.
ON_DISK = {
  "data": {"kind": "data", "name": "digits 1.0.0 train, 300 examples", "digest": "1f"},
  "data of the teacher alone": {"of": "teacher", "kind": "data", "name": "n", "digest": "1f"},
  "an imported file": {"kind": "weights file", "name": "r.safetensors", "digest": "1f"},
  "an imported folder": {"kind": "weights folder", "name": "minilm", "digest": "1f"},
  "a cache": {"kind": "cache", "path": "cache", "digest": "1f"},
  "a live teacher": {"kind": "teacher", "path": "teacher/final/steps/0", "digest": "1f"},
  "an assistant": {"kind": "assistant", "path": "assistants/takd/final/steps/0", "digest": "1f"},
  "layers taken over": {"kind": "starting weights", "path": "teacher/final", "digest": "1f"},
  "pseudo classifiers": {"kind": "layer classifiers", "path": "teacher/layers", "digest": "1f"},
  "the phase before": {"kind": "phase anneal", "path": "p", "digest": "1f", "start": "best"},
  "the training of a network": {"kind": "train", "path": "teacher/train", "digest": "1f"},
}


@pytest.mark.parametrize("name", ON_DISK)
def test_a_link_is_read_and_written_as_it_is_on_disk(name):
  said = ON_DISK[name]
  link = Link.from_json(said)
  assert link.to_json() == said
  assert link.title == said["kind"]
  assert (link.kind in IMPORTED) == name.startswith("an imported")


def test_every_kind_of_link_is_among_them():
  assert {Link.from_json(said).kind for said in ON_DISK.values()} == set(LinkKind)


def test_a_phase_and_a_training_keep_the_name_of_the_phase():
  before = Link.from_json(ON_DISK["the phase before"])
  assert (before.kind, before.phase, before.start) == (LinkKind.PHASE, "anneal", "best")
  trained = Link.from_json(ON_DISK["the training of a network"])
  assert (trained.kind, trained.phase) == (LinkKind.TRAINING, "train")
  assert dataclasses.replace(trained, phase="distil").to_json()["kind"] == "distil"


@pytest.mark.parametrize("said", [None, "data", {"kind": "data"}, {"digest": "1f"}, ["data", "1f"]])
def test_what_is_no_link_is_refused(said):
  with pytest.raises(ValueError, match="must have a kind and a digest"):
    Link.from_json(said)
