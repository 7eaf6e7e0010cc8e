"""Scores of one stream, and the late fusion of two."""

from collections.abc import Callable
import dataclasses
import warnings

import numpy as np
from scipy import special
from sklearn import exceptions
from sklearn import svm

from i3d_tf import errors


@dataclasses.dataclass(frozen=True, eq=False)
class ClassScores:
  """Scores by which classes are ranked.

  Attributes:
    scores: float64 `[N, classes]`.
    log_probabilities: float64 `[N, classes]`; None for scores that are not probabilities, such as an SVM's.
  """

  scores: np.ndarray
  log_probabilities: np.ndarray | None


def from_logits(logits: np.ndarray) -> ClassScores:
  """Takes logits as scores.

  Args:
    logits: `[N, classes]`, of one stream or fused.

  Returns:
    The logits in double precision and the logarithms of their softmax.
  """
  logits = logits.astype(np.float64)
  return ClassScores(logits, special.log_softmax(logits, axis=-1))


def add_logits(rgb: np.ndarray, flow: np.ndarray, *, flow_weight: float = 0.5) -> ClassScores:
  """Fuses two streams by 2 (1 - w) rgb + 2 w flow, which is the sum of their logits at w = 0.5.

  The sum is that of google-deepmind/kinetics-i3d evaluate_sample.py; the weight is our addition.

  Args:
    rgb: logits `[N, classes]`.
    flow: logits `[N, classes]`.
    flow_weight: w in [0, 1].

  Returns:
    The fused scores.

  Raises:
    I3dError: if the weight is out of range.
  """
  _check_weight(flow_weight)
  return from_logits(2 * (1 - flow_weight) * rgb.astype(np.float64) + 2 * flow_weight * flow.astype(np.float64))


def average_softmax(rgb: np.ndarray, flow: np.ndarray, *, flow_weight: float = 0.5) -> ClassScores:
  """Fuses two streams by (1 - w) softmax(rgb) + w softmax(flow) ("averages predictions", arXiv 1705.07750, 2.5).

  Args:
    rgb: logits `[N, classes]`.
    flow: logits `[N, classes]`.
    flow_weight: w in [0, 1].

  Returns:
    The fused scores.

  Raises:
    I3dError: if the weight is out of range.
  """
  _check_weight(flow_weight)
  rgb_logs, flow_logs = (special.log_softmax(logits.astype(np.float64), axis=-1) for logits in (rgb, flow))
  with np.errstate(divide="ignore"):  # the logarithm of a weight of 0
    log_probabilities = np.logaddexp(np.log(1 - flow_weight) + rgb_logs, np.log(flow_weight) + flow_logs)
  return ClassScores(log_probabilities, log_probabilities)


def train_svm(rgb: np.ndarray, flow: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray, np.ndarray], ClassScores]:
  """Trains a multi-class linear SVM on the streams' stacked L2-normalised softmax scores (arXiv 1406.2199, section 5).

  One class against the rest, by scikit-learn's LinearSVC with C = 1; the paper does not give its C.

  Args:
    rgb: logits `[N, classes]` of the training split.
    flow: logits `[N, classes]` of the same videos.
    labels: `[N]`.

  Returns:
    A function of two streams' logits that returns the signed distances to the classes' planes as scores, -inf for a
    class that the training split lacks.

  Raises:
    I3dError: if the training split has fewer than two classes, or the SVM does not converge.
  """
  if len(np.unique(labels)) < 2:
    raise errors.I3dError("an SVM needs training scores of at least two classes")
  machine = svm.LinearSVC(random_state=0, max_iter=100_000)
  with warnings.catch_warnings():
    warnings.simplefilter("error", exceptions.ConvergenceWarning)
    try:
      machine.fit(_stack(rgb, flow), labels)
    except exceptions.ConvergenceWarning as warning:
      raise errors.I3dError(f"the SVM on the training scores does not converge: {warning}") from None

  def apply(rgb: np.ndarray, flow: np.ndarray) -> ClassScores:
    decisions = machine.decision_function(_stack(rgb, flow))
    if decisions.ndim == 1:  # scikit-learn's form for two classes
      decisions = np.stack([-decisions, decisions], axis=1)
    scores = np.full((len(decisions), rgb.shape[1]), -np.inf)
    scores[:, machine.classes_] = decisions
    return ClassScores(scores, None)

  return apply


def _stack(rgb: np.ndarray, flow: np.ndarray) -> np.ndarray:
  """Both streams' softmax scores, each of L2 norm 1, side by side: `[N, 2 classes]`."""
  probabilities = [np.exp(special.log_softmax(logits.astype(np.float64), axis=-1)) for logits in (rgb, flow)]
  return np.concatenate([each / np.linalg.norm(each, axis=1, keepdims=True) for each in probabilities], axis=1)


def _check_weight(flow_weight: float) -> None:
  if not 0 <= flow_weight <= 1:
    raise errors.I3dError(f"flow_weight is {flow_weight}; it must be in [0, 1]")
