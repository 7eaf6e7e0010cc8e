"""Exporting networks to OpenVINO, in float32, or in int8 with a report of how well that agrees with float32."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from i3d_tf import errors
from i3d_tf import exporting
from i3d_tf.inference import classification
from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.inference import openvino_network
from i3d_tf.models import base
from i3d_tf.video import decode
from i3d_tf.weights import saved

AGREEMENT = "agreement.json"
_EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would otherwise compute in bfloat16
_HELD_OUT = 3  # one video of so many is for the report


@dataclasses.dataclass(frozen=True)
class Agreement:
  """How well a quantized network agrees with the float32 one on videos that it was not calibrated on.

  Attributes:
    videos: Number of videos.
    best_class: Share of them whose best class is the same.
    top_5: Share of the five best classes that are the same.
    largest_difference, mean_difference: Of the logits, absolute.
    largest_logit: Of float32, absolute.
    feature_cosine: Mean cosine between the pooled features.
  """

  videos: int
  best_class: float
  top_5: float
  largest_difference: float
  mean_difference: float
  largest_logit: float
  feature_cosine: float

  def __str__(self) -> str:
    """The report in one line."""
    return (
      f"int8 against float32 on {self.videos} other videos: best class equal on {100 * self.best_class:.1f} %, five "
      f"best on {100 * self.top_5:.1f} %, logits differ by at most {self.largest_difference:.3f} and on average by "
      f"{self.mean_difference:.3f} (largest {self.largest_logit:.2f}), cosine of the features {self.feature_cosine:.4f}"
    )


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
  """Keeps OpenVINO and NNCF from telling their makers over the network that they are used, as they do outside of CI."""
  before = os.environ.get("CI")
  os.environ["CI"] = "true"
  try:
    yield
  finally:
    del os.environ["CI"]
    if before is not None:
      os.environ["CI"] = before


@_unreported()
def write(
  folder: pathlib.Path,
  classifier: classifier_lib.Classifier,
  specs: Mapping[str, tf.TensorSpec],
  config: exporting.GraphConfig,
) -> list[str]:
  """Writes model.xml and model.bin with model.json, which `Classifier(folder, engine="openvino")` takes.

  Args:
    folder: To write to.
    classifier: One network.
    specs: The clips that it takes, by stream.
    config: Endpoints beside logits and pooled features, precision and videos for calibration.

  Returns:
    Lines that say more of what was written.

  Raises:
    I3dError: If there are two networks, OpenVINO is not installed or cannot convert the network, or the videos for the
      calibration are too few or cannot be read.
  """
  if len(classifier.networks) > 1:
    raise errors.I3dError("the format openvino takes one network; export each, and give both to a Classifier")
  (network,) = classifier.networks.values()
  openvino = openvino_network.import_openvino()
  calibration, held_out = _divide(config.calibration) if config.precision == "int8" else ([], [])
  model = _convert(
    openvino, network, specs, tuple(dict.fromkeys((base.LOGITS, base.POOLED_FEATURES, *config.endpoints)))
  )
  lines = []
  if config.precision == "int8":
    quantized = _quantized(openvino, model, network, calibration, config.max_loss)
    agreement = _compare(openvino, model, quantized, network, held_out)
    (folder / AGREEMENT).write_text(json.dumps(dataclasses.asdict(agreement), indent=2) + "\n", encoding="utf-8")
    kept = f"; {_in_float(quantized)} convolutions stay in float"
    model, lines = quantized, [f"calibrated on {len(calibration)} videos{kept}", str(agreement)]
  model.set_rt_info(network.weights, list(openvino_network.WEIGHTS))
  model.set_rt_info(config.precision, list(openvino_network.PRECISION))
  model.set_rt_info(openvino_network.describe(network.info), list(openvino_network.NETWORK))
  openvino.save_model(model, folder / saved.OPENVINO_MODEL, compress_to_fp16=False)
  saved.write_info(folder, network.info, saved.OPENVINO_MODEL)
  return lines


def _convert(
  openvino: Any, network: classifier_lib.LoadedNetwork, specs: Mapping[str, tf.TensorSpec], names: Sequence[str]
) -> Any:
  """The model of OpenVINO, whose outputs have the names of the endpoints."""

  def apply(*clips: tf.Tensor) -> list[tf.Tensor]:
    found = network(dict(zip(network.streams, clips, strict=True)))
    if missing := [name for name in names if name not in found]:
      raise errors.I3dError(f"endpoints has {missing[0]}; there are {', '.join(found)}")
    return [tf.identity(found[name], name=f"endpoint_{index}") for index, name in enumerate(names)]

  function = tf.function(apply, autograph=False).get_concrete_function(*(specs[stream] for stream in network.streams))
  frozen = convert_to_constants.convert_variables_to_constants_v2(function)
  with tempfile.TemporaryDirectory(prefix="i3d_tf.") as folder:
    path = pathlib.Path(folder, "graph.pb")
    path.write_bytes(frozen.graph.as_graph_def().SerializeToString())
    try:
      model = openvino.convert_model(path, output=[tensor.name for tensor in frozen.outputs])
    except Exception as error:  # of many types
      raise errors.I3dError(f"OpenVINO cannot convert this network: {errors.first_line(error)}") from None
  for output, name in zip(model.outputs, names, strict=True):
    output.get_tensor().set_names({name})
  return model


def _divide(paths: Sequence[str]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
  """The videos for the calibration, and every third for the report; all of them can be opened."""
  videos = decode.list_videos(paths)
  if len(videos) < 2:
    raise errors.I3dError(
      f"calibration names {len(videos)} videos; it takes at least 2, of which one in {_HELD_OUT} is for the report"
    )
  for video in videos:
    decode.probe(video)
  held_out = videos[1::_HELD_OUT]
  return [video for video in videos if video not in held_out], held_out


def _clips(network: classifier_lib.LoadedNetwork, video: pathlib.Path) -> dict[str, np.ndarray]:
  """One view of a video, as long as a clip of training where the network takes any length: `[1, T, H, W, C]`."""
  clip = network.info.preprocess
  test = classification.protocol(network.info)
  if test.protocol == "release":
    limit = {"max_frames": clip.num_frames, "min_frames": min(clip.num_frames, test.min_frames)}
    test = classification.protocol(network.info, **limit)
  least = test.max_frames * test.frame_stride + test.flow_stack if test.protocol == "release" else None
  opened = classification.Video(video, frame_rate=clip.frame_rate, short_side=clip.short_side, max_frames=least)
  views = classification.read_views(opened, test)
  return {stream: view[:1] for stream, view in views.items()}


def _quantized(
  openvino: Any,
  model: Any,
  network: classifier_lib.LoadedNetwork,
  videos: Sequence[pathlib.Path],
  max_loss: float | None,
) -> Any:
  """The model in int8, by NNCF, with ranges of activations from the videos; its logits stay in float.

  With a limit to the loss, layers return to float, those that cost most first, until the features of these videos keep
  to it.
  """
  try:
    import nncf
  except ImportError as error:
    raise errors.I3dError(f"int8 needs NNCF ({error}): pip install '.[openvino]' in the clone") from None
  logging.getLogger("nncf").setLevel(logging.ERROR)
  inputs = lambda video: list(_clips(network, video).values())
  dataset = nncf.Dataset(videos, inputs)
  options = {"subset_size": len(videos), "ignored_scope": nncf.IgnoredScope(names=_logits_layers(model))}
  if max_loss is None:
    return nncf.quantize(model, dataset, **options)
  exact = openvino.Core().compile_model(model, "CPU", _EXACT)
  expected = {video: _outputs(exact, network, video)[1] for video in videos}

  def agreement(compiled: Any, some: Iterable[pathlib.Path]) -> tuple[float, list[float]]:
    cosines = [_cosine(_outputs(compiled, network, video)[1], expected[video]) for video in some]
    return float(np.mean(cosines)), cosines

  return nncf.quantize_with_accuracy_control(
    model, dataset, nncf.Dataset(videos), agreement, max_drop=max_loss, **options
  )


def _logits_layers(model: Any) -> list[str]:
  """The names of the last layer with weights before the logits, whose inputs have outliers, and of all behind it.

  They cost little, and a range of the logits themselves would cut off those of classes that the calibration lacks.
  """
  names: list[str] = []
  node = model.outputs[0].get_node()
  while not names or node.get_type_name() not in ("Convolution", "MatMul"):
    node = node.input_value(0).get_node()
    names.append(node.get_friendly_name())
  return names


def _in_float(quantized: Any) -> int:
  """The number of convolutions whose kernels are not quantized."""
  kernels = [node.input_value(1).get_node() for node in quantized.get_ops() if "Convolution" in node.get_type_name()]
  return sum(kernel.get_type_name() == "Constant" for kernel in kernels)


def _compare(
  openvino: Any, exact: Any, quantized: Any, network: classifier_lib.LoadedNetwork, videos: Sequence[pathlib.Path]
) -> Agreement:
  core = openvino.Core()
  compiled = [core.compile_model(exact, "CPU", _EXACT), core.compile_model(quantized, "CPU")]
  found = [[_outputs(each, network, video) for each in compiled] for video in videos]
  logits = np.array([[each[0] for each in pair] for pair in found], np.float64)
  features = [[each[1] for each in pair] for pair in found]
  exact_logits, short = logits[:, 0], logits[:, 1]
  number = min(5, exact_logits.shape[1])
  difference = np.abs(short - exact_logits)
  return Agreement(
    videos=len(videos),
    best_class=_shared(exact_logits, short, 1),
    top_5=_shared(exact_logits, short, number),
    largest_difference=float(difference.max()),
    mean_difference=float(difference.mean()),
    largest_logit=float(np.abs(exact_logits).max()),
    feature_cosine=float(np.mean([_cosine(*pair) for pair in features])),
  )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
  return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _shared(logits: np.ndarray, others: np.ndarray, number: int) -> float:
  """The share of the best classes that both have, mean over the videos."""
  best, theirs = (np.argsort(-values, axis=1)[:, :number].tolist() for values in (logits, others))
  return float(np.mean([len({*a} & {*b}) / number for a, b in zip(best, theirs, strict=True)]))


def _outputs(compiled: Any, network: classifier_lib.LoadedNetwork, video: pathlib.Path) -> list[np.ndarray]:
  """Logits `[classes]` and pooled features, in one row, of a video."""
  results = compiled(list(_clips(network, video).values()))
  return [results[0][0], results[1].astype(np.float64).ravel()]
