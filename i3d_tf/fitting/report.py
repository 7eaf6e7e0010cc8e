"""What `fit` writes beside the network: report.html, report.json and predictions.csv."""

import collections
from collections.abc import Mapping, Sequence
import csv
import dataclasses
import functools
import io
import json
import math
import pathlib
from typing import Any

import numpy as np

from i3d_tf import fitting
from i3d_tf import resources
from i3d_tf import workdir
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics as metrics_lib
from i3d_tf.evaluation import predictions as predictions_lib
from i3d_tf.fitting import checks
from i3d_tf.fitting import linear
from i3d_tf.fitting import samples as samples_lib
from i3d_tf.fitting import splits
from i3d_tf.models import preprocess

PAGE, RESULTS, PREDICTIONS = "report.html", "report.json", "predictions.csv"
_MOST_SHOWN = 12  # pairs and disagreements on the page
_SURE = 0.7  # probability of another class from which on a label is doubted
_EXPLAINED = 1 / 3  # part of what is above chance, from which on file facts are worth a warning


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
  """All that a fit has found.

  Attributes:
    config: Its options.
    samples: The videos that could be used.
    facts: Of each what the file tells.
    grouping: Which belong together.
    plan: The folds.
    pairs: Videos that are as good as one.
    crossing: Those of the pairs that a fold has on both sides.
    measured: Scores `[N, classes]`; NaN of clips that no fold tests. By 'facts', the streams, their fusion, and what
      was trained on from these; the last is what is kept.
    heads: The classifiers on features that are kept, by stream.
    warnings: What a user should know.
    failures: Videos that could not be used, with the reasons.
    checkpoints: The networks that it started from, by stream.
    precision: Type that the features were computed in.
    seconds: How long it took.
  """

  config: fitting.FitConfig
  samples: samples_lib.Samples
  facts: Sequence[samples_lib.Facts]
  grouping: splits.Grouping
  plan: splits.Plan
  pairs: Sequence[checks.Pair]
  crossing: Sequence[checks.Pair]
  measured: Mapping[str, np.ndarray]
  heads: Mapping[str, linear.Head]
  warnings: tuple[str, ...]
  failures: Mapping[str, str]
  checkpoints: Mapping[str, str]
  precision: str
  seconds: float

  @property
  def network(self) -> str:
    """The network that is kept, among what was measured."""
    return list(self.measured)[-1]

  @functools.cached_property
  def tested(self) -> np.ndarray:
    """Indices of the clips that a fold tests."""
    return np.array(sorted(index for fold in self.plan.folds for index in fold.test), int)

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """Labels of these clips."""
    return np.array(self.samples.labels)[self.tested]

  @functools.cached_property
  def scores(self) -> dict[str, metrics_lib.ClassScores]:
    """Scores of these clips."""
    return {name: metrics_lib.from_logits(values[self.tested]) for name, values in self.measured.items()}

  @functools.cached_property
  def metrics(self) -> dict[str, metrics_lib.Metrics]:
    """Metrics of these clips."""
    return {
      name: metrics_lib.measure(each.scores, self.labels, log_probabilities=each.log_probabilities)
      for name, each in self.scores.items()
    }

  @functools.cached_property
  def probabilities(self) -> np.ndarray:
    """The network's, `[tested, classes]`."""
    logs = self.scores[self.network].log_probabilities
    assert logs is not None  # of logits there are
    return np.exp(logs)

  @functools.cached_property
  def is_right(self) -> np.ndarray:
    """Whether the network recognised each tested clip."""
    return self.probabilities.argmax(axis=1) == self.labels

  @functools.cached_property
  def intervals(self) -> dict[str, tuple[float, float]]:
    """95 % interval of each accuracy."""
    groups = [self.grouping.groups[index] for index in self.tested]
    is_right = lambda name: self.scores[name].scores.argmax(axis=1) == self.labels
    return {name: linear.interval(is_right(name), groups) for name in self.scores}

  @property
  def interval(self) -> tuple[float, float]:
    """95 % interval of the network's accuracy."""
    return self.intervals[self.network]

  @functools.cached_property
  def fold_accuracies(self) -> list[float]:
    """The network's accuracy in each fold."""
    places = {index: place for place, index in enumerate(self.tested.tolist())}
    return [float(np.mean(self.is_right[[places[index] for index in fold.test]])) for fold in self.plan.folds]

  @functools.cached_property
  def threshold(self) -> linear.Threshold | None:
    """The suggested threshold on the probability."""
    confidence = self.probabilities.max(axis=1)
    return linear.threshold(confidence, self.is_right, wanted=self.config.precision_wanted)

  @functools.cached_property
  def chance(self) -> float:
    """The accuracy of always naming the most frequent class."""
    return collections.Counter(self.labels.tolist()).most_common(1)[0][1] / len(self.labels)

  def about_facts(self) -> str:
    """Returns a sentence if the files' facts explain much of the accuracy, or else ''."""
    facts, network = self.metrics[figures.FACTS].top1, self.metrics[self.network].top1
    room = network - self.chance
    if facts <= self.chance or (room > 0 and facts - self.chance < _EXPLAINED * room):
      return ""
    return (
      f"sizes, lengths, rates and bytes of the files alone get {100 * facts:.1f} % (chance {100 * self.chance:.1f} %), "
      f"where the network gets {100 * network:.1f} %: the classes may differ in how their files were made, and videos "
      "made otherwise may be recognised less well"
    )

  def doubtful(self) -> list[int]:
    """Returns the places among the tested clips of labels that the network contradicts surely, the surest first."""
    confidence = np.where(self.is_right, 0, self.probabilities.max(axis=1))
    return [index for index in np.argsort(-confidence, kind="stable").tolist() if confidence[index] >= _SURE]


