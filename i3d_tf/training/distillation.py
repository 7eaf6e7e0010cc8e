"""Learning from a trained network: a student of RGB that imitates a network of flow sees motion without flow at test.

The teacher sees the same clips as the student, in its own streams, and is not trained. Two distances are offered:
between the features before the classifiers, as MARS has it (Crasto et al., CVPR 2019, which adds 50 times the mean
squared difference to the cross-entropy), and between the logits, as D3D has it (Stroud et al., arXiv 1812.08249; that
this is a mean squared difference, too, and its factor 1, is from memory).
"""

from collections.abc import Mapping, Sequence
import dataclasses

import tensorflow as tf

from i3d_tf import errors
from i3d_tf import flow
from i3d_tf import training
from i3d_tf.input import clip_config
from i3d_tf.models import base
from i3d_tf.training import objectives
from i3d_tf.weights import release
from i3d_tf.weights import saved

_ENDPOINTS = {"mars": base.POOLED_FEATURES, "logits": base.LOGITS}
_WEIGHTS = {"mars": 50.0, "logits": 1.0}
_OF_FLOW = ("flow_stack", "flow_stacking", "subtract_mean_flow")


class Distillation(objectives.Classification):
  """The cross-entropy of the labels and the distance from a trained network, the teacher.

  Attributes:
    info: The teacher's description.
    weight: Factor of the distance in the loss.
  """

  def __init__(self, run: training.TrainConfig, label_smoothing: float = 0.0):
    """Reads the teacher; `load` makes it.

    Args:
      run: Names the teacher, the distance and its factor.
      label_smoothing: See `objectives.Classification`.

    Raises:
      CheckpointError, DownloadError: If it cannot be read.
    """
    super().__init__(label_smoothing)
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

  def load(self, info: saved.ModelInfo, sizes: Sequence[int]) -> None:
    """Makes the teacher; call it in the strategy's scope.

    Args:
      info: The network that is to learn from it.
      sizes: Number of classes of every data set.

    Raises:
      I3dError: If the two have other classes, or features of other widths.
      CheckpointError: If the weights do not fit.
    """
    super().load(info, sizes)
    student = info
    if self.info.num_classes != student.num_classes or (self.info.classes and self.info.classes != student.classes):
      raise errors.I3dError(
        f"the teacher {self._path} has {self.info.num_classes} classes, and the student {student.num_classes}, or they "
        "have other names; a teacher must be trained on the same classes"
      )
    if self._endpoint == base.POOLED_FEATURES:
      widths = [objectives.feature_width(each) for each in (self.info, student)]
      if widths[0] != widths[1]:
        raise errors.I3dError(
          f"the teacher {self._path} has {widths[0]} features before its classifier, and the student {widths[1]}; "
          "distill by logits, or take networks of equal widths"
        )
    self._model = saved.make_model(self.info)
    release.assign(self._model, self._values, self._path)

  def notes(self, flow_method: str) -> list[str]:
    """Returns a warning if the teacher learnt other flow.

    Args:
      flow_method: Flow of the records.
    """
    is_of_flow = "flow" in self.info.streams
    sentence = flow.difference(self.info.flow_method, flow_method) if is_of_flow else ""
    return [f"Warning: the teacher: {sentence}"] if sentence else []

  def __call__(
    self, logits: tf.Tensor, endpoints: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor], loss: str | None
  ) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the loss and the sums of the clips; see `objectives.Classification`.

    Args:
      logits: The student's.
      endpoints: The student's.
      batch: Scaled clips; those of training have the teacher's streams, too.
      loss: Endpoint that is trained; None if this is no training.
    """
    total, sums = super().__call__(logits, endpoints, batch, loss)
    if loss is None:
      return total, sums
    distance = tf.reduce_sum(self._distances(endpoints, batch) * batch["weight"])
    return total + self.weight * distance, tf.concat([sums[:3], [distance]], axis=0)

  def _distances(self, endpoints: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """The mean squared difference between student and teacher for each clip, `[B]`; steps are averaged before."""
    found = self._model(base.clip_of(batch, self.info.streams), False)[1]
    both = [each[self._endpoint] for each in (endpoints, found)]
    student, teacher = (tf.reduce_mean(value, 1) if value.shape.rank == 3 else value for value in both)
    return tf.reduce_mean(tf.math.squared_difference(student, tf.stop_gradient(teacher)), axis=-1)
