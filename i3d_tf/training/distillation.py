"""Learning from a trained network: a student of RGB that imitates a network of flow sees motion without flow at test.

The teacher sees the same clips as the student, in its own streams, and is not trained. Two distances are offered:
between the features before the classifiers, as MARS has it (Crasto et al., CVPR 2019, which adds 50 times the mean
squared difference to the cross-entropy), and between the logits, as D3D has it (Stroud et al., arXiv 1812.08249; that
this is a mean squared difference, too, and its factor 1, is from memory).
"""

from collections.abc import Mapping
import dataclasses

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.models import base
from i3d_tf.weights import release
from i3d_tf.weights import saved

_ENDPOINTS = {"mars": base.POOLED_FEATURES, "logits": base.LOGITS}
_WEIGHTS = {"mars": 50.0, "logits": 1.0}
_OF_FLOW = ("flow_stack", "flow_stacking", "subtract_mean_flow")


class Teacher:
  """A trained network from which another one learns.

  Attributes:
    info: Its description.
    weight: Factor of the distance in the loss.
  """

  def __init__(self, run: training.TrainConfig):
    """Reads the network; `load` makes it.

    Args:
      run: Names the network, the distance and its factor.

    Raises:
      CheckpointError, DownloadError: If it cannot be read.
    """
    self._path = run.teacher
    self._values, self.info = saved.read(run.teacher)
    self._endpoint = _ENDPOINTS[run.distill]
    self.weight = _WEIGHTS[run.distill] if run.distill_weight is None else run.distill_weight

  def clips(self, clips: clip_config.TrainClips) -> clip_config.TrainClips:
    """Returns the clips of the student with the streams of the teacher beside its own, both cut alike.

    Args:
      clips: Clips of the student.

    Raises:
      I3dError: If the teacher takes other clips.
    """
    own, streams = self.info.preprocess, {*clips.streams, *self.info.streams}
    if "flow" in streams - set(clips.streams):  # the teacher's alone
      clips = dataclasses.replace(clips, streams=tuple(streams), **{name: getattr(own, name) for name in _OF_FLOW})
    for name, value in dataclasses.asdict(own).items():
      if value != getattr(clips, name) and (name not in _OF_FLOW or "flow" in self.info.streams):
        raise errors.I3dError(
          f"the teacher {self._path} takes clips with a {name} of {value}, and the student's have "
          f"{getattr(clips, name)}; both must see the same"
        )
    return dataclasses.replace(clips, streams=tuple(streams))

  def load(self, student: saved.ModelInfo) -> None:
    """Makes the network; call it in the strategy's scope.

    Args:
      student: The network that is to learn from it.

    Raises:
      I3dError: If the two have other classes, or features of other widths.
      CheckpointError: If the weights do not fit.
    """
    if self.info.num_classes != student.num_classes or (self.info.classes and self.info.classes != student.classes):
      raise errors.I3dError(
        f"the teacher {self._path} has {self.info.num_classes} classes, and the student {student.num_classes}, or they "
        "have other names; a teacher must be trained on the same classes"
      )
    if self._endpoint == base.POOLED_FEATURES:
      widths = [_feature_width(info) for info in (self.info, student)]
      if widths[0] != widths[1]:
        raise errors.I3dError(
          f"the teacher {self._path} has {widths[0]} features before its classifier, and the student {widths[1]}; "
          "distill by logits, or take networks of equal widths"
        )
    self._model = saved.make_model(self.info)
    release.assign(self._model, self._values, self._path)

  def distances(self, endpoints: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the mean squared difference between student and teacher for each clip, `[B]`; steps are averaged before.

    Args:
      endpoints: Those of the student.
      batch: Scaled clips that it saw, with the teacher's streams.
    """
    found = self._model(base.clip_of(batch, self.info.streams), False)[1]
    both = [each[self._endpoint] for each in (endpoints, found)]
    student, teacher = (tf.reduce_mean(value, 1) if value.shape.rank == 3 else value for value in both)
    return tf.reduce_mean(tf.math.squared_difference(student, tf.stop_gradient(teacher)), axis=-1)


def _feature_width(info: saved.ModelInfo) -> int:
  """The channels of 'PooledFeatures', found without computing them."""
  shape = [1, info.preprocess.num_frames, info.preprocess.crop, info.preprocess.crop]
  with tf.Graph().as_default():  # where variables have shapes and take no memory
    clips = {stream: tf.zeros([*shape, channels]) for stream, channels in info.channels.items()}
    return saved.make_model(info)(base.clip_of(clips, info.streams))[1][base.POOLED_FEATURES].shape[-1]
