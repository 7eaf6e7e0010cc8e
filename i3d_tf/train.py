"""Trains a stream on any number of devices. See `--help`."""

import dataclasses

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess
from i3d_tf.models import zoo
from i3d_tf.training import config

USAGE = """Trains a network on records from prepare_dataset: one stream of I3D, or --model=NAME.

A small network on small clips, from scratch:
  python -m i3d_tf.train --records=DATA --output=RUN --stream=flow --num_steps=400 \\
      --width_multiplier=0.25 --average_space --crop=64 --short_side=72 --num_frames=16

A recipe is a file of flags; what comes after it wins:
  python -m i3d_tf.train --flagfile=experiments/ucf101/i3d_rgb_full_ft.flags --records=DATA --output=RUN

It runs on all GPUs of this machine, or on the CPU, and with TF_CONFIG on several machines (start the same command on
each). --batch_size counts the clips of one replica. SIGTERM or Ctrl-C ends it after the step at hand, with all saved
and exit status 0 or 1; the same command goes on where it was, with the same batches and weights as if it had never
stopped.

The folder RUN holds best/ (the network, for evaluate, classify and the rest), checkpoints/ (to go on from),
metrics.jsonl and TensorBoard's events, flags.txt, options.json, versions.txt, variables.txt and input_steps.txt."""

_RUN = {field.name: field.default for field in dataclasses.fields(config.Run)}
_OPT = config.Optimization()
_CLIPS = clip_config.TrainClips()
_OF_THE_NETWORK = ("num_frames", "frame_stride", "flow_stack", "short_side", "crop")  # defaults are the network's

