"""Writes a finished network to a file that other programs read.

    python -m experiments.export RUN --to safetensors|onnx|stablehlo [--seed 1] [--which last] [--out FILE]

RUN is a run, a phase or a checkpoint; a study's folder with --method; or a teacher's or assistant's folder.
Beside the file lies FILE.json: what the network reads and returns by name, what its numbers stand for, and
the digest of the checkpoint that it came from.

safetensors   weights alone: a CIFAR ResNet with PyTorch's names, a BERT as a Hugging Face folder, any other
              network with the names of its Flax variables joined by dots
onnx          a program with its weights, run once in onnxruntime and compared before it is put in place
stablehlo     the same for `jax.export.deserialize`, on CPU, CUDA and TPU
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from kd_jax import export
from kd_jax.checkpoints import write_json
from kd_jax.models.spec import parameter_count
from kd_jax.types import PyTree

from .command_line import console
from .command_line.asking import ask
from .deployment.finding import check_fit, find
from .deployment.formats import WRITERS, Format
from .deployment.interfaces import Interface, interface


@dataclasses.dataclass(frozen=True)
class Options:
  """A finished network in a file for other programs."""

  run: tyro.conf.Positional[Path]
  """A run, a phase, a checkpoint, a study's folder (with --method), or a teacher's folder."""
  to: Format = "safetensors"
  """Which kind of file."""
  method: str | None = None
  """Whose student, where RUN is a study's folder."""
  seed: int | None = None
  """Which student of those trained together; by default the first."""
  which: Literal["best", "last"] = "best"
  """Of the epochs: the best on the validation split, or the last."""
  out: Path | None = None
  """The file (or folder) to write; by default in RUN/export/."""
  length: int = 128
  """Tokens that sentences are padded to, for taggers and parsers with a transformer; others leave it free."""
  data_dir: Path | None = None
  """Prepared TFDS data, read only where an old checkpoint does not say the shape of images."""


def main(argv: Sequence[str] | None = None) -> int:
  options = ask(Options, argv, "export")
  found = find(options.run, options.method, options.seed, options.which)
  face = interface(
    found.meta, found.source, found.variables, length=options.length, data_dir=options.data_dir
  )
  check_fit(face, found.variables)
  path = options.out or found.folder / "export" / f"{found.name}.{options.to}"
  path.parent.mkdir(parents=True, exist_ok=True)
  said = {
    "network": face.label,
    "kind": found.meta["kind"],
    "digest": found.digest,
    "parents": json.dumps(found.meta["parents"]),
  }
  path = WRITERS[options.to](path, face, found, said)
  size = sum(f.stat().st_size for f in ([path] if path.is_file() else path.iterdir()))
  outputs = _shapes(face, found.variables)
  write_json(
    path.with_name(path.name + ".json"),
    {
      **said,
      "parents": found.meta["parents"],
      "parameters": parameter_count(found.variables),
      "bytes": size,
      "settings": found.meta["settings"],
      "inputs": {name: [list(given.shape), given.dtype] for name, given in face.inputs.items()},
      "constraints": list(face.constraints),
      "outputs": outputs,
      **face.kept,
    },
  )
  console.say(
    f"{face.label}, {parameter_count(found.variables):,} parameters: {size:,} bytes in {path}"
  )
  if options.to != "safetensors":
    for verb, parts in (("reads", face.inputs), ("gives", outputs)):
      listed = [f"{name} {_listed(*parts[name])}" for name in parts]
      console.say(f"{verb} {'; '.join(listed)}")
  return 0


def _listed(shape: Sequence[int | str], dtype: str) -> str:
  return f"{dtype}[{', '.join(map(str, shape))}]"


def _shapes(face: Interface, variables: PyTree) -> dict[str, Any]:
  """Name -> [dimensions, type] of what the network returns."""
  function = export.dict_function(face.function(variables))
  found = jax.eval_shape(function, export.abstract(face.inputs, face.constraints))
  return {
    name: [[d if isinstance(d, int) else str(d) for d in leaf.shape], str(leaf.dtype)]
    for name, leaf in found.items()
  }


if __name__ == "__main__":
  sys.exit(console.run(main))
