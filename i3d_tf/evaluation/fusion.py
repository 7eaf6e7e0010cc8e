"""Putting the two streams' logits together."""

import dataclasses
import warnings

import numpy as np

from i3d_tf import errors


@dataclasses.dataclass(frozen=True, eq=False)
class Fused:
  """Scores `[N, classes]`, and log-probabilities `[N, classes]`, None for scores that have none."""

  scores: np.ndarray
  log_probabilities: np.ndarray | None


def alone(logits: np.ndarray) -> Fused:
  """One stream's logits `[N, classes]` as scores."""
  logits = logits.astype(np.float64)
  return Fused(logits, log_softmax(logits))


def add_logits(rgb: np.ndarray, flow: np.ndarray, *, flow_weight: float = 0.5) -> Fused:
  """2 (1 - w) rgb + 2 w flow of logits `[N, classes]`: their sum at w = 0.5.

  The sum is google-deepmind/kinetics-i3d evaluate_sample.py's; the weight w, in [0, 1], is an option beside it.
  """
  _check_weight(flow_weight)
  return alone(2 * (1 - flow_weight) * rgb.astype(np.float64) + 2 * flow_weight * flow.astype(np.float64))


def average_softmax(rgb: np.ndarray, flow: np.ndarray, *, flow_weight: float = 0.5) -> Fused:
  """(1 - w) softmax(rgb) + w softmax(flow) of logits `[N, classes]` ("averages predictions", arXiv 1705.07750, 2.5)."""
  _check_weight(flow_weight)
  with np.errstate(divide="ignore"):  # the logarithm of a weight 0
    logarithms = [np.log(1 - flow_weight) + log_softmax(rgb), np.log(flow_weight) + log_softmax(flow)]
  log_probabilities = np.logaddexp(*logarithms)
  return Fused(log_probabilities, log_probabilities)


class LinearSvm:
  """A multi-class linear SVM on the streams' stacked L2-normalised softmax scores (arXiv 1406.2199, section 5).

  One class against the rest, with scikit-learn's LinearSVC and C = 1; the paper does not give its C.
  """

  def __init__(self, rgb: np.ndarray, flow: np.ndarray, labels: np.ndarray):
    """Trains on logits `[N, classes]` of the training split and labels `[N]`.

    Raises:
      I3dError: if the training split has fewer than two classes, or the SVM does not converge.
    """
    from sklearn import exceptions
    from sklearn import svm

    if len(np.unique(labels)) < 2:
      raise errors.I3dError("an SVM needs training scores of at least two classes")
    self._num_classes = rgb.shape[1]
    self._svm = svm.LinearSVC(random_state=0, max_iter=100_000)
    with warnings.catch_warnings():
      warnings.simplefilter("error", exceptions.ConvergenceWarning)
      try:
        self._svm.fit(stack(rgb, flow), labels)
      except exceptions.ConvergenceWarning as warning:
        raise errors.I3dError(f"the SVM on the training scores does not converge: {warning}") from None

  def __call__(self, rgb: np.ndarray, flow: np.ndarray) -> Fused:
    """The signed distances to the classes' planes; -inf for a class that the training split does not have."""
    decisions = self._svm.decision_function(stack(rgb, flow))
    if decisions.ndim == 1:  # scikit-learn's form for two classes
      decisions = np.stack([-decisions, decisions], axis=1)
    scores = np.full((len(decisions), self._num_classes), -np.inf)
    scores[:, self._svm.classes_] = decisions
    return Fused(scores, None)


def stack(rgb: np.ndarray, flow: np.ndarray) -> np.ndarray:
  """Both streams' softmax scores, each of L2 norm 1, beside each other: `[N, 2 classes]`."""
  probabilities = [np.exp(log_softmax(logits)) for logits in (rgb, flow)]
  return np.concatenate([each / np.linalg.norm(each, axis=1, keepdims=True) for each in probabilities], axis=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
  """Natural logarithms of the probabilities of logits `[N, classes]`, float64, exact also where they are tiny."""
  shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _check_weight(flow_weight: float) -> None:
  if not 0 <= flow_weight <= 1:
    raise errors.I3dError(f"flow_weight is {flow_weight}; it must be in [0, 1]")
