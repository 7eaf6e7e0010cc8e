"""Pictures of what networks see. See `--help`."""

import contextlib
import os
import pathlib

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import flow
from i3d_tf import inference
from i3d_tf import workdir
from i3d_tf.models import preprocess

USAGE = """Draws what networks see.

  python -m i3d_tf.visualize video clip.mp4
      the video beside its optical flow, coloured; below, the probabilities of some classes over the whole time, with a
      line at the current frame, and the best classes there. --streams=flow or joint (which adds the logits of two
      networks) needs a network of flow; without one the flow is drawn all the same, unless --nodraw_flow. Takes any
      network: those whose steps in time depend on their own frames only, such as I3D and S3D, give the logits of each
      step; others are applied to overlapping clips of the length that they were trained on, as the page says.

  python -m i3d_tf.visualize filters rgb_scratch [MORE]
      the filters of the first layer over time, as in Figure 4 of the paper: those of RGB in colour, those of flow as
      x and y in gray, where gray is 0. Takes any network, and several for comparison.

  python -m i3d_tf.visualize activation clip.mp4
      where and when the network sees a class (--class_name, or the best one): the logit of the class at each position
      of the last layer, whose weighted mean is the network's logit exactly; drawn over the frames, from blue (against
      the class) over nothing (0) to red (for it). Of whole frames, or of the central square that the network was
      trained on (--view=crop; of I3D this gives the logits that classify prints). --streams=flow needs a network of
      flow. Takes Inceptions and ResNets, which end in an average pool and a linear classifier.

The words after the subject are videos, or names of released checkpoints or their paths; one for video and activation.
Videos of any length are processed in bounded memory; flow and logits are kept in temporary files ($TMPDIR).

--output names the files: .mp4 for video; .png and .gif for filters; .mp4 and .png (a contact sheet) for activation; one
or both. Without it they are named after the input, in the current folder."""

_ENDINGS = {"video": (".mp4",), "filters": (".png", ".gif"), "activation": (".mp4", ".png")}
_SUBJECTS_OF = {
    "rgb_checkpoint": ("video", "activation"), "flow_checkpoint": ("video", "activation"),
    "joint_checkpoint": ("video",), "streams": ("video", "activation"), "threads": ("video", "activation"),
    "allow_damaged": ("video", "activation"),
    "frame_rate": ("video", "activation"), "flow_bound": ("video", "activation"),
    "precision": ("video", "activation"), "flow": ("video", "activation"), "flow_params": ("video", "activation"),
    "draw_flow": ("video",), "top_k": ("video",), "scale": ("filters",), "class_name": ("activation",),
    "view": ("activation",), "sheet_frames": ("activation",),
}  # fmt: skip

FLAGS = flags.FLAGS
cli.define_paths("output", "The files to write. Default: named after the input.", default=[])
with cli.group_of("video, activation"):
  flags.DEFINE_string("rgb_checkpoint", "rgb_scratch", "RGB weights: a released name, a path, or a run of train.")
  flags.DEFINE_string("flow_checkpoint", "flow_scratch", "Flow weights: the same.")
  flags.DEFINE_enum("streams", "rgb", list(preprocess.STREAMS_OF), "The streams to show; activation takes rgb or flow.")
  flags.DEFINE_integer("threads", None, "Threads for optical flow. Default: one per core.", lower_bound=1)
  flags.DEFINE_boolean("allow_damaged", False, "Take what there is of a damaged or incomplete video.")
  flags.DEFINE_float("frame_rate", 25.0, "Frames per second of folders of images and of .npy clips.", lower_bound=0.1)
  flags.DEFINE_float("flow_bound", 20.0, "Pixels per frame of the largest byte of images of flow.", lower_bound=0.1)
cli.define_flags(flow.FlowConfig, group="video, activation", unset={"flow": "that of the network's training"})
cli.define_flags(inference.InferenceConfig, group="video, activation", names=("precision",))
cli.define_device_flags()
with cli.group_of("video"):
  flags.DEFINE_string("joint_checkpoint", None, "Weights of a network of both streams at once, in place of two.")
  flags.DEFINE_boolean("draw_flow", True, "Show the flow even if --streams=rgb does not take it.")
  flags.DEFINE_integer("top_k", 5, "Classes in each ranking.", lower_bound=1, upper_bound=12)
with cli.group_of("filters"):
  flags.DEFINE_enum(
      "scale", "filter", ["filter", "checkpoint"],
      "What has full contrast: the largest weight of each filter, or of all, so that filters can be compared.",
  )  # fmt: skip
with cli.group_of("activation"):
  flags.DEFINE_string("class_name", None, "The class. Default: the best one of the video.")
  flags.DEFINE_enum("view", "frame", ["frame", "crop"], "The whole frames, or the central square.")
  flags.DEFINE_integer("sheet_frames", 8, "Frames on the contact sheet.", lower_bound=1, upper_bound=100)


def main(arguments: list[str]) -> int:
  """Draws what the first argument names, and prints the names of the files."""
  subjects = {"video": _video, "filters": _filters, "activation": _activation}
  if not arguments or arguments[0] not in subjects:
    given = " ".join(arguments) or "nothing"
    raise errors.I3dError(f"say what to draw: {', '.join(subjects)}; got {given}")
  subject, *names = arguments
  wanted = "one checkpoint, or several" if subject == "filters" else "one video"
  if not names or (subject != "filters" and len(names) > 1):
    raise errors.I3dError(f"{subject} takes {wanted}; got {' '.join(names) or 'none'}; see --help")
  for flag, of in _SUBJECTS_OF.items():
    if FLAGS[flag].present and subject not in of:
      raise errors.I3dError(f"--{flag} is for {' and '.join(of)}, not for {subject}")
  outputs = _outputs(subject, names)
  cli.import_tensorflow()
  with contextlib.ExitStack() as stack:
    # Opened before the work, so that a file that cannot be written is reported at once.
    opened = {ending: stack.enter_context(_open(path)) for ending, path in outputs.items()}
    subjects[subject](names, opened)
  print(*outputs.values(), sep="\n")
  return 0