def summary(found: Outcome) -> list[str]:
  """Returns the lines that end a run: the table of accuracies, the interval, and what to do with the network.

  Args:
    found: What was found.
  """
  lines = [metrics_lib.table(found.metrics)]
  lines += [f"{figures.NAMES[name]}: {_accuracy(found, name)}" for name in found.metrics]
  lines[-1] += f"; always naming the largest class, {100 * found.chance:.1f} %"
  lines.append(_about_threshold(found))
  return lines


def _accuracy(found: Outcome, name: str) -> str:
  low, high = (100 * bound for bound in found.intervals[name])
  return f"{100 * found.metrics[name].top1:.1f} % (95 % interval {low:.1f} to {high:.1f})"


def _about_threshold(found: Outcome) -> str:
  wanted = 100 * found.config.precision_wanted
  if found.threshold is None:
    return f"No probability is a threshold above which {wanted:g} % are right"
  each = found.threshold
  return (
    f"Of the clips with a probability of at least {each.confidence:.2f}, which are {100 * each.share:.0f} %, "
    f"{100 * each.accuracy:.1f} % are right"
  )


def write(found: Outcome) -> pathlib.Path:
  """Writes report.html, report.json and predictions.csv.

  Args:
    found: What was found.

  Returns:
    The path of the first.
  """
  folder = pathlib.Path(found.config.output)
  about = _about(found)
  contents = {
    PREDICTIONS: _predictions(found).encode(errors="backslashreplace"),
    RESULTS: (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace"),
    PAGE: _page(found, about).encode(errors="backslashreplace"),
  }
  for name, content in contents.items():
    with workdir.replacing(folder / name) as file:
      file.write(content)
  return folder / PAGE


def _about(found: Outcome) -> dict[str, Any]:
  """The content of report.json."""
  samples, classes = found.samples, found.samples.classes
  name = lambda index: samples.ids[index]
  counts = collections.Counter(samples.labels)
  return {
    **resources.provenance(),
    "seconds": round(found.seconds, 1),
    "classes": list(classes),
    "videos": {classes[label]: count for label, count in sorted(counts.items())},
    "protocol": found.plan.protocol,
    "groups": found.grouping.note,
    "results": {key: metrics_lib.plain(each, classes) for key, each in found.metrics.items()},
    "intervals": {name: list(each) for name, each in found.intervals.items()},
    "chance": found.chance,
    "folds": [
      {"name": fold.name, "trained": len(fold.train), "tested": len(fold.test), "accuracy": accuracy}
      for fold, accuracy in zip(found.plan.folds, found.fold_accuracies, strict=True)
    ],
    "threshold": None if found.threshold is None else dataclasses.asdict(found.threshold),
    "heads": {
      stream: {"strength": None if math.isnan(head.strength) else head.strength, "temperature": head.temperature}
      for stream, head in found.heads.items()
    },
    "warnings": list(found.warnings),
    "pairs": [
      {"one": name(pair.one), "other": name(pair.other), "kind": pair.kind, "similarity": round(pair.similarity, 4),
       "across": pair in found.crossing} for pair in found.pairs
    ],
    "doubtful_labels": [name(int(found.tested[place])) for place in found.doubtful()],
    "failures": [{"video": path, "reason": reason} for path, reason in found.failures.items()],
    "fusion": _fusion(list(found.heads)),
    "streams": {
      stream: {
        "checkpoint": checkpoint, "precision": found.precision, "dataset": samples.name,
        "split": _split(found.plan), "protocol": {"protocol": "whole"},
      }
      for stream, checkpoint in found.checkpoints.items()
    },
  }  # fmt: skip


def _fusion(streams: list[str]) -> dict[str, Any] | None:
  """How the streams were fused, as evaluate states it."""
  if len(streams) < 2:
    return None
  weights = (
    {"weights": dict.fromkeys(streams, 1 / len(streams))} if preprocess.AUDIO in streams else {"flow_weight": 0.5}
  )
  return {"method": "logits", **weights}


def _split(plan: splits.Plan) -> str:
  names = {"leave_one_group_out": "leaving one group out", "holdout": "held out", "folders": plan.folds[0].name}
  return names.get(plan.protocol, f"{len(plan.folds)} folds")


def _predictions(found: Outcome) -> str:
  """A line a tested clip, as CSV."""
  folds = {index: fold.name for fold in found.plan.folds for index in fold.test}
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(("id", "label", "predicted", "probability", "fold", "group"))
  classes = found.samples.classes
  for place, index in enumerate(found.tested.tolist()):
    best = int(found.probabilities[place].argmax())
    writer.writerow((
      found.samples.ids[index], classes[found.labels[place]], classes[best],
      f"{found.probabilities[place, best]:.4f}", folds[index], found.grouping.groups[index],
    ))  # fmt: skip
  return text.getvalue()


def _page(found: Outcome, about: Mapping[str, Any]) -> str:
  predictions = predictions_lib.Predictions(
    stream=next(iter(found.heads)),
    ids=tuple(found.samples.ids[index] for index in found.tested),
    labels=found.labels,
    logits=found.scores[found.network].scores,
    numbers=found.tested,
    classes=found.samples.classes,
    made_with={},
  )
  scores = found.scores[found.network]
  picture = lambda place: samples_lib.picture(found.facts[int(found.tested[place])])
  describe = lambda place: figures.describe(predictions, scores, place, picture(place))
  best, worst = figures.choose(scores.scores, found.labels, 4)
  return figures.render(
    about=about,
    measured=found.metrics,
    classes=found.samples.classes,
    runs={},
    examples={"best": [*map(describe, best)], "worst": [*map(describe, worst)]},
    sections=_sections(found, picture),
  )


def _sections(found: Outcome, picture: Any) -> list[figures.Section]:
  """What the page of a fit has beyond that of an evaluation."""
  accuracies = "; ".join(f"{figures.NAMES[name]} {_accuracy(found, name)}" for name in found.metrics)
  texts = [
    f"Accuracy: {accuracies}; always naming the largest class {100 * found.chance:.1f} %. File facts are the sizes, "
    "lengths, rates and bytes of the files alone.",
    f"{_about_threshold(found)}.",
    *(
      f"The classifier of {figures.NAMES[stream]} is linear on the features of {found.checkpoints[stream]}; "
      + (
        f"its penalty (C = {head.strength:g}) and the temperature {head.temperature:.2f}, by which its logits are "
        "divided, were chosen on inner folds."
        if head.losses
        else "there are too few clips to choose its penalty."
      )
      for stream, head in found.heads.items()
    ),
  ]
  sections = [figures.Section(title="How far to trust it", texts=tuple(texts))]
  if found.warnings:
    sections.append(figures.Section(title="To know", columns=("",), rows=tuple((text,) for text in found.warnings)))
  rows = tuple(
    (fold.name, str(len(fold.train)), str(len(fold.test)), f"{100 * accuracy:.1f}")
    for fold, accuracy in zip(found.plan.folds, found.fold_accuracies, strict=True)
  )
  note = f"{found.plan.protocol}: {found.grouping.note}"
  sections.append(
    figures.Section(title="Folds", note=note, columns=("fold", "trained", "tested", "accuracy, %"), rows=rows)
  )
  ids, classes = found.samples.ids, found.samples.classes
  if doubtful := found.doubtful()[:_MOST_SHOWN]:
    name = lambda place: (
        ids[found.tested[place]], classes[found.labels[place]], classes[found.probabilities[place].argmax()],
        f"{100 * found.probabilities[place].max():.0f} %",
    )  # fmt: skip
    sections.append(
      figures.Section(
        title="Labels to look at", note="The network, trained without these clips, is sure of another class.",
        columns=("clip", "label", "taken for", "probability"), rows=tuple(map(name, doubtful)),
        pictures=tuple(map(picture, doubtful)),
      )
    )  # fmt: skip
  if shown := sorted(found.crossing or found.pairs, key=lambda pair: (pair.kind, -pair.similarity))[:_MOST_SHOWN]:
    rows = tuple((ids[pair.one], ids[pair.other], pair.kind, f"{pair.similarity:.3f}") for pair in shown)
    where = "on both sides of a split" if found.crossing else "kept on one side of every split"
    pictures = tuple(samples_lib.picture(found.facts[pair.one], found.facts[pair.other]) for pair in shown)
    sections.append(
      figures.Section(
        title="Clips that look alike", note=f"{len(found.crossing or found.pairs)} pairs, {where}.",
        columns=("clip", "clip", "kind", "similarity"), rows=rows, pictures=pictures,
      )
    )  # fmt: skip
  return sections
