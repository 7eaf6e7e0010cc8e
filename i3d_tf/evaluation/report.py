"""The report of an evaluation: one HTML file, filled into the template report.html.jinja."""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
import json
from typing import Any

import jinja2
import numpy as np

from i3d_tf import resources as resources_lib
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics as metrics_lib

_TEMPLATE = "report.html.jinja"
_MAX_MISTAKES = 12
_MAX_CLASSES_BESIDE = 20  # up to which a confusion matrix is legible at half the page's width
_PROTOCOLS = {
  "release": "one pass over up to {max_frames} frames, centre crop",
  "clips": "{num_clips} clips of {num_frames} frames, centre crop",
  "ten_crop": "ten crops of a clip of {num_frames} frames",
  "three_crops": "three crops of {num_clips} clips of {num_frames} frames",
}
_EXAMPLE_NOTES = {
  "best": "The label’s score exceeds every other class’s by most.",
  "worst": "The label’s score falls short of another’s by most, or exceeds it by least.",
}


def render(
  *,
  about: Mapping[str, Any],
  measured: Mapping[str, metrics_lib.Metrics],
  classes: Sequence[str],
  runs: Mapping[str, Sequence[Mapping[str, Any]]],
  examples: Mapping[str, Sequence[figures.Example]],
) -> str:
  """Returns the page, HTML that needs neither scripts nor the network.

  Args:
    about: provenance, `streams`, `fusion` and `failures`, as results.json has them.
    measured: metrics by stream, the fusion last; the last one's mistakes are shown.
    classes: names in index order.
    runs: by stream, the lines of metrics.jsonl of its training, if there are any.
    examples: the 'best' and 'worst' clips of the last of `measured`.
  """
  *_, last = measured
  made_with = {stream: {**values, **values["protocol"]} for stream, values in about["streams"].items()}
  mistakes = metrics_lib.most_confused(measured[last].confusion)
  png = lambda content: _data_uri(content, "image/png")
  return _template().render(
    title=_title(about),
    facts=_facts(about, measured[last].num_videos, len(classes)),
    fusion=_describe_fusion(about["fusion"]),
    names=figures.NAMES,
    colors=figures.COLORS,
    measured=measured,
    last=last,
    classes=classes,
    columns=metrics_lib.COLUMNS,
    cells={stream: metrics_lib.cells(metrics) for stream, metrics in measured.items()},
    none_text=metrics_lib.NONE,
    curves=png(figures.accuracy_curves(measured)),
    reliability=png(figures.reliability(measured)) if any(each.calibration for each in measured.values()) else None,
    learning=png(figures.learning_curves(runs)) if any(runs.values()) else None,
    matrices={name: png(figures.confusion(each.confusion, classes, name)) for name, each in measured.items()},
    is_narrow=len(classes) <= _MAX_CLASSES_BESIDE,
    mistakes=mistakes[:_MAX_MISTAKES],
    num_mistakes=len(mistakes),
    per_class=_per_class(measured, classes),
    examples=examples,
    example_notes=_EXAMPLE_NOTES,
    failures=about["failures"],
    provenance=_provenance(about),
    made_with=made_with,
    made_with_names=list(dict.fromkeys(name for values in made_with.values() for name in values)),
  )


def _template() -> jinja2.Template:
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  environment.filters |= {
    "percent": lambda fraction: f"{100 * fraction:.1f}",
    "json": json.dumps,
    "data_uri": _data_uri,
  }
  return environment.from_string(resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8"))


def _data_uri(content: bytes, kind: str) -> str:
  return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _title(about: Mapping[str, Any]) -> str:
  made_with = next(iter(about["streams"].values()))
  return f"{made_with['dataset'] or 'Evaluation'}, {made_with['split']}"


def _facts(about: Mapping[str, Any], num_videos: int, num_classes: int) -> list[str]:
  """The line beneath the title."""
  protocols = {_describe_protocol(made_with["protocol"]) for made_with in about["streams"].values()}
  return [f"{num_videos:,} videos", f"{num_classes:,} classes", *sorted(protocols), about["date"][:10]]


def _describe_protocol(protocol: Mapping[str, Any]) -> str:
  words = _PROTOCOLS[protocol["protocol"]].format_map(protocol)
  return f"{words}, and mirrored" if protocol.get("flip") else words


def _describe_fusion(fusion: Mapping[str, Any] | None) -> str:
  if fusion is None:
    return ""
  if fusion["method"] == "svm":
    return "RGB+Flow: a linear SVM on both streams’ L2-normalised softmax scores, trained on the training split."
  weight = fusion["flow_weight"]
  what = {"logits": "logits added", "softmax": "probabilities averaged"}[fusion["method"]]
  weights = "with equal weights" if weight == 0.5 else f"with weights {1 - weight:g} and {weight:g}"
  return f"RGB+Flow: the streams’ {what} {weights}."


def _per_class(measured: Mapping[str, metrics_lib.Metrics], classes: Sequence[str]) -> list[dict[str, Any]]:
  """The number of videos and the recalls of each class, the hardest class first and those without videos last."""
  recalls = {name: metrics_lib.per_class(metrics.confusion) for name, metrics in measured.items()}
  *_, last = measured
  counts = measured[last].confusion.sum(axis=1)
  order = np.argsort(recalls[last], kind="stable")  # NaN is last
  return [
    {"name": classes[c], "count": int(counts[c]), "recalls": {name: values[c] for name, values in recalls.items()}}
    for c in order
  ]


def _provenance(about: Mapping[str, Any]) -> dict[str, str]:
  """The texts of `about`, with the versions in one line."""
  texts = {name: value for name, value in about.items() if isinstance(value, str)}
  versions = ", ".join(f"{name} {texts[name]}" for name in resources_lib.VERSIONS if name in texts)
  return {**{name: value for name, value in texts.items() if name not in resources_lib.VERSIONS}, "versions": versions}