def _outputs(subject: str, names: list[str]) -> dict[str, str]:
  """Returns the file to write for each ending."""
  endings = _ENDINGS[subject]
  if not FLAGS.output:
    stem = "_".join(pathlib.Path(os.path.abspath(name)).stem for name in names)
    return {ending: f"{stem}_{subject}{ending}" for ending in endings}
  outputs = {}
  for path in FLAGS.output:
    ending = pathlib.Path(path).suffix.lower()
    if ending not in endings or ending in outputs:
      raise errors.I3dError(f"--output={','.join(FLAGS.output)}; {subject} writes one {' and one '.join(endings)} file")
    outputs[ending] = path
  return outputs


def _open(path: str):
  """Opens a file: yields for a video a function that takes frames, else a file."""
  if not path.lower().endswith(".mp4"):
    return workdir.replacing(path)
  from i3d_tf.video import decode
  from i3d_tf.video import encode

  return encode.writing(path, fps=decode.FRAME_RATE)


def _checkpoints() -> dict[str, str]:
  """Returns the checkpoints to use by stream; only those may be given."""
  streams: tuple[str, ...] = preprocess.STREAMS_OF[FLAGS.streams]
  if FLAGS.joint_checkpoint is not None:
    if FLAGS["streams"].present and FLAGS.streams != "joint":
      raise errors.I3dError(f"--joint_checkpoint is of both streams, not of --streams={FLAGS.streams}")
    streams = ("joint",)
  for stream in preprocess.STREAMS:
    if FLAGS[f"{stream}_checkpoint"].present and stream not in streams:
      given = (
        "--joint_checkpoint is in its place" if streams == ("joint",) else f"--streams={FLAGS.streams} does not use it"
      )
      raise errors.I3dError(f"--{stream}_checkpoint is given, but {given}")
  return {stream: FLAGS[f"{stream}_checkpoint"].value for stream in streams}


def _video(names: list[str], opened: dict) -> None:
  checkpoints = _checkpoints()
  if FLAGS["draw_flow"].present and not FLAGS.draw_flow and list(checkpoints) != ["rgb"]:
    raise errors.I3dError(f"--nodraw_flow is for --streams=rgb; --streams={FLAGS.streams} computes flow anyway")
  from i3d_tf.inference import classification
  from i3d_tf.inference import classifier
  from i3d_tf.visualization import pages

  networks = classifier.Classifier(checkpoints, precision=FLAGS.precision)
  estimator = networks.flow_config(cli.from_given_flags(flow.FlowConfig)).flow_estimator(FLAGS.threads)
  annotations = pages.annotate(
      names[0], networks, opened[".mp4"], draw_flow=FLAGS.draw_flow, top_k=FLAGS.top_k, estimator=estimator,
      allow_damaged=FLAGS.allow_damaged, progress=True, frame_rate=FLAGS.frame_rate, flow_bound=FLAGS.flow_bound,
  )  # fmt: skip
  for annotation in annotations:
    print(f"{pages.NAMES[annotation.name]}, whole video:")
    for each in classification.rank(annotation.mean, networks.class_names, FLAGS.top_k):
      print(f"{each.probability:.7f} {each.logit:11.6f}  {each.label}")


def _filters(names: list[str], opened: dict) -> None:
  from i3d_tf.visualization import canvas
  from i3d_tf.visualization import filters

  found = [each for name in names for each in filters.read(name)]
  if ".png" in opened:
    opened[".png"].write(canvas.png(filters.draw(found, scale=FLAGS.scale)))
  if ".gif" in opened:
    opened[".gif"].write(filters.animate(found, scale=FLAGS.scale))


def _activation(names: list[str], opened: dict) -> None:
  checkpoints = _checkpoints()
  if len(checkpoints) > 1:
    raise errors.I3dError("--streams=joint; activation is of one stream, rgb or flow")
  from i3d_tf.inference import classifier
  from i3d_tf.visualization import activation
  from i3d_tf.visualization import canvas
  from i3d_tf.visualization import pages
  from i3d_tf.visualization import source

  networks = classifier.Classifier(checkpoints, average_space=None, precision=FLAGS.precision)
  (network,) = networks.networks.values()
  estimator = networks.flow_config(cli.from_given_flags(flow.FlowConfig)).flow_estimator(FLAGS.threads)
  store = source.FlowStore() if network.info.stream == "flow" else None
  found = activation.compute(
      names[0], network, class_name=FLAGS.class_name, view=FLAGS.view, store=store, estimator=estimator,
      allow_damaged=FLAGS.allow_damaged, progress=True, frame_rate=FLAGS.frame_rate, flow_bound=FLAGS.flow_bound,
  )  # fmt: skip
  painter = pages.Painter(found, store)
  if ".mp4" in opened:
    pages.draw_activation(painter, opened[".mp4"], progress=True)
  if ".png" in opened:
    opened[".png"].write(canvas.png(pages.draw_sheet(painter, columns=FLAGS.sheet_frames)))
  print(f"{found.name}: {painter.facts()}")


def run() -> None:
  """Runs the program; the console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
