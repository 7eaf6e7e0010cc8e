"""The folder of a run: what it is, written down once and compared when the run goes on."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib

from i3d_tf import errors
from i3d_tf import provenance
from i3d_tf import workdir
from i3d_tf.models import base
from i3d_tf.training import checkpoints
from i3d_tf.weights import release

OPTIONS = "options.json"
# What may differ when a run goes on: it changes neither batches nor weights at any step already done.
_FREE = frozenset({
    "output", "num_steps", "save_every", "keep_checkpoints", "log_every", "profile_steps", "allow_unreadable",
    "num_logical_cpus", "data_service", "recompute", "jit_compile",
})  # fmt: skip


def prepare(folder: pathlib.Path, options: Sequence, flags_text: str, *, num_replicas: int) -> None:
  """Makes the folder, or checks that the run in it is this one.

  Args:
    folder: of the run.
    options: dataclasses that together say what the run is.
    flags_text: for flags.txt, from which the run can be started again.
    num_replicas: which multiplies the batch, and so must stay, too.

  Raises:
    I3dError: if the folder holds something else, or a run with other options, naming every difference.
  """
  new = {name: value for part in options for name, value in dataclasses.asdict(part).items()}
  new = json.loads(json.dumps({**new, "num_replicas": num_replicas}))
  path = folder / OPTIONS
  if path.exists() and any((folder / checkpoints.FOLDER).glob("ckpt-*.index")):
    # A run of an earlier version lacks the options that came later, and did what they do by default.
    defaults = {
        field.name: field.default
        for part in options for field in dataclasses.fields(part) if field.default is not dataclasses.MISSING
    }  # fmt: skip
    old = {**json.loads(json.dumps(defaults)), **json.loads(path.read_text(encoding="utf-8"))}
    names = [name for name in {**old, **new} if name not in _FREE and old.get(name) != new.get(name)]
    if names:
      listed = "; ".join(f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names)
      raise errors.I3dError(f"{folder} holds a run with other options ({listed}); choose another --output or remove it")
    step = checkpoints.last_step(folder)
    if step is not None and step > new["num_steps"]:
      raise errors.I3dError(
        f"{folder} stands at step {step}, beyond --num_steps={new['num_steps']}; give at least as many, or another "
        "--output"
      )
  elif not path.exists() and folder.exists() and any(child.name != workdir.LOCK for child in folder.iterdir()):
    raise errors.I3dError(f"{folder} is not empty and holds no run of train; choose another --output")
  folder.mkdir(parents=True, exist_ok=True)
  with workdir.replacing(path) as file:
    file.write(json.dumps(new, indent=2).encode() + b"\n")
  (folder / "flags.txt").write_text(flags_text, encoding="utf-8")
  rows = "".join(f"{name}\t{value}\n" for name, value in provenance.collect().items())
  (folder / "versions.txt").write_text(rows, encoding="utf-8")


def describe(folder: pathlib.Path, model: base.Network, steps: Mapping[str, Sequence[str]]) -> None:
  """Writes the table of variables, and the steps that clips go through by what they are for."""
  trained = {variable.name for variable in model.trained_variables}
  lines = [
    f"{name}\t{'x'.join(map(str, variable.shape))}\t{'trained' if variable.name in trained else 'not trained'}"
    for name, variable in release.named_variables(model).items()
  ]
  (folder / "variables.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
  rows = [f"{purpose}\t{number}\t{step}" for purpose, names in steps.items() for number, step in enumerate(names)]
  (folder / "input_steps.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
