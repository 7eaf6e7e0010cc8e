"""Pictures of what networks see. See `--help`."""

import contextlib
import os
import pathlib

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.models import preprocess

USAGE = """Draws what networks see.

  python -m i3d_tf.visualize video clip.mp4
      the video beside its optical flow, coloured; below, the probabilities of some classes over the whole time, with a
      line at the frame that is shown, and the best classes there. --streams=flow or joint (which adds logits) take a
      network of flow; without one the flow is drawn all the same, unless --nodraw_flow.

  python -m i3d_tf.visualize filters rgb_scratch [MORE]
      the filters of a network's first layer over time, as in Figure 4 of the paper: of RGB in colour, of flow x and y
      each in gray, where gray is 0. Networks of any kind, for comparison several.

  python -m i3d_tf.visualize activation clip.mp4
      where and when the network sees a class (--class_name, or the best one): the classifier's logit at each position
      of Mixed_5c, whose weighted mean is the network's logit exactly; laid over the frames, from blue (against the
      class) by nothing (0) to red (for it). Of whole frames, or of the central square that the network was trained on
      (--view=crop, which gives the logits that classify prints). --streams=flow takes a network of flow.

The words after the subject are videos, released names of checkpoints, or paths of them, one for video and activation.
Videos of any length are gone through in bounded memory; flow and logits wait in temporary files ($TMPDIR).

--output names the files: .mp4 for video; .png and .gif for filters; .mp4 and .png (a contact sheet) for activation; one
or both, with a comma between. Without it they are named after the input, in the current folder."""

_ENDINGS = {"video": (".mp4",), "filters": (".png", ".gif"), "activation": (".mp4", ".png")}
_CHECKPOINTS = {"rgb": "rgb_scratch", "flow": "flow_scratch"}
_SUBJECTS_OF = {
    "rgb_checkpoint": ("video", "activation"), "flow_checkpoint": ("video", "activation"),
    "streams": ("video", "activation"), "threads": ("video", "activation"), "draw_flow": ("video",),
    "top_k": ("video",), "scale": ("filters",), "class_name": ("activation",), "view": ("activation",),
    "sheet_frames": ("activation",),
}  # fmt: skip

FLAGS = flags.FLAGS
flags.DEFINE_list("output", [], "The files to write, separated by commas. Default: named after the input.")
flags.DEFINE_string(
  "rgb_checkpoint", _CHECKPOINTS["rgb"], "video, activation: RGB weights: a released name, a path, or a run of train."
)
flags.DEFINE_string("flow_checkpoint", _CHECKPOINTS["flow"], "video, activation: flow weights: the same.")
flags.DEFINE_enum("streams", "rgb", list(preprocess.STREAMS_OF), "video: the streams to show; activation: rgb or flow.")
flags.DEFINE_boolean("draw_flow", True, "video: show the flow though --streams=rgb does not take it.")
flags.DEFINE_integer("top_k", 5, "video: classes in each ranking.", lower_bound=1, upper_bound=12)
flags.DEFINE_enum(
    "scale", "filter", ["filter", "checkpoint"],
    "filters: full contrast is the largest weight of each filter, or of all, so that filters can be compared.",
)  # fmt: skip
flags.DEFINE_string("class_name", None, "activation: the class. Default: the video's best.")
flags.DEFINE_enum("view", "frame", ["frame", "crop"], "activation: the whole frames, or the central square.")
flags.DEFINE_integer("sheet_frames", 8, "activation: frames on the contact sheet.", lower_bound=1, upper_bound=100)
flags.DEFINE_integer("threads", None, "video, activation: threads for optical flow. Default: the cores.", lower_bound=1)


def main(arguments: list[str]) -> int:
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
    # Opened before the work, so that what cannot be written is found out at once.
    opened = {ending: stack.enter_context(_open(path)) for ending, path in outputs.items()}
    subjects[subject](names, opened)
  print(*outputs.values(), sep="\n")
  return 0


def _outputs(subject: str, names: list[str]) -> dict[str, str]:
  """The file to write for each ending."""
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
  """A context that gives what writes the file: of a video a function that takes frames, or else a file."""
  if not path.lower().endswith(".mp4"):
    return workdir.replacing(path)
  from i3d_tf.video import decode
  from i3d_tf.video import encode

  return encode.writing(path, fps=decode.FRAME_RATE)


def _progress(things, name: str, total: int):
  return tqdm.tqdm(things, desc=name, total=total, unit="frame", disable=None)


def _streams() -> tuple[str, ...]:
  """The streams wanted, whose checkpoints alone may be given."""
  streams = preprocess.STREAMS_OF[FLAGS.streams]
  for stream in _CHECKPOINTS:
    if FLAGS[f"{stream}_checkpoint"].present and stream not in streams:
      raise errors.I3dError(f"--{stream}_checkpoint is given, but --streams={FLAGS.streams} does not use it")
  return streams


def _video(names: list[str], opened: dict) -> None:
  streams = _streams()
  if FLAGS["draw_flow"].present and not FLAGS.draw_flow and "flow" in streams:
    raise errors.I3dError(f"--nodraw_flow is for --streams=rgb; --streams={FLAGS.streams} computes flow anyway")
  from i3d_tf.inference import classification
  from i3d_tf.visualization import annotate

  networks = [annotate.StepNetwork(FLAGS[f"{stream}_checkpoint"].value, stream) for stream in streams]
  annotations = annotate.annotate(
      names[0], networks, opened[".mp4"], draw_flow=FLAGS.draw_flow, top_k=FLAGS.top_k, threads=FLAGS.threads,
      progress=_progress,
  )  # fmt: skip
  classes = networks[0].info.class_names
  for annotation in annotations:
    print(f"{annotate.NAMES[annotation.name]}, whole video:")
    for each in classification.rank(annotation.mean, classes, FLAGS.top_k):
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
  if len(_streams()) > 1:
    raise errors.I3dError("--streams=joint; activation is of one stream, rgb or flow")
  from i3d_tf.visualization import activation
  from i3d_tf.visualization import canvas
  from i3d_tf.visualization import source

  stream = FLAGS.streams
  network = activation.PositionNetwork(FLAGS[f"{stream}_checkpoint"].value, stream)
  store = source.FlowStore() if stream == "flow" else None
  found = activation.compute(
      names[0], network, class_name=FLAGS.class_name, view=FLAGS.view, store=store, threads=FLAGS.threads,
      progress=_progress,
  )  # fmt: skip
  painter = activation.Painter(found, store)
  if ".mp4" in opened:
    activation.draw_video(painter, opened[".mp4"], progress=_progress)
  if ".png" in opened:
    opened[".png"].write(canvas.png(activation.contact_sheet(painter, columns=FLAGS.sheet_frames)))
  print(f"{found.name}: {painter.facts()}")


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
