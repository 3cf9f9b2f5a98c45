"""The weights that networks for texts start from."""

from typing import Any

from kd_jax.data.texts import TextDataset
from kd_jax.models import hf_config, hf_weights, text_params
from kd_jax.models.word_embedding import VOCABULARY, WORDS, freeze_words, thaw, vocabulary_table
from kd_jax.types import PyTree

from .domain import Initial
from .links import Link
from .text_networks import Resolved
from .text_sources import folder_link


def initial(network: Resolved, fresh: PyTree, taught: PyTree | None) -> Initial | None:
  """What a network takes over.

  Args:
    network: which.
    fresh: the shapes of its variables.
    taught: the parameters of the teacher, for what starts from it.
  """
  spec, kept, link = network.spec, network.kept, None
  taken: dict[str, Any] = {}
  if network.start is not None:
    given, folder = taught, network.start.folder
    if folder is not None:
      given, link = hf_weights.load_bert(folder), folder_link(folder)
    given = given if kept is None else text_params.cut_words(given, kept)
    taken = text_params.taken_over(spec, thaw(fresh)["params"], given)
  if not taken and kept is None:
    return None
  variables = freeze_words(taken) if spec.freeze_words else {"params": taken}
  if kept is not None:
    size, unknown = network.sizes["vocab_size"], network.tokenizer.unknown_id
    table = vocabulary_table(kept, size, unknown)
    variables[VOCABULARY] = text_params.nest({(*WORDS, "rows"): table})
  return Initial(variables, link if taken else None, bool(taken))


def read_classifier(teacher: Resolved, train: TextDataset) -> tuple[PyTree, Link]:
  """The parameters of a teacher's folder that holds a classifier of this very task, and the link to it.

  Raises:
    ValueError: it has no classifier, or one of another set of labels.
  """
  folder = teacher.start.folder
  if hf_config.problem_type(folder) == "multi_label_classification":
    raise ValueError(
      f"the classifier in {folder} answers each label by itself (multi_label_classification): the "
      "teacher must choose one of them"
    )
  params = hf_weights.load_bert(folder)
  if "classifier" not in params:
    raise ValueError(
      f"{folder} has no classifier: fine-tune the teacher (--finetune-teacher), or name a folder whose "
      "network was fine-tuned on this task"
    )
  outputs = params["classifier"]["bias"].shape[0]
  if outputs != train.num_classes:
    raise ValueError(
      f"the classifier in {folder} has {outputs} outputs, {train.name} has {train.num_classes}: teacher "
      "and student need one set of labels"
    )
  names, found = train.class_names, hf_config.read_labels(folder)
  if found is not None and names and [n.lower() for n in found] != [n.lower() for n in names]:
    raise ValueError(
      f"the classifier in {folder} is of {', '.join(found)}, {train.name} of {', '.join(names)}: "
      "teacher and student need one set of labels, in one order"
    )
  return params, folder_link(folder)
