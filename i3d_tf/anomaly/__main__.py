"""Finds when something unusual happens in videos. See `--help`."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

from absl import flags

from i3d_tf import anomaly
from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import workdir

USAGE = """Finds when something unusual happens in videos, learnt from which videos have it at all.

  python -m i3d_tf.anomaly train --features=FEATURES --list=train.txt --output=RUN
      a network that scores each row of features. The list has a video a line: its name, and, if wanted, 1 with or 0
      without anomaly, and its number of frames. Without labels, names with 'Normal' (UCF-Crime) or 'label_A'
      (XD-Violence) have none.

  python -m i3d_tf.anomaly test RUN --features=FEATURES --list=test.txt --annotation=Temporal_Anomaly_Annotation.txt
      the area under the curve over all frames, and the average precision. The annotation is UCF-Crime's, or an .npy
      with 0 or 1 for every frame of the list's videos, as for ShanghaiTech and XD-Violence. With --output a JSON file
      also has each video's, and the scores of its rows.

  python -m i3d_tf.anomaly timeline RUN clip.mp4 --output=clip_anomaly.mp4
      the video with its score over time, and beside it alerts as JSON: start, end and peak of each time in which the
      score reaches --threshold. The features are taken as those of the training were, if `extract_features` made
      them; those of others are given with --features=FILE.

