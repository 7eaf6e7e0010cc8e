"""The networks that are served, by name and version: checkpoints, and SavedModels in TensorFlow Serving's folders."""

from collections.abc import Callable, Mapping
import dataclasses
import os
import pathlib
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import serving
from i3d_tf.exporting import signatures as signatures_lib
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.inference import saved_model_network

_MARK = "saved_model.pb"


@dataclasses.dataclass(frozen=True, eq=False)
class ServedSignature:
  """A function of a network.

  Attributes:
    inputs: Specifications of its inputs by name.
    outputs: Specifications of its outputs by name.
    function: Takes inputs as keyword arguments; returns outputs by name.
  """

  inputs: Mapping[str, tf.TensorSpec]
  outputs: Mapping[str, tf.TensorSpec]
  function: Callable[..., Mapping[str, tf.Tensor]]

  def check(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns inputs as arrays of the types that the function takes.

    Args:
      inputs: Arrays or nested lists by name.

    Raises:
      I3dError: If one is missing or unknown, or has another type or shape.
    """
    if set(inputs) != set(self.inputs):
      raise errors.I3dError(
        f"the inputs are {', '.join(sorted(map(str, inputs))) or 'none'}; they must be {', '.join(self.inputs)}"
      )
    arrays = {name: _to_array(name, inputs[name], spec) for name, spec in self.inputs.items()}
    counts = {name: len(each) for name, each in arrays.items()}
    if len(set(counts.values())) > 1:
      raise errors.I3dError(f"the inputs have different numbers of clips: {counts}")
    if not any(counts.values()):
      raise errors.I3dError("there is no clip in the request")
    return arrays


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel:
  """One version of a network.

  Attributes:
    name: Its name in requests.
    version: Its number: the folder's of an exported network, the step of one that was trained, or 1.
    checkpoint: What was loaded.
    signatures: Its functions by name.
    classifier: The network as it is applied to videos; None if it cannot be.
    class_names: Classes in index order.
  """

  name: str
  version: int
  checkpoint: str
  signatures: Mapping[str, ServedSignature]
  classifier: classifier_lib.Classifier | None
  class_names: tuple[str, ...]

  def signature(self, name: str) -> ServedSignature:
    """Returns a signature.

    Args:
      name: Its name; '' for the default one.

    Raises:
      NotFound: If there is none of this name.
    """
    found = self.signatures.get(name or signatures_lib.DEFAULT)
    if found is None:
      raise serving.NotFound(f"{self.name} has no signature {name!r}; it has {', '.join(self.signatures)}")
    return found


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a network comes from.

  Attributes:
    name: Its name in requests.
    checkpoints: One, or one of RGB and one of flow.
  """

  name: str
  checkpoints: tuple[str, ...]


def parse_source(text: str) -> Source:
  """Returns what `[NAME=]CHECKPOINT[,CHECKPOINT]` says; without a name it is that of the first checkpoint.

  Args:
    text: The text.

  Raises:
    I3dError: If a part is empty, or the name has characters that do not belong in an address.
  """
  name, is_named, rest = text.partition("=")
  if not is_named or os.path.exists(text):
    name, rest = "", text
  checkpoints = (rest,) if os.path.exists(rest) else tuple(rest.split(","))
  if not all(checkpoints) or len(checkpoints) > 2:
    raise errors.I3dError(f"model is {text!r}; it must be [NAME=]CHECKPOINT, or two checkpoints with a comma between")
  name = name or pathlib.Path(os.path.abspath(checkpoints[0])).name.partition(".")[0]
  if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not name.isascii():
    raise errors.I3dError(f"model is {text!r}; give it a name of letters, digits, - and _, as NAME=CHECKPOINT")
  return Source(name, checkpoints)


class Repository:
  """Networks by name, each in one version or several; a version is replaced at once when it is loaded anew."""

  def __init__(self, sources: list[Source], *, precision: str = "float32", num_versions: int = 1):
    """Loads all networks.

    Args:
      sources: What to serve.
      precision: Type of convolutions and activations of checkpoints; exported networks have theirs.
      num_versions: Newest versions of an exported network to serve.

    Raises:
      I3dError: If two have one name, or one cannot be loaded.
    """
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
      raise errors.I3dError(f"two models have the name {twice[0]}; give them names, as NAME=CHECKPOINT")
    self._sources = {source.name: source for source in sources}
    self._precision, self._num_versions = precision, num_versions
    self._lock = threading.Lock()
    self._models: dict[str, dict[int, ServedModel]] = {}
    for name in names:
      self.reload(name)

  @property
  def names(self) -> tuple[str, ...]:
    """Names in the order given."""
    return tuple(self._sources)

  def versions(self, name: str) -> list[ServedModel]:
    """Returns the versions of a network, newest first.

    Args:
      name: Its name.

    Raises:
      NotFound: If there is none of this name.
    """
    if name not in self._models:
      raise serving.NotFound(f"there is no model {name!r}; there are {', '.join(self._sources)}")
    return sorted(self._models[name].values(), key=lambda model: -model.version)

  def get(self, name: str = "", version: int | None = None) -> ServedModel:
    """Returns a network.

    Args:
      name: Its name; '' for the first one.
      version: Its version; None: the newest.

    Raises:
      NotFound: If there is no such network or version.
    """
    found = self.versions(name or self.names[0])
    chosen = [model for model in found if version in (None, model.version)]
    if not chosen:
      versions = ", ".join(str(model.version) for model in found)
      raise serving.NotFound(f"{name} has no version {version}; it has {versions}")
    return chosen[0]

  def reload(self, name: str) -> list[int]:
    """Loads a network anew; the old one is served until the new one is there, and goes on if that fails.

    Args:
      name: Its name.

    Returns:
      The versions that are served now.

    Raises:
      NotFound: If there is none of this name.
      I3dError: If it cannot be loaded.
    """
    if name not in self._sources:
      raise serving.NotFound(f"there is no model {name!r}; there are {', '.join(self._sources)}")
    with self._lock:
      before = self._models.get(name, {})
      self._models[name] = self._load(self._sources[name], before)
      return sorted(self._models[name])

  def _load(self, source: Source, before: Mapping[int, ServedModel]) -> dict[int, ServedModel]:
    folder = pathlib.Path(source.checkpoints[0])
    if len(source.checkpoints) == 1 and (folder / _MARK).is_file():
      version = int(folder.name) if folder.name.isdecimal() else 1
      return {version: _load_exported(source.name, version, folder)}
    numbered = _numbered(folder) if len(source.checkpoints) == 1 else {}
    if numbered:
      newest = sorted(numbered)[-self._num_versions :]
      # A version's folder does not change, as TensorFlow Serving has it.
      return {each: before.get(each) or _load_exported(source.name, each, numbered[each]) for each in newest}
    model = load_checkpoints(source, self._precision)
    return {model.version: model}


def _numbered(folder: pathlib.Path) -> dict[int, pathlib.Path]:
  if not folder.is_dir():
    return {}
  return {int(each.name): each for each in folder.iterdir() if each.name.isdecimal() and (each / _MARK).is_file()}


def load_checkpoints(source: Source, precision: str) -> ServedModel:
  """Returns the network of one checkpoint, or of two, with the signatures that `export` would give it.

  Args:
    source: The checkpoints.
    precision: Type of convolutions and activations.

  Raises:
    I3dError: If they cannot be loaded, or do not go together.
  """
  classifier = classifier_lib.Classifier(
    source.checkpoints[0] if len(source.checkpoints) == 1 else source.checkpoints, precision=precision
  )
  made = signatures_lib.make(classifier, signatures_lib.clip_specs(classifier))
  signatures = {
    name: ServedSignature(each.inputs, _specs(each.function.structured_outputs), each.function)
    for name, each in made.items()
  }
  steps = [network.info.step for network in classifier.networks.values() if network.info.step]
  return ServedModel(
    source.name, max(steps, default=1), ",".join(source.checkpoints), signatures, classifier, classifier.class_names
  )


def _load_exported(name: str, version: int, folder: pathlib.Path) -> ServedModel:
  try:
    loaded = tf.saved_model.load(os.fspath(folder))
  except (OSError, ValueError, tf.errors.OpError) as error:
    raise errors.I3dError(f"{folder} cannot be loaded: {errors.first_line(error)}") from None
  signatures = {
    name: ServedSignature(
      function.structured_input_signature[1], _specs(function.structured_outputs), _keeping(loaded, function)
    )
    for name, function in loaded.signatures.items()
  }
  network = saved_model_network.find(folder, loaded)
  classifier = None if network is None else classifier_lib.Classifier.of([network])
  return ServedModel(name, version, os.fspath(folder), signatures, classifier, saved_model_network.class_names(folder))


def _keeping(loaded: Any, function: Callable[..., Any]) -> Callable[..., Any]:
  """The function of a SavedModel, which holds its variables weakly."""

  def call(**inputs: Any) -> Any:
    assert loaded is not None
    return function(**inputs)

  return call


def _specs(tensors: Mapping[str, Any]) -> dict[str, tf.TensorSpec]:
  return {name: tf.TensorSpec(each.shape, each.dtype, name=name) for name, each in tensors.items()}


def _to_array(name: str, value: Any, spec: tf.TensorSpec) -> np.ndarray:
  is_text = spec.dtype == tf.string
  try:
    array = np.array(value, dtype=object) if is_text else np.asarray(value)
    if not is_text and array.dtype.kind not in "fiu":
      raise ValueError
    array = array if is_text else array.astype(spec.dtype.as_numpy_dtype)
  except (ValueError, TypeError, OverflowError):
    what = "texts in base64" if is_text else "numbers"
    raise errors.I3dError(f"the input {name} must be {what} in nested lists whose lengths agree") from None
  wanted = spec.shape.as_list()
  if array.ndim != len(wanted) or any(b not in (None, a) for a, b in zip(array.shape, wanted)):
    shown = ", ".join("any" if each is None else str(each) for each in wanted)
    raise errors.I3dError(f"the input {name} has the shape {list(array.shape)}; it must be [{shown}]")
  if is_text and not all(isinstance(each, bytes) for each in array.flat):
    raise errors.I3dError(f'the input {name} must be images, each as {{"b64": BASE64}}')
  if not is_text and not np.isfinite(array).all():
    raise errors.I3dError(f"the input {name} has values that are not finite")
  return array
