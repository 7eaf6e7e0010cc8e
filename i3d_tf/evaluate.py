"""Evaluates trained networks on a split of a data set. See `--help`."""

import sys

from absl import flags

from i3d_tf import cli
from i3d_tf.evaluation import config as config_lib
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess
from i3d_tf.models import zoo

USAGE = """Evaluates one stream or two on a split of a data set's TFRecords.

  python -m i3d_tf.evaluate --records=records --rgb_checkpoint=runs/rgb --flow_checkpoint=runs/flow --output=results

A checkpoint is the folder of a run of train (its best network), a released checkpoint's name, or a path in the
release's layout. A network of another --model is tested by the protocol of its paper (python -m i3d_tf.models); one of
both streams at once is a --joint_checkpoint. Where clips are cut otherwise than in training, say so with --short_side
and the like.

The output holds scores_rgb.npz and scores_flow.npz (every video's logits), results.json, and report.html, which is one
file with tables, curves, the confusion matrix and the clips that were recognised best and worst. It can be stopped or
killed at any moment: start it again with the same flags and it goes on.

Streams that were evaluated on different machines are fused without networks; with --records, clips are shown, too:

  python -m i3d_tf.evaluate --rgb_scores=a/scores_rgb.npz --flow_scores=b/scores_flow.npz --output=both

Each row of the table is a stream: videos; top-1, top-5 and mean per class accuracy in percent; cross-entropy in nats.
Top-5 is told of five classes or more. The exit status is 1 if a record could not be evaluated; the others are still
done."""

_DEFAULT = clip_config.EvalClips()

FLAGS = flags.FLAGS
flags.DEFINE_string("records", None, "Folder of TFRecords, as prepare_dataset writes them.")
flags.DEFINE_string("split", "test", "The split to evaluate.")
flags.DEFINE_string("output", None, "Folder for the results; made if it is not there.", required=True)
flags.DEFINE_string("rgb_checkpoint", None, "The RGB network: a run of train, a released checkpoint's name, or a path.")
flags.DEFINE_string("flow_checkpoint", None, "The flow network, likewise.")
flags.DEFINE_string("joint_checkpoint", None, "A network of both streams at once, likewise.")
flags.DEFINE_enum("model", None, zoo.NAMES, "Refuse checkpoints of another network. Default: take any.")
flags.DEFINE_string("rgb_scores", None, "In place of --rgb_checkpoint: a scores_rgb.npz made before.")
flags.DEFINE_string("flow_scores", None, "In place of --flow_checkpoint: a scores_flow.npz made before.")
flags.DEFINE_enum(
  "protocol",
  None,
  clip_config.PROTOCOLS,
  "release: one pass over the first --max_frames; clips: --num_clips at equal distances; ten_crop: corners, centre "
  "and their mirror images of the clip in the middle; three_crops: of the clips at equal distances squares of the "
  "shorter side, at both ends and in the middle. Logits are averaged over time and views. Default: the network's; "
  "i3d: release.",
)
flags.DEFINE_integer(
  "max_frames", None, "For release: frames of a video, at most. Default: the network's; i3d: 250.", lower_bound=1
)
flags.DEFINE_integer("num_clips", None, "For clips, three_crops: how many. Default: the model's, or 10.", lower_bound=1)
flags.DEFINE_integer("num_frames", None, "For all but release: frames of a clip. Default: as trained.", lower_bound=1)
flags.DEFINE_integer("frame_stride", None, "Take every so many frames. Default: as in training.", lower_bound=1)
flags.DEFINE_integer("short_side", None, "Pixels of the shorter side. Default: as in training.", lower_bound=1)
flags.DEFINE_integer("crop", None, "Pixels of the crop's side. Default: as in training.", lower_bound=1)
flags.DEFINE_bool("flip", _DEFAULT.flip, "Also take the mirror image of every view.")
flags.DEFINE_enum(
  "fusion",
  "logits",
  config_lib.FUSIONS,
  "logits: added; softmax: probabilities averaged; svm: a linear SVM on both streams' softmax scores.",
)
flags.DEFINE_float("flow_weight", None, "Weight of flow; RGB has the rest. Default: 0.5.", lower_bound=0, upper_bound=1)
flags.DEFINE_list("svm_train_scores", [], "For svm: scores of the training split, RGB.npz,FLOW.npz.")
flags.DEFINE_integer("num_examples", 4, "Best clips in the report, and as many worst ones.", lower_bound=0)

_CLIP_FLAGS = ("protocol", "max_frames", "num_clips", "num_frames", "frame_stride", "short_side", "crop", "flip")


def main(arguments: list[str]) -> int:
  del arguments
  config = _config()
  cli.import_tensorflow()
  import tqdm

  from i3d_tf.evaluation import evaluator
  from i3d_tf.evaluation import metrics

  on_failure = lambda message: tqdm.tqdm.write(f"failed: {message}")
  report = evaluator.evaluate(config, progress=sys.stderr.isatty(), on_failure=on_failure)
  print(metrics.table(report.metrics))
  print(report.report_path)
  if report.failures:
    return cli.fail(f"{len(report.failures)} records could not be evaluated; results.json names them")
  return 0


def _config() -> config_lib.EvaluationConfig:
  given = lambda kind: {
    stream: FLAGS[f"{stream}_{kind}"].value
    for stream in preprocess.STREAMS_OF
    if f"{stream}_{kind}" in FLAGS and FLAGS[f"{stream}_{kind}"].value is not None
  }
  return config_lib.EvaluationConfig(
    output=FLAGS.output,
    records=FLAGS.records,
    split=FLAGS.split,
    checkpoints=given("checkpoint"),
    score_files=given("scores"),
    clips={name: FLAGS[name].value for name in _CLIP_FLAGS if FLAGS[name].present},
    model=FLAGS.model or "",
    fusion=FLAGS.fusion,
    flow_weight=FLAGS.flow_weight,
    svm_train_scores=tuple(FLAGS.svm_train_scores),
    num_examples=FLAGS.num_examples,
  )


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
