"""Trained networks at inference: the one place where checkpoints become functions of clips."""

from collections.abc import Mapping, Sequence
import dataclasses
import logging
import os
import pathlib
import types
from typing import Any, TypeAlias

import numpy as np
from scipy import special
import tensorflow as tf

from i3d_tf import devices
from i3d_tf import errors
from i3d_tf import flow
from i3d_tf import inference
from i3d_tf.models import base
from i3d_tf.models import inception
from i3d_tf.models import inception_spec as spec
from i3d_tf.models import preprocess as preprocess_lib
from i3d_tf.models import zoo
from i3d_tf.weights import hub
from i3d_tf.weights import release
from i3d_tf.weights import saved

Checkpoint: TypeAlias = str | os.PathLike
Checkpoints: TypeAlias = Checkpoint | Sequence[Checkpoint] | Mapping[str, Checkpoint]
_LARGEST = types.MappingProxyType({"rgb": 1.01, "flow": 2.01})  # of flow with means subtracted, which is in [-2, 2]
_log = logging.getLogger(__name__)
_MEASUREMENTS = "precision.json"  # in the cache of downloads
_FRAMES_AT_ONCE = 250  # of all clips together; bounds the memory by that of the release's one pass


class LoadedNetwork(tf.Module):
  """One network with the weights of a checkpoint, and its functions, compiled once for each size of clips.

  Attributes:
    checkpoint: What was loaded: a name or a path.
    model: The network.
    info: What it is and how its clips are made.
    precision: Type of convolutions and activations.
  """

  engine = "tensorflow"

  def __init__(
    self,
    checkpoint: Checkpoint,
    endpoints: Sequence[str] | None = None,
    *,
    average_space: bool | None = False,
    precision: str = "float32",
    name: str | None = None,
  ):
    """Loads the network; see `Classifier` for the arguments and for what is raised.

    Args:
      checkpoint: As `saved.read` takes it.
      endpoints: See `Classifier`.
      average_space: See `Classifier`.
      precision: 'float32', 'bfloat16' or 'float16'.
      name: Name of the module.
    """
    super().__init__(name=name)
    devices.check_precision(precision)
    values, info = saved.read(checkpoint)
    if not info.num_classes:
      raise errors.CheckpointError(f"{checkpoint} has no classifier yet; train a network that starts from it")
    has_choice = "average_space" in zoo.get(info.model).options
    if average_space and not has_choice:
      raise errors.I3dError(f"{checkpoint} is a network {info.model}, which has no choice of average_space")
    if has_choice and average_space is not False:
      info = dataclasses.replace(info, average_space=True)
    self.checkpoint, self.info, self.precision = os.fspath(checkpoint), info, precision
    self.model = saved.make_model(info, compute_dtype=precision, **_last_endpoint(checkpoint, info, endpoints))
    release.assign(self.model, values, self.checkpoint)
    self._endpoints = None if endpoints is None else tuple(dict.fromkeys(endpoints))
    self._compiled: dict[tuple, Any] = {}

  @property
  def streams(self) -> tuple[str, ...]:
    """Streams of its clips."""
    return self.info.streams

  @property
  def weights(self) -> str:
    """CRC-32 of the variables, eight hexadecimal digits, which tells these weights from others."""
    return release.checksum(self.model)

  @property
  def computed_by(self) -> dict[str, str]:
    """The options of `inference.InferenceConfig` with which it was loaded, if they are not the defaults."""
    return inference.InferenceConfig(precision=self.precision, engine=self.engine).changes()

  @property
  def class_names(self) -> tuple[str, ...]:
    """Classes in index order; numbered where the checkpoint does not name them."""
    return self.info.class_names

  def __call__(self, clips: Any) -> dict[str, tf.Tensor]:
    """Returns endpoints by name, float32: applies the network in the graph, or eagerly; gradients pass through.

    Args:
      clips: `[B, T, H, W, C]` in [-1, 1], of a joint network by stream.

    Raises:
      ValueError: If the clips do not fit the network.
    """
    output, endpoints = self.model(base.clip_of(_by_stream(clips, self.streams), self.streams), is_training=False)
    found = {**endpoints, base.LOGITS: output} if self._endpoints is None else endpoints
    return {name: tf.cast(found[name], tf.float32) for name in self._endpoints or found}

  def logits(self, clips: Any) -> np.ndarray:
    """Returns the logits of clips, or of a video's views: float32 `[B, classes]`.

    Args:
      clips: Arrays `[B, T, H, W, C]` in [-1, 1]; as many as memory holds, of which some are run at once.

    Raises:
      I3dError: If the clips do not fit the network, or a logit is not finite.
    """
    return self.endpoints(clips, [base.LOGITS])[base.LOGITS]

  def endpoints(
    self, clips: Any, names: Sequence[str], *, frames_at_once: int = _FRAMES_AT_ONCE
  ) -> dict[str, np.ndarray]:
    """Returns some endpoints of clips: float32 arrays by name, whose first axis is the clips'.

    Args:
      clips: Arrays `[B, T, H, W, C]` in [-1, 1], by stream if there are two.
      names: Names of the network's endpoints.
      frames_at_once: Frames of all clips that are run together, at most; a clip of more is run by itself.

    Raises:
      I3dError: If there is no such endpoint, the clips do not fit the network, or a value is not finite.
    """
    if isinstance(names, str):
      raise errors.I3dError(f"names is {names!r}; it must be a sequence of names of endpoints")
    by_stream = {stream: np.asarray(clip) for stream, clip in _by_stream(clips, self.streams).items()}
    for clip in by_stream.values():
      if not np.issubdtype(clip.dtype, np.floating) and clip.dtype != tf.bfloat16.as_numpy_dtype:
        raise errors.I3dError(f"clips are of type {clip.dtype}; they must be floating point in [-1, 1]")
    self.check({stream: clip.shape for stream, clip in by_stream.items()})
    _check_values(by_stream)
    function = self.function(names, {stream: clip.shape[2:4] for stream, clip in by_stream.items()})
    count, num_frames = next(iter(by_stream.values())).shape[:2]
    step = max(1, frames_at_once // max(1, num_frames))
    cut = lambda start: {stream: clip[start : start + step] for stream, clip in by_stream.items()}
    parts = [function(cut(start)) for start in range(0, count, step)]
    values = {name: np.concatenate([part[name].numpy() for part in parts]) for name in names}
    for name, value in values.items():
      if not np.isfinite(value).all():
        what = "logits" if name == base.LOGITS else name
        raise errors.I3dError(
          f"the {what} of {self.checkpoint} are not finite; check the values of the clip and of the weights"
        )
    return values

  def function(self, names: Sequence[str], sizes: Mapping[str, Sequence[int | None]]) -> Any:
    """Returns a `tf.function` from clips by stream, float32 `[B, T, H, W, C]`, to endpoints, for any B and T.

    Args:
      names: Endpoints that it returns; what they do not need is not run.
      sizes: Height and width of the clips by stream; None for any.

    Raises:
      I3dError: If there is no such endpoint, or such clips do not fit the network.
    """
    key = (*names, *(tuple(sizes[stream]) for stream in self.streams))
    if key not in self._compiled:
      channels = self.info.channels
      signature = {s: tf.TensorSpec([None, None, *sizes[s], channels[s]], tf.float32) for s in self.streams}
      # Without AutoGraph, whose errors are pages long.
      function = tf.function(lambda clips: self._some(clips, names), input_signature=[signature], autograph=False)
      try:
        function.get_concrete_function()
      except errors.I3dError:
        raise
      except ValueError as error:
        raise errors.I3dError(f"{self.checkpoint} does not take these clips: {error}") from None
      self._compiled[key] = function
    return self._compiled[key]

  def check(self, shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Refuses clips that the network does not take.

    Args:
      shapes: `[B, T, H, W, C]` by stream, None where an axis is open.

    Raises:
      I3dError: If such clips do not fit the network.
    """
    specs = {stream: tf.TensorSpec(shapes[stream], tf.float32) for stream in self.streams}
    try:
      self.model.check(base.clip_of(specs, self.streams))
      for stream, channels in self.info.channels.items():
        if specs[stream].shape[-1] != channels:
          raise ValueError(f"clip has {specs[stream].shape[-1]} channels; it must have {channels}")
    except ValueError as error:
      raise errors.I3dError(f"{self.checkpoint} does not take these clips: {error}") from None

  def _some(self, clips: Any, names: Sequence[str]) -> dict[str, tf.Tensor]:
    values = self(clips)
    if missing := [name for name in names if name not in values]:
      raise errors.I3dError(f"{self.checkpoint} has no endpoint {missing[0]!r}; there are {', '.join(values)}")
    return {name: values[name] for name in names}


def warn_of_flow(info: saved.ModelInfo, checkpoint: Checkpoint, given: str) -> None:
  """Logs it if a network of flow is given another flow than it was trained on.

  Args:
    info: What the network is.
    checkpoint: Its checkpoint, for the message.
    given: Method and parameters of the flow, see `flow.FlowConfig.flow_method`.
  """
  if "flow" in info.streams and (sentence := flow.difference(info.flow_method, given)):
    _log.warning("%s: %s", checkpoint, sentence)


class Classifier(tf.Module):
  """Trained networks of one stream, or of two whose logits are added.

  Clips are floating point `[B, T, H, W, C]` in [-1, 1], made as `preprocess` says: RGB with 3 channels, flow with 2 for
  each field of a stack. A classifier of one stream takes a tensor or array, one of two streams a mapping of 'rgb' and
  'flow' to such clips. A call, also in a graph, returns tensors; the other methods run compiled and return arrays.

  Attributes:
    networks: By 'rgb', 'flow', or 'joint' for a network of both streams: what was loaded.
    streams: Streams of its clips.
    measured: Seconds by type, where the precision was to be chosen by them.
  """

  def __init__(
    self,
    checkpoints: Checkpoints,
    *,
    endpoints: Sequence[str] | None = None,
    average_space: bool | None = False,
    precision: str = "float32",
    engine: str = "tensorflow",
    name: str | None = None,
  ):
    """Loads the networks.

    Args:
      checkpoints: A released checkpoint's name, a path, or the folder of a training run, as `saved.read` takes them; or
        one of RGB and one of flow, as a sequence or by stream.
      endpoints: Endpoints that calls return; of an Inception only the rows that they need are built and run. None: all.
      average_space: Whether an I3D takes clips of any height and width and averages its logits over space; None: where
        the network has the choice. A network that was trained so always does.
      precision: Type of convolutions and activations; see `inference.InferenceConfig`.
      engine: What computes: 'tensorflow', or 'openvino' for folders of models that were exported to it.
      name: Name of the module.

    Raises:
      I3dError: For an endpoint that a network does not have, for networks that do not go together, for an
        average_space that a network does not know, and for a precision that this machine does not have.
      CheckpointError, DownloadError: If a checkpoint cannot be loaded or has no classifier.
    """
    super().__init__(name=name)
    if not checkpoints:
      raise errors.I3dError(f"checkpoints is {checkpoints!r}; give one, or one of rgb and one of flow")
    inference.InferenceConfig(precision=precision, engine=engine)
    self.measured: Mapping[str, float] = {}
    if precision == "auto":
      precision, self.measured = devices.fastest_precision(measurements())
    load = LoadedNetwork if engine == "tensorflow" else _openvino_network()
    loaded = [load(path, endpoints, average_space=average_space, precision=precision) for path in _paths(checkpoints)]
    if isinstance(checkpoints, Mapping):
      for stream, network in zip(checkpoints, loaded, strict=True):
        saved.check_stream(network.info, network.checkpoint, stream)
    self._take(loaded)

  @classmethod
  def of(cls, networks: Sequence[LoadedNetwork]) -> "Classifier":
    """Returns a classifier of networks that are loaded.

    Args:
      networks: One, or one of RGB and one of flow.

    Raises:
      I3dError: For networks that do not go together.
    """
    made = cls.__new__(cls)
    tf.Module.__init__(made)
    made.measured = {}
    made._take(networks)
    return made

  def _take(self, loaded: Sequence[LoadedNetwork]) -> None:
    _check_together(loaded)
    self.networks = {network.info.stream: network for network in loaded}
    self.streams = tuple(stream for network in loaded for stream in network.streams)

  @property
  def precision(self) -> str:
    """Type of the first network's convolutions and activations."""
    return self._first.precision

  @property
  def preprocess(self) -> preprocess_lib.Preprocess:
    """The transform from a video to the clips of the first network."""
    return self._first.info.preprocess

  def flow_config(self, given: flow.FlowConfig | None = None) -> flow.FlowConfig:
    """Returns which optical flow the networks take, and logs it if that is not the one that they were trained on.

    Args:
      given: What the user asks for; None: the flow on which the network of flow was trained.

    Raises:
      I3dError: If the network was trained on flow by a method that is not known.
    """
    trained = [network.info for network in self.networks.values() if "flow" in network.streams]
    if given is None:
      return flow.FlowConfig.from_method(trained[0].flow_method if trained else "")
    for network in self.networks.values():
      warn_of_flow(network.info, network.checkpoint, given.flow_method)
    return given

  @property
  def num_classes(self) -> int:
    """Number of logits."""
    return self._first.info.num_classes

  @property
  def classes(self) -> tuple[str, ...]:
    """Class names in index order; empty if no checkpoint knows them."""
    return next((network.info.classes for network in self.networks.values() if network.info.classes), ())

  @property
  def class_names(self) -> tuple[str, ...]:
    """Class names in index order; numbered where no checkpoint knows them."""
    return self.classes or self._first.class_names

  @property
  def weights(self) -> dict[str, str]:
    """Checksums of the networks' variables by stream; see `LoadedNetwork.weights`."""
    return {stream: network.weights for stream, network in self.networks.items()}

  @property
  def _first(self) -> LoadedNetwork:
    return next(iter(self.networks.values()))

  def __call__(self, clips: Any) -> dict[str, tf.Tensor]:
    """Applies the networks in the graph, or eagerly; gradients pass through.

    Args:
      clips: See the class.

    Returns:
      Endpoints by name, those of two networks behind 'rgb/' and 'flow/', and 'Logits' `[B, classes]`, of two networks
      added, as google-deepmind/kinetics-i3d evaluate_sample.py joins its streams.

    Raises:
      ValueError: If the clips do not fit a network.
    """
    by_stream = _by_stream(clips, self.streams)
    if len(self.networks) == 1:
      return self._first(by_stream)
    results = {stream: network(by_stream) for stream, network in self.networks.items()}
    named = {f"{stream}/{name}": value for stream, found in results.items() for name, value in found.items()}
    if all(base.LOGITS in found for found in results.values()):
      named[base.LOGITS] = tf.add_n([found[base.LOGITS] for found in results.values()])
    return named

  def logits(self, clips: Any) -> np.ndarray:
    """Returns the logits of clips, those of two networks added: float32 `[B, classes]`.

    Args:
      clips: See the class; as many as memory holds, of which some are run at once.

    Raises:
      I3dError: If the clips do not fit a network, or a logit is not finite.
    """
    by_stream = _given(clips, self.streams)
    return np.add.reduce([network.logits(by_stream) for network in self.networks.values()])

  def probabilities(self, clips: Any) -> np.ndarray:
    """Returns the softmax of the logits of clips: float64 `[B, classes]`.

    Args:
      clips: See the class.

    Raises:
      I3dError: As `logits`.
    """
    return special.softmax(self.logits(clips).astype(np.float64), axis=-1)

  def endpoints(self, clips: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns some endpoints of clips.

    Args:
      clips: See the class.
      names: Names of endpoints, which all networks must have.

    Returns:
      float32 arrays by name, whose first axis is the clips'; those of two networks behind 'rgb/' and 'flow/'.

    Raises:
      I3dError: If there is no such endpoint, the clips do not fit a network, or a value is not finite.
    """
    by_stream = _given(clips, self.streams)
    found = {stream: network.endpoints(by_stream, names) for stream, network in self.networks.items()}
    if len(found) == 1:
      return found[self._first.info.stream]
    return {f"{stream}/{name}": value for stream, values in found.items() for name, value in values.items()}


def _openvino_network() -> type[LoadedNetwork]:
  """The class of networks that OpenVINO runs, imported where it is wanted, since it is built on this module's."""
  from i3d_tf.inference import openvino_network

  return openvino_network.OpenvinoNetwork


def measurements() -> pathlib.Path:
  """Returns the file of what was measured for the precision 'auto'; without a place for a cache one that cannot be."""
  try:
    return hub.cache_dir() / _MEASUREMENTS
  except errors.DownloadError:
    return pathlib.Path(os.devnull, _MEASUREMENTS)


def _paths(checkpoints: Checkpoints) -> list[Checkpoint]:
  if isinstance(checkpoints, (str, os.PathLike)):
    return [checkpoints]
  return list(checkpoints.values()) if isinstance(checkpoints, Mapping) else list(checkpoints)


def _last_endpoint(checkpoint: Checkpoint, info: saved.ModelInfo, endpoints: Sequence[str] | None) -> dict[str, str]:
  """Returns the constructor's argument that leaves out rows which no endpoint needs, where the network has it."""
  if endpoints is None:
    return {}
  model = saved.make_model(info)
  offered = model.endpoint_names
  if isinstance(model, inception.Inception):
    offered = tuple(dict.fromkeys((*spec.endpoints(model.architecture), *offered)))
  if isinstance(endpoints, str) or not endpoints or not set(endpoints) <= set(offered):
    text = endpoints if isinstance(endpoints, str) else ",".join(endpoints)
    given = f"{text!r}, which is a text and no sequence" if isinstance(endpoints, str) else repr(text)
    raise errors.I3dError(
      f"endpoints is {given}; {checkpoint} is a network {info.model}, which has {', '.join(offered)}"
    )
  if not isinstance(model, inception.Inception):
    return {}
  needed = {base.LOGITS if name in (base.POOLED_FEATURES, base.STEP_LOGITS) else name for name in endpoints}
  return {"final_endpoint": max(needed, key=spec.endpoints(model.architecture).index)}


def _by_stream(clips: Any, streams: Sequence[str]) -> dict[str, Any]:
  if isinstance(clips, Mapping):
    if missing := [stream for stream in streams if stream not in clips]:
      raise errors.I3dError(f"clips are of {' and '.join(clips)}; {missing[0]} is needed, too")
    return {stream: clips[stream] for stream in streams}
  if len(streams) > 1:
    raise errors.I3dError(f"clips is one array; it must be a mapping of {' and '.join(streams)}")
  return {streams[0]: clips}


def _check_values(clips: Mapping[str, np.ndarray]) -> None:
  """Refuses clips whose values are surely not in [-1, 1]."""
  for stream, clip in clips.items():
    low, high = (float(bound(clip)) if clip.size else 0.0 for bound in (np.min, np.max))
    if not max(-low, high) <= _LARGEST[stream] and np.isfinite([low, high]).all():
      how = {"rgb": "for bytes that is x / 127.5 - 1", "flow": "for pixels per frame, cut off at 20, that is x / 20"}
      raise errors.I3dError(f"the {stream} clips have values of {low:g} to {high:g}; they must be in [-1, 1]; "
                            f"{how[stream]}")  # fmt: skip


def _given(clips: Any, streams: Sequence[str]) -> dict[str, Any]:
  """A caller's clips by stream; logs a doubt about RGB that may be in [0, 1]."""
  by_stream = _by_stream(clips, streams)
  rgb = np.asarray(by_stream.get("rgb", ()))
  if rgb.size and np.issubdtype(rgb.dtype, np.floating) and 0 <= np.min(rgb) < np.max(rgb):
    _log.warning("the rgb clips have no value below 0, the middle gray; if they are in [0, 1], give 2 * x - 1")
  return by_stream


def _check_together(networks: Sequence[LoadedNetwork]) -> None:
  """Raises I3dError unless the networks are one, or one of each stream with the same classes."""
  given = " and ".join(network.checkpoint for network in networks)
  streams = sorted(network.info.stream for network in networks)
  if len(networks) > 1 and streams != ["flow", "rgb"]:
    raise errors.I3dError(
      f"{given} are of {' and '.join(streams)}; to be joined there must be one of rgb and one of flow"
    )
  first, last = networks[0].info, networks[-1].info
  if first.num_classes != last.num_classes:
    raise errors.I3dError(f"{given} have {first.num_classes} classes and {last.num_classes}; logits cannot be added")
  if first.classes and last.classes and first.classes != last.classes:
    raise errors.I3dError(f"{given} have classes of other names or in another order; their logits cannot be added")
