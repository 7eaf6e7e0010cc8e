"""Exports trained networks for other programs. See `--help`."""

import os

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import exporting
from i3d_tf import workdir

USAGE = """Exports a trained network, or two of RGB and flow whose logits are added, to other programs.

A SavedModel, which needs TensorFlow and nothing of this project to be loaded and served:
  python -m i3d_tf.export --checkpoint=rgb_scratch --output=i3d
  python -m i3d_tf.export --checkpoint=rgb_imagenet,flow_imagenet --output=two_stream

Its inputs have the names of their streams, rgb and flow: clips [batch, frames, height, width, channels], float32 in
[-1, 1]. Its signatures are

  serving_default  logits
  probabilities    their softmax
  step_logits      the logits of each step in time, if the network has them
  jpeg             probabilities, from frames as JPEG or PNG images, jpeg_bytes [batch, frames]; for networks of RGB
  frames           with --with_flow: logits and probabilities of both streams, from frames of a video, uint8
                   [batch, frames, height, width, 3] in RGB, of any number and size: resizing, TV-L1 flow and networks
  default          logits, with the interface of deepmind/i3d-kinetics-400/1 of TensorFlow Hub; for networks of RGB
  and one for each of --endpoints, with its name.

Batch, frames and size are open where the network allows it. assets/classes.txt has the classes in index order, and
assets/input.json describes the clips that the network expects.

Models for other runtimes, with the default signature:
  --format=tflite  TensorFlow Lite, now LiteRT: float32, built-in operations only; one clip of a fixed length and size
  --format=onnx    ONNX (pip install '.[onnx]')
  --format=openvino  OpenVINO (pip install '.[openvino]'), for classify and others with --engine=openvino, too;
                     in int8 with --precision=int8 --calibration=VIDEOS, and a report of how well that agrees
These two converters cannot convert networks with a loop, such as convnet_lstm.

Weights alone:
  --format=network               for the programs of this project, from any checkpoint that they read
  --format=release               TensorFlow 1 checkpoints in the layouts of google-deepmind/kinetics-i3d
  --format=pytorch_i3d           a PyTorch state dict for piergiaj/pytorch-i3d
  --format=kinetics_i3d_pytorch  the same for hassony2/kinetics_i3d_pytorch
  --format=torchvision           the same of a Swin transformer, for torchvision's networks of clips or images
PyTorch state dicts, whatever their files are called, are accepted wherever a checkpoint is: of these two; of
torchvision's R3D, MC3, R(2+1)D, S3D, ResNet-50 and Swin; of SlowFast's and PyTorchVideo's I3D-ResNets, C2D and X3D; of
MMAction2's I3D and TSM; and of temporal-shift-module and kylemin/S3D."""

FLAGS = flags.FLAGS
cli.define_paths(
  "checkpoint",
  "The network: a released name, a path, a run of train, or a PyTorch state dict. Or two, of RGB and flow.",
  required=True,
)
with cli.group_of("Output"):
  flags.DEFINE_string(
    "output",
    None,
    "Folder to write to, a new or an empty one; or a new file *.pt or *.pth, for PyTorch.",
    required=True,
  )
  flags.DEFINE_enum(
    "format", "saved_model", [*exporting.GRAPH_FORMATS, *exporting.WEIGHT_FORMATS], "What is written, see above."
  )
_GRAPH_FLAGS = ("num_frames", "size", "average_space")
_OPENVINO_FLAGS = ("endpoints", "precision")
_SAVED_MODEL_FLAGS = ("fold_batch_norm", "with_flow")
cli.define_flags(
    exporting.GraphConfig, group="saved_model, tflite, onnx, openvino", names=_GRAPH_FLAGS,
    unset={"num_frames": "any that the network takes", "size": "any that the network takes"},
)  # fmt: skip
cli.define_flags(exporting.GraphConfig, group="saved_model, openvino", names=_OPENVINO_FLAGS)
cli.define_flags(exporting.GraphConfig, group="saved_model", names=_SAVED_MODEL_FLAGS)
with cli.group_of("openvino"):
  cli.define_paths("calibration", "For --precision=int8: videos or folders, like what it will see.", default=[])
cli.define_flags(exporting.GraphConfig, group="openvino", names=("max_loss",))
cli.define_device_flags()
cli.define_flags(exporting.WeightsConfig, group="release", names=("layout",), unset={"layout": "that of the stream"})

_FORMATS_OF = {
  **dict.fromkeys(_GRAPH_FLAGS, exporting.GRAPH_FORMATS),
  **dict.fromkeys(_OPENVINO_FLAGS, ("saved_model", "openvino")),
  **dict.fromkeys(_SAVED_MODEL_FLAGS, ("saved_model",)),
  **dict.fromkeys(("calibration", "max_loss"), ("openvino",)),
  "layout": ("release",),
}


def main(arguments: list[str]) -> None:
  """Exports what the flags say, and prints what was written."""
  del arguments
  _check_flags()
  if FLAGS.format in exporting.PYTORCH_FORMATS and FLAGS.output.endswith(exporting.PYTORCH_SUFFIXES):
    return _write_state_dict()
  with workdir.new_folder(FLAGS.output) as folder:
    cli.import_tensorflow()
    from i3d_tf.exporting import exports

    if FLAGS.format in exporting.GRAPH_FORMATS:
      lines = exports.write_graph(folder, tuple(FLAGS.checkpoint), cli.from_flags(exporting.GraphConfig))
    else:
      lines = [exports.write_weights(folder, FLAGS.checkpoint[0], cli.from_flags(exporting.WeightsConfig))]
  print(f"{FLAGS.output}: {FLAGS.format} of " + "\n".join(lines))


def _write_state_dict() -> None:
  """Exports to a file of PyTorch's rather than a folder."""
  if os.path.lexists(FLAGS.output):
    raise errors.I3dError(f"--output={FLAGS.output} is there already; name a new file")
  cli.import_tensorflow()
  from i3d_tf.exporting import exports

  line = exports.write_state_dict(FLAGS.output, FLAGS.checkpoint[0], FLAGS.format)
  print(f"{FLAGS.output}: {FLAGS.format} of {line}")


def _check_flags() -> None:
  if not 1 <= len(FLAGS.checkpoint) <= 2 or not all(FLAGS.checkpoint):
    raise errors.I3dError(f"--checkpoint={','.join(FLAGS.checkpoint)}: give one network, or two of rgb and flow")
  for name, formats in _FORMATS_OF.items():
    if FLAGS[name].present and FLAGS.format not in formats:
      raise errors.I3dError(f"--{name} is for --format={' or '.join(formats)}, not {FLAGS.format}")
  if FLAGS.format in exporting.WEIGHT_FORMATS and len(FLAGS.checkpoint) > 1:
    raise errors.I3dError(f"--format={FLAGS.format} takes one --checkpoint; export the other one, too")


def run() -> None:
  """Runs the program; the console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