FLAGS = flags.FLAGS
# What is trained, on what, and where it goes.
flags.DEFINE_string("records", "", "Folder of TFRecords from prepare_dataset.")
flags.DEFINE_string("output", "", "Folder of the run; a run that is there goes on.")
flags.DEFINE_enum("model", _RUN["model"], zoo.NAMES, "The network; python -m i3d_tf.models tells of each.")
flags.DEFINE_enum(
  "stream", _RUN["stream"], list(preprocess.STREAMS_OF), "Stream to train; joint: both at once, in one network."
)
flags.DEFINE_string("split", _RUN["split"], "Split to train on.")
flags.DEFINE_string(
    "second_records", _RUN["second_records"],
    "Records of another data set to train on at the same time: half of every batch, with classes of its own.",
)  # fmt: skip
flags.DEFINE_string("second_split", _RUN["second_split"], "Split of --second_records.")
flags.DEFINE_string("validation_split", _RUN["validation_split"], "Split to validate on; none by default.")
flags.DEFINE_string(
    "initial_checkpoint", _RUN["initial_checkpoint"],
    "Weights to start from: a released checkpoint's name, a path, or the folder of a run. The classifier is new where "
    "the classes differ; a flow network takes the mean of an RGB network's first kernel. inception_v1 is TF-slim's, "
    "from ImageNet: the networks that hold it start from it, and i3d and s3d from it inflated. A PyTorch state dict "
    "(.pt, .pth, .pyth) of a network of the zoo, too; from torchvision's resnet50 start those that hold resnet_50.",
)  # fmt: skip
flags.DEFINE_boolean(
    "rescale_first_kernel", _RUN["rescale_first_kernel"],
    "Multiply that mean by 3 / channels, so that equal inputs keep their response.",
)  # fmt: skip
flags.DEFINE_float("width_multiplier", _RUN["width_multiplier"], "Factor on every layer's width.")
flags.DEFINE_boolean("average_space", _RUN["average_space"], "Take any --crop, and average the logits over space.")
# The clips.
flags.DEFINE_integer("num_frames", None, "Frames of a clip. Default: the network's; i3d: 64.", lower_bound=1)
flags.DEFINE_integer("frame_stride", None, "Take every n-th frame. Default: the network's; i3d: 1.", lower_bound=1)
flags.DEFINE_integer(
    "flow_stack", None, "Flows at each of the frames, stacked as channels. Default: the network's; i3d: 1.",
    lower_bound=1,
)  # fmt: skip
flags.DEFINE_enum(
    "flow_stacking", _CLIPS.flow_stacking, clip_config.FLOW_STACKINGS,
    "Where the flows of a stack are taken: all at the pixel; along its path; half of them forward from the frame and "
    "half backward, which takes records with --backward_flow.",
)  # fmt: skip
flags.DEFINE_boolean("subtract_mean_flow", _CLIPS.subtract_mean_flow, "Subtract from each flow field its mean vector.")
flags.DEFINE_integer(
  "short_side", None, "Pixels of the shorter side before the crop. Default: the network's; i3d: 256.", lower_bound=1
)
flags.DEFINE_integer("crop", None, "Pixels of the square crop. Default: the network's; i3d: 224.", lower_bound=1)
flags.DEFINE_boolean("flip", _CLIPS.flip, "Mirror half of the clips.")
flags.DEFINE_list("scale_jitter", list(_CLIPS.scale_jitter), "Range of a factor on --short_side, such as 0.8,1.2.")
flags.DEFINE_float("photometric_jitter", _CLIPS.photometric_jitter, "Strength of colour changes, one a clip; usual: 1.")
flags.DEFINE_integer("temporal_jitter", _CLIPS.temporal_jitter, "Shift each clip's start by up to so many frames.")
flags.DEFINE_float("segment_shuffle", _CLIPS.segment_shuffle, "Probability of shuffling a clip's segments.")
flags.DEFINE_integer("num_segments", _CLIPS.num_segments, "Segments of --segment_shuffle.", lower_bound=2)
flags.DEFINE_float("frame_dropout", _CLIPS.frame_dropout, "Probability of a frame to become the clip's mean colour.")
# The recipe.
flags.DEFINE_integer("num_steps", None, "The last step.", lower_bound=1, required=True)
flags.DEFINE_integer("batch_size", _RUN["batch_size"], "Clips per replica and batch.", lower_bound=1)
flags.DEFINE_integer(
  "accumulation_steps", _OPT.accumulation_steps, "Add up the gradients of so many batches for a step.", lower_bound=1
)
flags.DEFINE_enum(
  "optimizer", _OPT.optimizer, config.OPTIMIZERS, "momentum: SGD as TensorFlow 1 defines it, rate outside; adam."
)
flags.DEFINE_float("learning_rate", _OPT.learning_rate, "Learning rate, of all schedules but piecewise.")
flags.DEFINE_float("momentum", _OPT.momentum, "Momentum.")
flags.DEFINE_enum(
    "schedule", _OPT.schedule, config.SCHEDULES,
    "Of the rate. piecewise: --rates between --rate_boundaries; cosine: to 0 at the last step; plateau: dropped when "
    "the validation loss saturates.",
)  # fmt: skip
flags.DEFINE_list("rate_boundaries", [], "piecewise: the steps after which the rate changes.")
flags.DEFINE_list("rates", [], "piecewise: the rates, one more than boundaries.")
flags.DEFINE_integer("warmup_steps", _OPT.warmup_steps, "The rate rises linearly over so many steps.")
flags.DEFINE_integer("plateau_patience", _OPT.plateau_patience, "plateau: validations without a lower loss.")
flags.DEFINE_float("plateau_factor", _OPT.plateau_factor, "plateau: factor on the rate.")
flags.DEFINE_float("weight_decay", _OPT.weight_decay, "L2 on convolution kernels, by its gradient's factor.")
flags.DEFINE_float("clip_norm", _OPT.clip_norm, "Largest global norm of the gradients; 0: any.")
flags.DEFINE_float("label_smoothing", _OPT.label_smoothing, "Probability spread evenly over the classes.")
flags.DEFINE_float("dropout", _OPT.dropout, "Dropout rate before the classifier.")
flags.DEFINE_boolean("spatial_dropout", _OPT.spatial_dropout, "Drop whole channels.")
flags.DEFINE_string(
    "freeze", _OPT.freeze,
    "Regular expression of units that stand still, batch norm included, from the beginning of their names: "
    "'(?!Logits)' for all but the classifier, '(?!(rgb|flow)/Logits)' for those of two_stream, 'Conv3d|Mixed_[34]' for "
    "the lower part.",
)  # fmt: skip
flags.DEFINE_integer("unfreeze_step", _OPT.unfreeze_step, "From this step on nothing is frozen; 0: never.")
flags.DEFINE_boolean("sync_batch_norm", _OPT.sync_batch_norm, "Batch statistics of all replicas together.")
flags.DEFINE_float(
    "batch_norm_decay", _OPT.batch_norm_decay,
    "Of the moving statistics. Runs of a few hundred steps want 0.9 to 0.99, or little of them is learnt.",
)  # fmt: skip
# How it is computed.
flags.DEFINE_enum("precision", _OPT.precision, config.PRECISIONS, "Of convolutions; float16 scales the loss.")
flags.DEFINE_enum("jit_compile", _OPT.jit_compile, config.JIT, "Compile with XLA; auto: on GPUs only.")
flags.DEFINE_boolean("recompute", _OPT.recompute, "Compute activations twice to save memory.")
flags.DEFINE_integer("num_logical_cpus", _RUN["num_logical_cpus"], "Replicas on shares of the CPU, for tests.")
flags.DEFINE_string("data_service", _RUN["data_service"], "Address of a tf.data service, grpc://HOST:PORT.")
flags.DEFINE_integer("data_shards", _RUN["data_shards"], "Groups of files that batches draw from; 0: one a worker.")
flags.DEFINE_integer("seed", _RUN["seed"], "Of weights, order, augmentation and dropout.")
flags.DEFINE_boolean("deterministic", _RUN["deterministic"], "The same bits each time, at some cost.")
# How it is kept and told.
flags.DEFINE_integer("save_every", _RUN["save_every"], "Steps between checkpoints.", lower_bound=1)
flags.DEFINE_integer("keep_checkpoints", _RUN["keep_checkpoints"], "Checkpoints to keep.", lower_bound=1)
flags.DEFINE_integer("validate_every", _RUN["validate_every"], "Steps between validations; 0: at the end only.")
flags.DEFINE_integer("log_every", _RUN["log_every"], "Steps between lines of metrics.jsonl.", lower_bound=1)
flags.DEFINE_list("profile_steps", [], "First and last step to profile for TensorBoard, such as 10,20.")
flags.DEFINE_integer("allow_unreadable", _RUN["allow_unreadable"], "Go on without so many unreadable records.")


