"""Classifies videos with the released networks. See `--help`."""

import json
import os
import sys

from absl import flags
import tqdm

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import workdir
from i3d_tf.input import clip_config

USAGE = """Classifies videos with Inception I3D.

A video file or folder, whole, in one pass:
  python -m i3d_tf.classify --video=clip.mp4 --rgb_checkpoint=rgb_scratch

With --streams=flow or joint the optical flow (TV-L1) of a video is computed on the fly.

The release's sample run, and how far it is from the published figures:
  python -m i3d_tf.classify --streams=joint --rgb_npy=v_CricketShot_g04_c01_rgb.npy \\
      --flow_npy=v_CricketShot_g04_c01_flow.npy --expect=published

Each result is the norm of the logits, then a line a class: probability, logit, label. The exit status is 1 if
any video could not be classified; the others are still done."""

FLAGS = flags.FLAGS
flags.DEFINE_list("video", [], "Videos, or folders of videos, separated by commas.")
flags.DEFINE_string("rgb_checkpoint", "rgb_imagenet", "RGB weights: a released name, a path, or a run of train.")
flags.DEFINE_string("flow_checkpoint", "flow_imagenet", "Flow weights: a released name, a path, or a run of train.")
flags.DEFINE_string("rgb_npy", None, "RGB clip as an array [1, frames, 224, 224, 3] in [-1, 1], in place of a video.")
flags.DEFINE_string("flow_npy", None, "Flow clip as an array [1, frames, 224, 224, 2] in [-1, 1], in place of a video.")
flags.DEFINE_enum(
  "streams",
  None,
  ["rgb", "flow", "joint"],
  "Streams to use; joint adds their logits. Default: rgb of a video, or those with an array.",
)
flags.DEFINE_integer("top_k", 5, "Number of classes to print.", lower_bound=1)
flags.DEFINE_integer("max_frames", 250, "Frames of a video to use, at 25 per second, from its start.", lower_bound=9)
flags.DEFINE_integer("threads", None, "Threads for optical flow. Default: the cores.", lower_bound=1)
flags.DEFINE_string("json", None, "Also write the results to this file.")
flags.DEFINE_enum("expect", None, ["published"], "Compare the arrays' result with the release's published figures.")


def main(arguments: list[str]) -> int:
  del arguments
  streams = _streams()
  if FLAGS.json is None:
    return _classify(streams)[1]
  with workdir.replacing(FLAGS.json) as file:
    results, status = _classify(streams)
    file.write(json.dumps({"streams": _checkpoints(streams), "results": results}, indent=2).encode() + b"\n")
  return status


def _streams() -> list[str]:
  """The streams to use, checked against the inputs given."""
  arrays = {"rgb": FLAGS.rgb_npy, "flow": FLAGS.flow_npy}
  given = [stream for stream, array in arrays.items() if array is not None]
  if bool(FLAGS.video) == bool(given):
    raise errors.I3dError("give either --video or arrays (--rgb_npy, --flow_npy)")
  if FLAGS.video and FLAGS.expect:
    raise errors.I3dError("--expect=published is for the release's sample arrays; give them with --rgb_npy, --flow_npy")
  available = ["rgb", "flow"] if FLAGS.video else given
  wanted = {None: ["rgb"] if FLAGS.video else given, "joint": ["rgb", "flow"]}.get(FLAGS.streams, [FLAGS.streams])
  if missing := [stream for stream in wanted if stream not in available]:
    raise errors.I3dError(f"--streams={FLAGS.streams} needs --{missing[0]}_npy, which is not given")
  if unused := [stream for stream in given if stream not in wanted]:
    raise errors.I3dError(f"--{unused[0]}_npy is given, but --streams={FLAGS.streams} does not use it")
  if unused := [stream for stream in arrays if stream not in wanted and FLAGS[f"{stream}_checkpoint"].present]:
    raise errors.I3dError(f"--{unused[0]}_checkpoint is given, but only the {wanted[0]} stream is used")
  if FLAGS.threads is not None and not (FLAGS.video and "flow" in wanted):
    raise errors.I3dError("--threads is for the optical flow of videos; give --video and --streams=flow or joint")
  if given and FLAGS["max_frames"].present:
    raise errors.I3dError("--max_frames is for videos; arrays are used whole")
  return wanted


