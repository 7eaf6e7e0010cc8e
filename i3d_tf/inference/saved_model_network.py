"""Exported SavedModels, called as networks that are loaded from checkpoints are."""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files
from i3d_tf.inference import classifier
from i3d_tf.models import base
from i3d_tf.models import preprocess
from i3d_tf.weights import saved

ASSETS, CLASSES_FILE, INPUT_FILE = "assets", "classes.txt", "input.json"
# The signatures that have endpoints of a network, and the outputs that are these; others have the endpoint's name.
_SIGNATURES = {base.LOGITS: ("serving_default", "logits"), base.STEP_LOGITS: ("step_logits", "step_logits")}


class SavedModelNetwork(classifier.LoadedNetwork):
  """A network of one SavedModel; it has the endpoints that have signatures, and is for no graph."""

  engine = "tensorflow"

  def __init__(self, folder: str | os.PathLike, loaded: Any, info: saved.ModelInfo):
    """Takes a SavedModel.

    Args:
      folder: Its folder.
      loaded: What `tf.saved_model.load` returned.
      info: What the network is.
    """
    tf.Module.__init__(self)
    self.checkpoint, self.info, self.precision = os.fspath(folder), info, "float32"
    self._loaded = loaded
    self.model = saved.outline(info)

  def has(self, name: str) -> bool:
    """Returns whether there is an endpoint.

    Args:
      name: Its name.
    """
    return _SIGNATURES.get(name, (name, name))[0] in self._loaded.signatures

  def __call__(self, clips: Any) -> dict[str, tf.Tensor]:
    """Returns the logits.

    Args:
      clips: See `LoadedNetwork`.
    """
    by_stream = clips if isinstance(clips, Mapping) else {self.streams[0]: clips}
    return self.function([base.LOGITS], {})(by_stream)

  def function(self, names: Sequence[str], sizes: Mapping[str, Sequence[int | None]]) -> Any:
    """Returns a function from clips by stream, float32 `[B, T, H, W, C]`, to endpoints.

    Args:
      names: Endpoints that it returns.
      sizes: Height and width of the clips by stream, which the SavedModel itself checks.

    Raises:
      I3dError: If there is no such endpoint.
    """
    if missing := [name for name in names if not self.has(name)]:
      raise errors.I3dError(f"{self.checkpoint} has no endpoint {missing[0]}; export it with endpoints={missing[0]}")

    def call(clips: Mapping[str, Any]) -> dict[str, tf.Tensor]:
      given = {stream: tf.constant(clips[stream], tf.float32) for stream in self.streams}
      found = {}
      for name in names:
        signature, output = _SIGNATURES.get(name, (name, name))
        found[name] = self._loaded.signatures[signature](**given)[output]
      return found

    return call


def find(folder: str | os.PathLike, loaded: Any) -> SavedModelNetwork | None:
  """Returns the network of a SavedModel; None if it is of two networks, or was exported by another program.

  Args:
    folder: Its folder.
    loaded: What `tf.saved_model.load` returned.

  Raises:
    I3dError: If what describes it is damaged.
  """
  path = pathlib.Path(folder, ASSETS, INPUT_FILE)
  if not path.is_file():
    return None
  try:
    content = files.read_json(path)
    if len(content["networks"]) != 1:
      return None
    network = content["networks"][0]
    stream = next(iter(content["streams"].values()))
    # Of a network of flow `trained_on` has all fields; of both streams those of flow are the fuller ones.
    trained = max((each["trained_on"] for each in content["streams"].values()), key=len)
    clip = fields.from_json(
      preprocess.Preprocess, {"frame_rate": stream["frames_per_second"], **trained}, path, has_others=True
    )
    info = saved.ModelInfo(
      model=network["model"], stream=network["stream"], num_classes=content["num_classes"],
      classes=class_names(folder) if content["classes"] else (), preprocess=clip,
      width_multiplier=network.get("width_multiplier", 1.0), average_space=network.get("average_space", False),
      dataset=network.get("dataset", ""), step=network.get("step"), flow_method=network.get("flow_method", ""),
    )  # fmt: skip
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise errors.I3dError(f"{path} is damaged ({error}); export the network anew") from None
  return SavedModelNetwork(folder, loaded, info)


def class_names(folder: str | os.PathLike) -> tuple[str, ...]:
  """Returns the classes of a SavedModel in index order; empty if it does not name them.

  Args:
    folder: Its folder.
  """
  path = pathlib.Path(folder, ASSETS, CLASSES_FILE)
  return tuple(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