Features are files of `python -m i3d_tf.extract_features` (--window=16 --hop=16 --tail=drop suits), or published ones:
STEM.npy, STEM_i3d.npy of several crops, STEM__0.npy, ... a file a crop, STEM_c3d.txt. Files that do not say how many
frames a row stands for have 16."""

_FLAGS_OF = {
  "features": ("train", "test", "timeline"), "list": ("train", "test"), "annotation": ("test",),
  "threshold": ("timeline",), "rgb_checkpoint": ("timeline",),
  "allow_damaged": ("timeline",), "frame_rate": ("timeline",),
}  # fmt: skip

FLAGS = flags.FLAGS
flags.DEFINE_string("features", None, "Folder of files of features; of timeline the file of the video.")
flags.DEFINE_string("list", None, "List of the videos.")
flags.DEFINE_string("annotation", None, "Truth about the frames of the videos.")
flags.DEFINE_string("output", None, "New folder of train, JSON file of test, or .mp4 file of timeline.")
with cli.group_of("timeline"):
  flags.DEFINE_float("threshold", 0.5, "Least score of an alert.", lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_string("rgb_checkpoint", None, "RGB weights. Default: those of the features that were trained on.")
  flags.DEFINE_boolean("allow_damaged", False, "Take what there is of a damaged or incomplete video.")
  flags.DEFINE_float("frame_rate", 25.0, "Frames per second of folders of images and of .npy clips.", lower_bound=0.1)
cli.define_flags(anomaly.RankingConfig, group="train")
cli.define_device_flags()


def main(arguments: list[str]) -> int:
  """Does what the first argument names."""
  tasks: dict[str, tuple[Callable[..., None], int]] = {
    "train": (_train, 0), "test": (_test, 1), "timeline": (_timeline, 2),
  }  # fmt: skip
  if not arguments or arguments[0] not in tasks:
    raise errors.I3dError(f"say what to do: {', '.join(tasks)}; got {' '.join(arguments) or 'nothing'}; see --help")
  task, *names = arguments
  function, count = tasks[task]
  if len(names) != count:
    wanted = ("no further word", "one network", "a network and a video")[count]
    raise errors.I3dError(f"{task} takes {wanted}; got {' '.join(names) or 'none'}; see --help")
  own = {field.name for field in dataclasses.fields(anomaly.RankingConfig)}
  for name in (*_FLAGS_OF, *own):
    if name in FLAGS and FLAGS[name].present and task not in _FLAGS_OF.get(name, ("train",)):
      raise errors.I3dError(f"--{name} is for {' and '.join(_FLAGS_OF.get(name, ('train',)))}, not for {task}")
  needed = {
    "train": ("features", "list", "output"),
    "test": ("features", "list", "annotation"),
    "timeline": ("output",),
  }
  if missing := [f"--{name}" for name in needed[task] if FLAGS[name].value is None]:
    raise errors.I3dError(f"{task} needs {' and '.join(missing)}")
  function(*names)
  return 0


def _train() -> None:
  config = cli.from_flags(anomaly.RankingConfig)
  from i3d_tf.anomaly import bags as bags_lib

  with workdir.new_folder(FLAGS.output) as folder:
    bags = bags_lib.read_bags(FLAGS.features, FLAGS.list)
    cli.import_tensorflow()
    from i3d_tf.anomaly import ranking

    every = max(1, config.num_steps // 10)
    show = lambda step, loss: print(f"step {step}: loss {loss:.4f}", flush=True) if step % every == 0 else None
    ranking.train(bags, config, on_step=show).save(folder)
  abnormal = sum(bool(bag.is_abnormal) for bag in bags)
  print(f"{FLAGS.output} is trained on {abnormal} videos with anomalies and {len(bags) - abnormal} without")


def _test(run: str) -> None:
  cli.import_tensorflow()
  from i3d_tf.anomaly import bags as bags_lib
  from i3d_tf.anomaly import ranking
  from i3d_tf.anomaly import scores as scores_lib

  ranker = ranking.load(run)
  bags = bags_lib.read_bags(FLAGS.features, FLAGS.list)
  truth = bags_lib.read_truth(FLAGS.annotation, bags)
  rows = [ranker.score(bag) for bag in bags]
  found = scores_lib.measure([bag.of_frames(each) for bag, each in zip(bags, rows, strict=True)], truth)
  print(f"{len(bags)} videos, {sum(map(len, truth))} frames: AUC {found['auc']:.4f}, AP {found['ap']:.4f}")
  if FLAGS.output is not None:
    videos = [
      {"name": bag.name, "num_frames": bag.num_frames, "anomalous_frames": int(each.sum()), "scores": score.tolist()}
      for bag, each, score in zip(bags, truth, rows, strict=True)
    ]
    _write_json(FLAGS.output, {"network": run, **found, "videos": videos})
    print(FLAGS.output)


def _timeline(run: str, video: str) -> None:
  path = pathlib.Path(FLAGS.output)
  cli.import_tensorflow()
  from i3d_tf.anomaly import bags as bags_lib
  from i3d_tf.anomaly import ranking
  from i3d_tf.anomaly import scores as scores_lib
  from i3d_tf.video import decode
  from i3d_tf.video import encode

  ranker = ranking.load(run)
  with encode.writing(path, fps=decode.FRAME_RATE) as write:
    if FLAGS.features is not None:
      bag = bags_lib.read_bag(FLAGS.features)
    else:
      how = {"allow_damaged": FLAGS.allow_damaged, "frame_rate": FLAGS.frame_rate}
      bag = _extract(video, ranker.facts, **how)
    scores = bag.of_frames(ranker.score(bag))
    fps = float(bag.facts.get("fps", decode.FRAME_RATE))
    scores_lib.draw(
        video, scores, fps, write, threshold=FLAGS.threshold, progress=True, allow_damaged=FLAGS.allow_damaged,
        image_rate=FLAGS.frame_rate,
    )  # fmt: skip
  alerts = scores_lib.find_alerts(scores, fps, threshold=FLAGS.threshold)
  content = {"video": video, "network": run, "threshold": FLAGS.threshold, "fps": fps}
  _write_json(path.with_suffix(".json"), content | {"alerts": [dataclasses.asdict(alert) for alert in alerts]})
  print(path, path.with_suffix(".json"), sep="\n")
  for alert in alerts:
    print(f"{alert.start:.2f} to {alert.end:.2f} s: {alert.peak:.3f} at {alert.peak_time:.2f} s")


def _extract(video: str, facts: Mapping[str, Any], **options: Any):
  """The features of a video, taken as those of the training were."""
  from i3d_tf.anomaly import bags as bags_lib
  from i3d_tf.features import extraction

  if facts.get("stream") not in ("rgb", "joint"):
    raise errors.I3dError(
      "the network was trained on features that are not of RGB, or do not say how they were made; give those of the "
      "video with --features=FILE"
    )
  endpoint, checkpoint = facts["endpoint"], FLAGS.rgb_checkpoint or facts["checkpoint"]
  own = {name: facts[name] for name in ("pooling", "window", "hop", "tail", "crops", "fps") if name in facts}
  found = extraction.extract_features(video, checkpoint, progress=True, endpoints=(endpoint,), **own, **options)
  return bags_lib.from_array(video, found[facts["stream"]][endpoint], {**facts, "num_frames": found.num_frames})


def _write_json(path: str | os.PathLike, content: dict) -> None:
  with workdir.replacing(path) as file:
    file.write(json.dumps(content, indent=1).encode() + b"\n")


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE, takes_arguments=True)


if __name__ == "__main__":
  run()