def main(arguments: list[str]) -> None:
  del arguments
  cli.import_tensorflow()  # the zoo's entries need it
  run = cli.from_flags(config.Run, profile_steps=_numbers("profile_steps", int))
  optimization = cli.from_flags(
    config.Optimization, rates=_numbers("rates", float), rate_boundaries=_numbers("rate_boundaries", int)
  )
  own = zoo.training_clips(run.model, run.stream)
  given = {name: FLAGS[name].value for name in _OF_THE_NETWORK if FLAGS[name].value is not None}
  defaults = {name: getattr(_CLIPS, name) for name in _OF_THE_NETWORK}
  clips = cli.from_flags(
      clip_config.TrainClips, streams=preprocess.STREAMS_OF[run.stream],
      scale_jitter=_numbers("scale_jitter", float), **{**defaults, **own, **given},
  )  # fmt: skip
  from i3d_tf.training import trainer

  trainer.train(run, optimization, clips, flags_text=_flags_text())


def _numbers(name: str, kind: type) -> tuple:
  try:
    return tuple(kind(value) for value in FLAGS[name].value)
  except ValueError:
    words = {int: "whole numbers", float: "numbers"}[kind]
    raise errors.I3dError(f"--{name} is {','.join(FLAGS[name].value)}; it takes {words} separated by commas") from None


def _flags_text() -> str:
  """All flags of this program, in the form of a flagfile."""
  return "".join(f"{flag.serialize()}\n" for flag in FLAGS.get_key_flags_for_module(__name__) if flag.value is not None)


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
