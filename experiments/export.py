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
import numpy as np
import tyro

from kd_jax import export
from kd_jax.checkpoints import CheckpointStore, flatten, unflatten, write_json
from kd_jax.models.safetensors_files import nest
from kd_jax.models.spec import parameter_count
from kd_jax.training.state import one_seed
from kd_jax.types import PyTree

from .command_line import console
from .command_line.asking import ask
from .deployment.formats import WRITERS, Finished, Format
from .deployment.interfaces import Interface, deployed, interface
from .pipeline import lineage, runs
from .pipeline.folder import MARKER


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
  found = find(options)
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


def find(options: Options) -> Finished:
  """Reads the network that a command line names.

  Raises:
    ValueError: there is none, or there are several.
  """
  path = _checkpoint(options.run.absolute(), options.method, options.seed)
  if path.parent.name == "steps":
    store, step = CheckpointStore(path.parent.parent), int(path.name)
  else:
    store, step = CheckpointStore(path), None
  restored = store.restore(step)
  root = lineage.study_root(path)
  source = json.loads((root / MARKER).read_text(encoding="utf-8"))["data"]
  meta, directory = restored.meta, store.directory
  name, prefix, index = meta["kind"], "", None
  if directory.name != "final":
    seeds = meta["settings"]["seeds"]
    seed = seeds[0] if options.seed is None else options.seed
    if seed not in seeds:
      raise ValueError(f"{directory} holds the seeds {seeds}, not seed {seed}")
    prefix, index = {"best": "best.", "last": "train.variables."}[options.which], seeds.index(seed)
    name = f"{meta['kind'].replace(' phase ', '-')}-seed{seed}"
    name += "-last" if options.which == "last" else ""
  elif options.which == "last":
    raise ValueError(f"{directory} holds the best epoch alone: leave --which out")
  elif options.seed is not None:
    raise ValueError(f"{directory} holds one network for all seeds: leave --seed out")
  leaves = {
    tuple(key.removeprefix(prefix).split(".")): value
    for key, value in restored.state.items()
    if key.startswith(prefix)
  }
  variables = nest(leaves)
  variables = deployed(variables if index is None else one_seed(variables, index))
  folder = directory.parent if index is None else directory.parent.parent
  return Finished(name, folder, variables, meta, restored.digest, source)


def _checkpoint(path: Path, method: str | None, seed: int | None) -> Path:
  """The one checkpoint that a path stands for."""
  if (path / MARKER).exists():
    folders = sorted((path / "students").glob("*/seeds-*"))
    found = {folder: seeds for folder in folders if (seeds := runs.seeds_of(folder))}
    if method is None:
      names = sorted({run.parent.name for run in found})
      raise ValueError(f"{path} is a study: name one of its methods, --method {'|'.join(names)}")
    found = {run: seeds for run, seeds in found.items() if run.parent.name == method}
    wanted = [run for run, seeds in found.items() if seed is None or seed in seeds]
    if not wanted:
      raise ValueError(
        f"{path} has no student of {method}" + (f" with seed {seed}" if seed is not None else "")
      )
    # Seed 0 first, also among ten runs.
    path = min(wanted, key=lambda run: found[run][0])
  elif method is not None:
    raise ValueError(f"--method goes with a study's folder, and {path} is none")
  if (path / "final" / "seals").is_dir():
    path = path / "final"
  found = list(lineage.starts(path)) if path.is_dir() else []
  if len(found) != 1 or not (_store_of(found[0]) / "seals").is_dir():
    raise ValueError(f"{path} is not a run, a phase or a checkpoint of one network")
  return found[0]


def _store_of(path: Path) -> Path:
  return path.parent.parent if path.parent.name == "steps" else path


def check_fit(face: Interface, variables: PyTree) -> None:
  """Refuses variables that are not those of the network.

  Raises:
    CheckpointError: naming what is missing, left over or of another shape.
  """
  example = face.read(face.example(1, 4))
  template = jax.eval_shape(
    lambda key: face.model.init(key, example, train=False), jax.random.key(0)
  )
  unflatten(
    jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template), flatten(variables)
  )


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
