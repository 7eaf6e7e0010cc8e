"""Networks that were exported to OpenVINO, called as those of TensorFlow are."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import tensorflow as tf

from i3d_tf import errors
from i3d_tf.inference import classifier
from i3d_tf.weights import saved

# Entries of a model's information for runtimes, beside what OpenVINO itself keeps there.
WEIGHTS, PRECISION, NETWORK = (("i3d_tf", name) for name in ("weights", "precision", "network"))
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def import_openvino() -> Any:
  """Returns the module `openvino`.

  Raises:
    I3dError: If it is not installed.
  """
  try:
    import openvino
  except ImportError as error:
    raise errors.I3dError(f"OpenVINO is not there ({error}): pip install '.[openvino]' in the clone") from None
  return openvino


def describe(info: saved.ModelInfo) -> str:
  """Returns which network a model is of: 'i3d for rgb, 400 classes'.

  Args:
    info: What the weights are of.
  """
  return f"{info.model} for {info.stream}, {info.num_classes} classes"


def _reason(error: RuntimeError) -> str:
  """The last line of an error of OpenVINO; those before it name places in its source."""
  return (str(error).strip() or type(error).__name__).splitlines()[-1]


class OpenvinoNetwork(classifier.LoadedNetwork):
  """A network that OpenVINO computes on the CPU; it has the endpoints that were exported, and is for no graph.

  Attributes:
    precision: 'int8' for a quantized model, or else the type that it is run in.
  """

  engine = "openvino"

  def __init__(
    self,
    checkpoint: classifier.Checkpoint,
    endpoints: Sequence[str] | None = None,
    *,
    average_space: bool | None = False,
    precision: str = "float32",
    name: str | None = None,
  ):
    """Loads the model.

    Args:
      checkpoint: The folder that it was exported to.
      endpoints: See `Classifier`; they must be among the exported ones.
      average_space: Only what the network was exported with.
      precision: 'float32', 'bfloat16', or 'int8', which a model must have been quantized for.
      name: Name of the module.

    Raises:
      I3dError: If OpenVINO is not installed, this is no folder of such a model, or the model is damaged, is of another
        network than the folder says, has no such endpoint or is not quantized.
    """
    tf.Module.__init__(self, name=name)
    openvino = import_openvino()
    info, path = saved.find(checkpoint)
    if info is None or not path.endswith(saved.OPENVINO_SUFFIX):
      raise errors.I3dError(f"{checkpoint} is no model of OpenVINO; export it with format openvino first")
    try:
      core = openvino.Core()
      model = core.read_model(path)
      stored = {key: model.get_rt_info(list(key)).value for key in (WEIGHTS, PRECISION, NETWORK)}
    except RuntimeError as error:
      raise errors.I3dError(f"{path} cannot be read by OpenVINO: {_reason(error)}") from None
    if stored[NETWORK] != (described := describe(info)):
      raise errors.I3dError(f"{path} is {stored[NETWORK]}, but {saved.INFO} beside it describes {described}")
    if precision == "int8" and stored[PRECISION] != "int8":
      raise errors.I3dError(f"{checkpoint} is not quantized; export it with precision int8 and clips for calibration")
    self._outputs = {name: index for index, output in enumerate(model.outputs) for name in output.get_names()}
    if missing := [each for each in endpoints or () if each not in self._outputs]:
      raise self._no_endpoint(checkpoint, missing[0])
    if average_space and not info.average_space:
      raise errors.I3dError(f"{checkpoint} was exported without average_space")
    self.checkpoint, self.info = os.fspath(checkpoint), info
    self.precision = "int8" if stored[PRECISION] == "int8" else precision
    self._weights = stored[WEIGHTS]
    self.model = saved.outline(info)
    options = {"INFERENCE_PRECISION_HINT": _HINTS[self.precision]} if self.precision in _HINTS else {}
    self._model = core.compile_model(model, "CPU", options)

  @property
  def weights(self) -> str:
    """CRC-32 of the variables that were exported."""
    return self._weights

  def __call__(self, clips: Any) -> dict[str, tf.Tensor]:
    """Refuses to be a part of a graph.

    Args:
      clips: Not used.

    Raises:
      I3dError: Always.
    """
    raise errors.I3dError(f"{self.checkpoint} is computed by OpenVINO, which takes no part in TensorFlow's graphs")

  def function(self, names: Sequence[str], sizes: Mapping[str, Sequence[int | None]]) -> Any:
    """Returns a function from clips by stream, float32 `[B, T, H, W, C]`, to endpoints.

    Args:
      names: Endpoints that it returns.
      sizes: Height and width of the clips by stream, which the model itself checks.

    Raises:
      I3dError: If there is no such endpoint.
    """
    if missing := [name for name in names if name not in self._outputs]:
      raise self._no_endpoint(self.checkpoint, missing[0])
    return lambda clips: self._run(clips, names)

  def _run(self, clips: Mapping[str, Any], names: Sequence[str]) -> dict[str, tf.Tensor]:
    try:
      results = self._model([clips[stream] for stream in self.streams])
    except RuntimeError as error:
      raise errors.I3dError(f"{self.checkpoint} does not take these clips: {_reason(error)}") from None
    return {name: tf.constant(results[self._outputs[name]]) for name in names}

  def _no_endpoint(self, checkpoint: classifier.Checkpoint, name: str) -> errors.I3dError:
    return errors.I3dError(
      f"{checkpoint} has no endpoint {name!r}; it has {', '.join(self._outputs)}; export it with more endpoints"
    )
