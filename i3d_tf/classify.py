"""Classifies videos with trained networks. See `--help`."""

from collections.abc import Sequence
import contextlib
import json
import sys
from typing import Any

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import flow
from i3d_tf import inference
from i3d_tf import workdir
from i3d_tf import workers

USAGE = """Classifies videos with a trained network, or with one of RGB and one of flow whose logits are added.

A video file or folder, with I3D in one pass over its first ten seconds:
  python -m i3d_tf.classify --video=clip.mp4 --rgb_checkpoint=rgb_scratch

Every network is tested as its paper does: on one pass, or on several clips and crops whose logits are averaged. With
--streams=flow or joint the optical flow of a video is computed on the fly, as the network was trained (TV-L1 of the
released ones) or as --flow says. A network of both streams at once is a --joint_checkpoint.

The release's sample run, and how far it is from the published figures:
  python -m i3d_tf.classify --streams=joint --rgb_npy=v_CricketShot_g04_c01_rgb.npy \\
      --flow_npy=v_CricketShot_g04_c01_flow.npy --expect=published

A camera (by its number), an address, a pipe ('-': the standard input), or a file that is played in real time and may be
growing, again and again while it goes on; --json then gets a line for each prediction:
  python -m i3d_tf.classify --follow=rtsp://camera/stream --streams=joint --flow_budget=25

Each result is the norm of the logits, then a line a class: probability, logit, label. The exit status is 1 if any
video could not be classified; the others are still done."""

FLAGS = flags.FLAGS
with cli.group_of("Input"):
  cli.define_paths("video", "Videos, folders of numbered images, .npy clips; folders or archives of these.", default=[])
  flags.DEFINE_string("rgb_npy", None, "RGB clip as an array [1, frames, 224, 224, 3] in [-1, 1], in place of a video.")
  flags.DEFINE_string("flow_npy", None, "Flow clip as an array [1, frames, 224, 224, 2] in [-1, 1], likewise.")
  flags.DEFINE_integer(
    "max_frames",
    250,
    "Frames of a video to use, from its start. Default: those of the network's test protocol, of I3D 250.",
    lower_bound=9,
  )
  flags.DEFINE_bool("allow_damaged", False, "Take what there is of damaged or incomplete videos.")
  flags.DEFINE_float("frame_rate", 25.0, "Frames per second of folders of images and of .npy clips.", lower_bound=0.1)
  flags.DEFINE_float("flow_bound", 20.0, "Pixels per frame of the largest byte of images of flow.", lower_bound=0.1)
  flags.DEFINE_integer("threads", None, "Threads for optical flow. Default: the cores.", lower_bound=1)
cli.define_flags(flow.FlowConfig, group="Input", unset={"flow": "that of the network's training"})
with cli.group_of("Following"):
  flags.DEFINE_string("follow", None, "A live source to classify again and again, in place of videos.")
cli.define_flags(inference.StreamConfig, group="Following")
with cli.group_of("Network"):
  flags.DEFINE_string("rgb_checkpoint", "rgb_imagenet", "RGB weights: a released name, a path, or a run of train.")
  flags.DEFINE_string("flow_checkpoint", "flow_imagenet", "Flow weights: a released name, a path, or a run of train.")
  flags.DEFINE_string("joint_checkpoint", None, "Weights of a network of both streams: a path or a run of train.")
  flags.DEFINE_enum(
    "streams",
    None,
    ["rgb", "flow", "joint"],
    "Streams to use; joint adds their logits. Default: rgb of a video, or those with an array.",
  )
cli.define_flags(inference.InferenceConfig, group="Network", defaults={"precision": "auto"})
cli.define_device_flags()
with cli.group_of("Output"):
  flags.DEFINE_integer("top_k", 5, "Number of classes to print.", lower_bound=1)
  flags.DEFINE_string("json", None, "Also write the results to this file.")
  flags.DEFINE_enum("expect", None, ["published"], "Compare the arrays' result with the release's published figures.")


def main(arguments: list[str]) -> int:
  """Classifies what the flags name, and prints the classes."""
  del arguments
  checkpoints = _checkpoints()
  if FLAGS.follow is not None:
    return _follow(checkpoints)
  if FLAGS.json is None:
    return _classify(checkpoints)[1]
  with workdir.replacing(FLAGS.json) as file:
    results, status = _classify(checkpoints)
    file.write(json.dumps({"streams": checkpoints, "results": results}, indent=2).encode() + b"\n")
  return status


