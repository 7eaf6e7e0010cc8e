"""Evaluates trained networks on a split of a data set. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import evaluation
from i3d_tf import inference
from i3d_tf.input import clip_config
from i3d_tf.models import zoo

USAGE = """Evaluates one stream or several on a split of a data set's TFRecords.

  python -m i3d_tf.evaluate --records=records --rgb_checkpoint=runs/rgb --flow_checkpoint=runs/flow --output=results

A checkpoint is the folder of a run of train (its best network), a released checkpoint's name, or a path in the
release's layout. A network of another --model is tested by the protocol of its paper (python -m i3d_tf.models); one of
both streams at once is a --joint_checkpoint. Where clips are cut otherwise than in training, say so with --short_side
and the like.

Sound is a third stream: --audio_checkpoint=runs/mine/audio, as fit --streams=rgb,audio makes it, of records with audio.

The output holds scores_rgb.npz and scores_flow.npz (every video's logits), results.json, and report.html, which is one
file with tables, curves, the confusion matrix and the clips that were recognised best and worst. It can be stopped or
killed at any moment: start it again with the same flags and it goes on.

Streams that were evaluated on different machines are fused without networks; with --records, clips are shown, too:

  python -m i3d_tf.evaluate --rgb_scores=a/scores_rgb.npz --flow_scores=b/scores_flow.npz --output=both

Each row of the table is a stream: videos; top-1, top-5 and mean per class accuracy in percent; cross-entropy in nats.
Top-5 is told of five classes or more. The exit status is 1 if a record could not be evaluated; the others are still
done."""

# A network has its own; a flag that is not given stands for it.
_CLIP_FLAGS = {
  "protocol": "the network's; i3d: release",
  "max_frames": "the network's; i3d: 250",
  "num_clips": "the network's, or 10",
  "num_frames": "as trained",
  "frame_stride": "as trained",
  "short_side": "as trained",
  "crop": "as trained",
  "flip": "off",
}

FLAGS = flags.FLAGS
cli.define_flags(evaluation.EvaluationConfig, group="Data and results", names=("output", "records", "split"))
with cli.group_of("Networks"):
  flags.DEFINE_string("rgb_checkpoint", None, "RGB network: a run of train, a released checkpoint's name, or a path.")
  flags.DEFINE_string("flow_checkpoint", None, "Flow network, likewise.")
  flags.DEFINE_string("joint_checkpoint", None, "Network of both streams at once, likewise.")
  flags.DEFINE_string("audio_checkpoint", None, "Classifier of sound, the folder audio of a run of fit.")
  flags.DEFINE_enum("model", None, zoo.NAMES, "Refuse checkpoints of another network. Default: take any.")
  flags.DEFINE_string("rgb_scores", None, "In place of --rgb_checkpoint: a scores_rgb.npz made before.")
  flags.DEFINE_string("flow_scores", None, "In place of --flow_checkpoint: a scores_flow.npz made before.")
  flags.DEFINE_string("audio_scores", None, "In place of --audio_checkpoint: a scores_audio.npz made before.")
cli.define_flags(inference.InferenceConfig, group="Networks")
cli.define_device_flags()
cli.define_flags(
  clip_config.EvalClips,
  group="Clips",
  names=_CLIP_FLAGS,
  unset={name: text for name, text in _CLIP_FLAGS.items() if name != "flip"},
)
cli.define_flags(
  evaluation.EvaluationConfig,
  group="Fusion and report",
  names=("fusion", "flow_weight", "audio_weight", "svm_train_scores", "num_examples", "retry_failures"),
  unset={"flow_weight": "0.5", "audio_weight": "as that of each other stream"},
)


def main(arguments: list[str]) -> int:
  del arguments
  config = _config()
  cli.import_tensorflow()
  import tqdm

  from i3d_tf.evaluation import evaluator
  from i3d_tf.evaluation import metrics

  on_failure = lambda message: tqdm.tqdm.write(f"failed: {cli.as_flags(message)}")
  report = evaluator.evaluate(config, progress=True, on_failure=on_failure)
  print(metrics.table(report.metrics))
  print(report.report_path)
  if report.failures:
    return cli.fail(
      f"{len(report.failures)} records could not be evaluated; results.json names them, and "
      "--retry_failures tries them again"
    )
  return 0


def _config() -> evaluation.EvaluationConfig:
  checkpoints, score_files = _given("checkpoint"), _given("scores")
  if both := sorted(set(checkpoints) & set(score_files)):
    raise errors.I3dError(f"give either --{both[0]}_checkpoint or --{both[0]}_scores, not both")
  if not checkpoints and not score_files:
    raise errors.I3dError(
      "give --rgb_checkpoint, --flow_checkpoint or both; or --joint_checkpoint; or --rgb_scores, --flow_scores"
    )
  if checkpoints and not FLAGS.records:
    raise errors.I3dError("--records is missing: the folder of TFRecords to evaluate on")
  return cli.from_flags(
    evaluation.EvaluationConfig,
    checkpoints=checkpoints,
    score_files=score_files,
    clips={name: FLAGS[name].value for name in _CLIP_FLAGS if FLAGS[name].present},
    model=FLAGS.model or "",
  )


def _given(kind: str) -> dict[str, str]:
  """What the flags of a kind name, by stream."""
  names = {stream: f"{stream}_{kind}" for stream in evaluation.STREAMS}
  return {stream: FLAGS[name].value for stream, name in names.items() if name in FLAGS and FLAGS[name].value}


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
