"""Exports trained networks for other programs. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import files

USAGE = """Exports a trained network, or two of RGB and flow whose logits are added, for other programs.

A SavedModel, which needs TensorFlow and nothing of this project to be loaded and served:
  python -m i3d_tf.export --checkpoint=rgb_scratch --output=i3d
  python -m i3d_tf.export --checkpoint=rgb_imagenet,flow_imagenet --output=two_stream

Its inputs are named by their streams, rgb and flow: clips [batch, frames, height, width, channels], float32 in [-1, 1].
Its signatures are

  serving_default  logits
  probabilities    their softmax
  step_logits      the logits of each step in time, if the network has them
  jpeg             probabilities, of frames as JPEG or PNG images, jpeg_bytes [batch, frames]; for networks of RGB
  default          logits, called as deepmind/i3d-kinetics-400/1 of TensorFlow Hub is; for networks of RGB
  and one for each of --endpoints, named like it.

Batch, frames and size are open where the network allows it. assets/classes.txt has the classes in index order, and
assets/input.json tells what the clips are to be.

Models for other runtimes, with the default signature:
  --format=tflite  TensorFlow Lite, now LiteRT: float32, built-in operations only; one clip of a fixed length and size
  --format=onnx    ONNX (pip install 'i3d_tf[onnx]')
Networks with a loop, as convnet_lstm's over time, are beyond these two converters.

Weights alone:
  --format=network               for this project's programs, from any checkpoint that they read
  --format=release               TensorFlow 1 checkpoints in the layouts of google-deepmind/kinetics-i3d
  --format=pytorch_i3d           a PyTorch state dict for piergiaj/pytorch-i3d (pip install 'i3d_tf[torch]')
  --format=kinetics_i3d_pytorch  the same for hassony2/kinetics_i3d_pytorch
PyTorch state dicts, files *.pt, *.pth or *.pyth, are read wherever a checkpoint is: of these two; of torchvision's
R3D, MC3, R(2+1)D, S3D and ResNet-50; of SlowFast's and PyTorchVideo's I3D-ResNets, C2D and X3D; of MMAction2's I3D and
TSM; and of temporal-shift-module and kylemin/S3D."""

_SAVED_MODEL, _TFLITE, _ONNX = "saved_model", "tflite", "onnx"
_GRAPHS = (_SAVED_MODEL, _TFLITE, _ONNX)
# Those of exporting.weights and weights.release, which import TensorFlow.
_WEIGHTS = ("network", "release", "pytorch_i3d", "kinetics_i3d_pytorch")
_LAYOUTS = ("rgb", "flow", "rgb600")

FLAGS = flags.FLAGS
flags.DEFINE_list(
  "checkpoint",
  None,
  "The network: a released name, a path, a run of train, or a PyTorch state dict. Or two, of RGB and flow, "
  "separated by a comma.",
  required=True,
)
flags.DEFINE_string("output", None, "Folder to write to, a new or an empty one.", required=True)
flags.DEFINE_enum("format", _SAVED_MODEL, [*_GRAPHS, *_WEIGHTS], "What to write; see above.")
flags.DEFINE_list("endpoints", [], "saved_model: endpoints that get a signature each, as Mixed_4f,PooledFeatures.")
flags.DEFINE_integer("num_frames", None, "Graphs: take clips of so many frames only. Default: any.", lower_bound=1)
flags.DEFINE_integer("size", None, "Graphs: take clips of this height and width only. Default: any.", lower_bound=1)
flags.DEFINE_bool("average_space", False, "Graphs: take any height and width, and average I3D's logits over space.")
flags.DEFINE_bool("fold_batch_norm", False, "saved_model: fold batch norm into the convolutions, for inference only.")
flags.DEFINE_enum("layout", None, _LAYOUTS, "release: its layout; rgb600 is rgb_scratch_kin600's. Default: by stream.")

_ONLY_FOR = {
    "endpoints": (_SAVED_MODEL,), "fold_batch_norm": (_SAVED_MODEL,), "num_frames": _GRAPHS, "size": _GRAPHS,
    "average_space": _GRAPHS, "layout": ("release",),
}  # fmt: skip


def main(arguments: list[str]) -> None:
  del arguments
  _check_flags()
  with files.new_folder(FLAGS.output) as folder:
    cli.import_tensorflow()
    lines = _write_graph(folder) if FLAGS.format in _GRAPHS else _write_weights(folder)
  print(f"{FLAGS.output}: {FLAGS.format} of " + "\n".join(lines))


def _check_flags() -> None:
  if not 1 <= len(FLAGS.checkpoint) <= 2 or not all(FLAGS.checkpoint):
    raise errors.I3dError(f"--checkpoint={','.join(FLAGS.checkpoint)}: give one network, or two of rgb and flow")
  for name, formats in _ONLY_FOR.items():
    if FLAGS[name].present and FLAGS.format not in formats:
      raise errors.I3dError(f"--{name} is for --format={' or '.join(formats)}, not {FLAGS.format}")
  if FLAGS.format in _WEIGHTS and len(FLAGS.checkpoint) > 1:
    raise errors.I3dError(f"--format={FLAGS.format} takes one --checkpoint; export the other one, too")


def _write_weights(folder) -> list[str]:
  from i3d_tf.exporting import weights

  return [weights.write(folder, FLAGS.checkpoint[0], FLAGS.format, layout=FLAGS.layout)]


def _write_graph(folder) -> list[str]:
  from i3d_tf.exporting import graphs

  options = cli.from_flags(graphs.GraphConfig)
  return graphs.write(folder, tuple(FLAGS.checkpoint), options)


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