def _checkpoints() -> dict[str, str]:
  """The checkpoints to use by stream, checked against the inputs given."""
  arrays = {"rgb": FLAGS.rgb_npy, "flow": FLAGS.flow_npy}
  given = [stream for stream, array in arrays.items() if array is not None]
  if bool(FLAGS.video) + bool(given) + (FLAGS.follow is not None) != 1:
    raise errors.I3dError("give either --video, --follow, or arrays (--rgb_npy, --flow_npy)")
  _check_following()
  if FLAGS.video and FLAGS.expect:
    raise errors.I3dError("--expect=published is for the release's sample arrays; give them with --rgb_npy, --flow_npy")
  if FLAGS.joint_checkpoint is not None:
    return _joint_checkpoint()
  is_video = bool(FLAGS.video) or FLAGS.follow is not None
  wanted = {None: ["rgb"] if is_video else given, "joint": ["rgb", "flow"]}.get(FLAGS.streams, [FLAGS.streams])
  if is_video:
    given = []
  elif missing := [stream for stream in wanted if stream not in given]:
    raise errors.I3dError(f"--streams={FLAGS.streams} needs --{missing[0]}_npy, which is not given")
  if unused := [stream for stream in given if stream not in wanted]:
    raise errors.I3dError(f"--{unused[0]}_npy is given, but --streams={FLAGS.streams} does not use it")
  if unused := [stream for stream in arrays if stream not in wanted and FLAGS[f"{stream}_checkpoint"].present]:
    raise errors.I3dError(f"--{unused[0]}_checkpoint is given, but only the {wanted[0]} stream is used")
  for name in ("threads", "flow", "flow_params"):
    if FLAGS[name].present and not (is_video and "flow" in wanted):
      raise errors.I3dError(f"--{name} is for the optical flow of videos; give --video and --streams=flow or joint")
  for name in ("max_frames", "allow_damaged", "frame_rate", "flow_bound"):
    if given and FLAGS[name].present:
      raise errors.I3dError(f"--{name} is for videos; arrays are used whole")
  return {stream: FLAGS[f"{stream}_checkpoint"].value for stream in wanted}


def _check_following() -> None:
  """Refuses flags that are for videos where a source is followed, and the other way round."""
  is_following = FLAGS.follow is not None
  of_videos = ("max_frames", "allow_damaged", "frame_rate", "flow_bound", "expect")
  for name in of_videos if is_following else fields.kinds(inference.StreamConfig):
    if FLAGS[name].present:
      raise errors.I3dError(f"--{name} is {'for whole videos, not for' if is_following else 'for'} --follow")


def _joint_checkpoint() -> dict[str, str]:
  if given := [name for name in ("rgb_checkpoint", "flow_checkpoint") if FLAGS[name].present]:
    raise errors.I3dError(f"give either --joint_checkpoint or --{given[0]}, not both")
  if FLAGS.streams in ("rgb", "flow"):
    raise errors.I3dError(f"--joint_checkpoint is of both streams, not of --streams={FLAGS.streams}")
  if not FLAGS.video and FLAGS.follow is None:
    raise errors.I3dError("--joint_checkpoint is for videos; give --video")
  return {"joint": FLAGS.joint_checkpoint}


def _classify(checkpoints: dict[str, str]) -> tuple[list[dict[str, Any]], int]:
  """Classifies every input, prints and returns the results, and the exit status."""
  published = _published(checkpoints)
  inputs = _inputs(list(checkpoints))
  cli.import_tensorflow()
  from i3d_tf.inference import classifier
  from i3d_tf.video import decode

  networks = classifier.Classifier(checkpoints, **_how())
  if networks.measured:
    times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in networks.measured.items())
    print(f"{cli.program()}: --precision=auto takes {networks.precision} ({times} for a convolution)", file=sys.stderr)
  results, last = [], None
  for name in workers.Bar(inputs, unit="video"):
    try:
      with decode.isolated():
        last = _classify_one(name, networks)
    except errors.OF_INPUT as error:
      message = cli.as_flags(errors.naming(name, errors.describe(error)))
      tqdm.tqdm.write(f"{cli.program()}: error: {message}", file=sys.stderr)
      results.append({"input": name, "error": message})
      continue
    results.append(last.as_dict())
    tqdm.tqdm.write(_format(last))
  failed = sum("error" in result for result in results)
  if len(inputs) > 1:
    print(f"{len(inputs) - failed} of {len(inputs)} videos classified, {failed} failed")
  off = published is not None and not failed and not _meets(published, last, networks.class_names)
  return results, int(bool(failed or off))