def _checkpoints(streams: list[str]) -> dict[str, str]:
  return {stream: FLAGS[f"{stream}_checkpoint"].value for stream in streams}


def _classify(streams: list[str]) -> tuple[list[dict], int]:
  """Classifies every input, prints and returns the results, and the exit status."""
  run = None
  if FLAGS.expect:
    from i3d_tf.evaluation import published

    run = published.find(list(_checkpoints(streams).values()), "joint" if len(streams) > 1 else streams[0])
  inputs = _inputs(streams)
  cli.import_tensorflow()
  from i3d_tf.inference import classification

  networks = {stream: classification.StreamClassifier(path) for stream, path in _checkpoints(streams).items()}
  for stream, network in networks.items():
    if network.model.in_channels != clip_config.CHANNELS[stream]:
      raise errors.I3dError(
        f"checkpoint {_checkpoints([stream])[stream]} is of a network for clips of {network.model.in_channels} "
        f"channels; the {stream} stream has {clip_config.CHANNELS[stream]}"
      )
  info = classification.check_together([network.info for network in networks.values()])
  class_names = classification.class_names(info)
  results = []
  for name in tqdm.tqdm(inputs, unit="video", disable=None):
    try:
      clips = _read_clips(name, streams, info)
      logits = _logits(name, clips, networks)
    except (errors.I3dError, OSError) as error:
      message = errors.describe_os_error(error) if isinstance(error, OSError) else str(error)
      tqdm.tqdm.write(f"{cli.program()}: error: {message}", file=sys.stderr)
      results.append({"input": name, "error": message})
      continue
    result = _describe(name, len(clips[streams[0]]), logits, class_names)
    results.append(result)
    tqdm.tqdm.write(_format(result))
  failed = sum("error" in result for result in results)
  if len(inputs) > 1:
    print(f"{len(inputs) - failed} of {len(inputs)} videos classified, {failed} failed")
  off = run is not None and not failed and not _meets(run, logits, class_names)
  return results, int(bool(failed or off))


def _inputs(streams: list[str]) -> list[str]:
  if not FLAGS.video:
    return [" and ".join(FLAGS[f"{stream}_npy"].value for stream in streams)]
  from i3d_tf.video import decode

  return [os.fspath(path) for path in decode.list_videos(FLAGS.video)]


def _read_clips(name: str, streams: list[str], info) -> dict:
  from i3d_tf.inference import classification

  if FLAGS.video:
    with tqdm.tqdm(desc="optical flow", unit="frame", disable=None if "flow" in streams else True, leave=False) as bar:

      def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

      return classification.read_video_clips(
          name, streams, max_frames=FLAGS.max_frames, short_side=info.short_side, crop=info.crop,
          threads=FLAGS.threads, on_flow=show,
      )  # fmt: skip
  return {stream: classification.read_npy_clip(FLAGS[f"{stream}_npy"].value) for stream in streams}


def _logits(name: str, clips: dict, networks: dict):
  try:
    return sum(network.logits(clips[stream]) for stream, network in networks.items())
  except errors.I3dError as error:  # the network does not know whose clip it is
    raise errors.I3dError(f"{name}: {error}") from None


def _describe(name: str, num_frames: int, logits, class_names: tuple[str, ...]) -> dict:
  import dataclasses

  import numpy as np

  from i3d_tf.inference import classification

  predictions = classification.rank(logits, class_names, FLAGS.top_k)
  return {
    "input": name,
    "frames": num_frames,
    "norm": float(np.linalg.norm(logits)),
    "predictions": [dataclasses.asdict(prediction) for prediction in predictions],
  }


def _format(result: dict) -> str:
  lines = [f"{result['input']}: {result['frames']} frames", f"Norm of logits: {result['norm']:.6f}"]
  lines += [f"{p['probability']:.7f} {p['logit']:11.6f}  {p['label']}" for p in result["predictions"]]
  return "\n".join(lines) + "\n"


def _meets(run, logits, class_names: tuple[str, ...]) -> bool:
  from i3d_tf.evaluation import published

  lines, difference = published.compare(run, logits, class_names)
  verdict = "within" if difference <= published.TOLERANCE else "NOT within"
  print("\n".join(lines))
  print(f"largest difference {difference:.6f}, {verdict} {published.TOLERANCE}")
  return difference <= published.TOLERANCE


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