def _follow(checkpoints: dict[str, str]) -> int:
  """Classifies a live source until it ends, prints each prediction, and at the end what was done."""
  cli.import_tensorflow()
  from i3d_tf.inference import classifier
  from i3d_tf.inference import streaming

  follower = streaming.Follower(
    classifier.Classifier(checkpoints, **_how()),
    cli.from_flags(inference.StreamConfig),
    flow_config=cli.from_given_flags(flow.FlowConfig),
    threads=FLAGS.threads,
    top_k=FLAGS.top_k,
  )
  with open(FLAGS.json, "w", encoding="utf-8") if FLAGS.json else contextlib.nullcontext() as lines:
    try:
      for prediction in follower.follow(FLAGS.follow):
        print(prediction, flush=True)
        if lines is not None:
          print(json.dumps(prediction.as_dict()), file=lines, flush=True)
    finally:
      if summary := follower.summary():
        print(summary, file=sys.stderr)
  return 0


def _how() -> dict[str, Any]:
  """Precision and engine; what is compared with published figures is computed in float32."""
  how = cli.flag_values(inference.InferenceConfig)
  if FLAGS.expect and FLAGS["precision"].present and FLAGS.precision != "float32":
    raise errors.I3dError(f"--expect=published is for --precision=float32, not {FLAGS.precision}")
  if FLAGS.expect:
    how["precision"] = "float32"
  return how


def _inputs(streams: Sequence[str]) -> list[str]:
  if not FLAGS.video:
    return [" and ".join(FLAGS[f"{stream}_npy"].value for stream in streams)]
  from i3d_tf.video import archives
  from i3d_tf.video import decode

  videos = [str(path) for path in decode.list_videos(FLAGS.video)]
  if not any(map(archives.exists, videos)):  # before weights are loaded, or downloaded
    raise errors.VideoError(f"{videos[0]}: there is no such file")
  return videos


def _classify_one(name: str, networks: Any) -> Any:
  from i3d_tf.inference import classification

  if not FLAGS.video:
    clips = {stream: classification.read_npy_clip(FLAGS[f"{stream}_npy"].value) for stream in networks.streams}
    return classification.classify_clips(clips, networks, name=name, top_k=FLAGS.top_k)
  # The default is the protocol's of I3D; other networks look at the whole video.
  max_frames = FLAGS.max_frames if FLAGS["max_frames"].present else None
  return classification.classify(
      name, networks, top_k=FLAGS.top_k, max_frames=max_frames, threads=FLAGS.threads,
      flow_config=cli.from_given_flags(flow.FlowConfig),
      allow_damaged=FLAGS.allow_damaged, progress=sys.stderr.isatty(), frame_rate=FLAGS.frame_rate,
      flow_bound=FLAGS.flow_bound,
  )  # fmt: skip


def _format(result: Any) -> str:
  lines = [f"{result.input}: {result.num_frames} frames", f"Norm of logits: {result.norm:.6f}"]
  lines += [f"{each.probability:.7f} {each.logit:11.6f}  {each.label}" for each in result.predictions]
  return "\n".join(lines) + "\n"


def _published(checkpoints: dict[str, str]) -> Any:
  """The run of the release that the result is to be compared with, if it is."""
  if not FLAGS.expect:
    return None
  from i3d_tf.weights import manifest

  return manifest.find_run(list(checkpoints.values()), "joint" if len(checkpoints) > 1 else next(iter(checkpoints)))


def _meets(run: Any, result: Any, class_names: Sequence[str]) -> bool:
  from i3d_tf.weights import manifest

  lines, difference = manifest.compare_run(run, result.logits, class_names)
  verdict = "within" if difference <= manifest.TOLERANCE else "NOT within"
  print("\n".join(lines))
  print(f"largest difference {difference:.6f}, {verdict} {manifest.TOLERANCE}")
  return difference <= manifest.TOLERANCE


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
