"""The report of an evaluation, one HTML file, filled into the template report.html.jinja, and its pictures.

These are plots as PNG, and the clips that were recognised best and worst as JPEG.

Plots use Matplotlib's objects without pyplot, which has global state and may want a screen.
"""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
from importlib import resources
import io
import json
from typing import Any

import cv2
import jinja2
import matplotlib
from matplotlib import axes as axes_lib
from matplotlib import collections as collections_lib
from matplotlib import colors
from matplotlib import figure
from matplotlib import font_manager
from matplotlib.backends import backend_agg
import numpy as np

from i3d_tf import errors
from i3d_tf import evaluation
from i3d_tf import resources as resources_lib
from i3d_tf.data import record_index
from i3d_tf.evaluation import metrics as metrics_lib
from i3d_tf.evaluation import predictions as predictions_lib
from i3d_tf.visualization import canvas

FACTS = "facts"  # in place of a stream: what is told by the files' sizes, lengths and rates alone
_TUNED = " tuned"  # behind a stream: a network that was trained on from the classifier on features
# By stream, or streams that are fused, the colour, and that of a network that was trained on from there.
_COLORS = {
    "rgb": ("#2f6fdb", "#163f85"), "flow": ("#e08a1e", "#8f540a"), evaluation.FUSED: ("#2b8a6e", "#17644c"),
    "joint": ("#8a4fb8", "#56307a"), "audio": ("#c2477f", "#7d2a51"), "rgb+audio": ("#5a8a2b", "#3a5a1b"),
    "flow+audio": ("#b8742f", "#744618"), "joint+audio": ("#6a5acd", "#463a8c"),
    f"{evaluation.FUSED}+audio": ("#1f7f8a", "#12525a"),
}  # fmt: skip
COLORS: dict[str, str] = {FACTS: "#8793a5", **{name: color for name, (color, _) in _COLORS.items()}}
COLORS |= {f"{name}{_TUNED}": color for name, (_, color) in _COLORS.items()}
_STREAM_NAMES = {"rgb": "RGB", "flow": "Flow", "joint": "Joint", "audio": "Sound"}
NAMES = {FACTS: "File facts", **{each: "+".join(_STREAM_NAMES[s] for s in each.split("+")) for each in _COLORS}}
NAMES |= {f"{each}{_TUNED}": f"{NAMES[each]}, fine-tuned" for each in _COLORS}
_INK, _FAINT, _GRID = "#24303f", "#6b7787", "#e6eaf0"
_DPI = 160
_MOST_CELLS_WITH_NUMBERS = 30  # classes of a confusion matrix
_MOST_CLASSES_WITH_NAMES = 60
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 9.5, "text.color": _INK, "axes.labelcolor": _FAINT,
    "axes.edgecolor": "#c9d1dc", "xtick.color": _FAINT, "ytick.color": _FAINT, "axes.titlesize": 10.5,
    "text.parse_math": False,  # a class may have '$' in its name
}  # fmt: skip


def tuned(stream: str) -> str:
  """Returns what a stream's network is called that was trained on from the classifier on features.

  Args:
    stream: of `evaluation.STREAMS`, or several with '+' between them.
  """
  return f"{stream}{_TUNED}"


@matplotlib.rc_context(STYLE)
def accuracy_curves(measured: Mapping[str, metrics_lib.Metrics]) -> bytes:
  """Returns a plot of top-k accuracy against k, as PNG.

  Args:
    measured: metrics by stream.
  """
  drawing, axes = new(5.2, 3.5)
  num_classes = len(next(iter(measured.values())).accuracy_at)
  steps = np.arange(1, min(20, num_classes) + 1)
  for stream, metrics in measured.items():
    percent = 100 * metrics.accuracy_at[: len(steps)]
    axes.plot(steps, percent, "o-", color=COLORS[stream], label=NAMES[stream], ms=4, lw=1.8)
  axes.plot(steps, 100 * steps / num_classes, ":", color="#a9b3c1", lw=1.2, label="chance")
  axes.set(xlabel="k", ylabel="label among the k best, %", ylim=(0, 103), xticks=_some(steps, 10))
  axes.legend(frameon=False, loc="lower right")
  return png(drawing)


@matplotlib.rc_context(STYLE)
def reliability(measured: Mapping[str, metrics_lib.Metrics]) -> bytes:
  """Returns a plot of accuracy against confidence, as PNG, with points as large as their share of the videos.

  Args:
    measured: metrics by stream; streams without probabilities are left out.
  """
  drawing, axes = new(5.2, 3.5)
  axes.plot([0, 100], [0, 100], "--", color="#a9b3c1", lw=1.2, label="calibrated")
  for stream, metrics in measured.items():
    calibration = metrics.calibration
    if calibration is None:
      continue
    used = calibration.counts > 0
    places = 100 * calibration.confidence[used], 100 * calibration.accuracy[used]
    axes.plot(*places, color=COLORS[stream], lw=1.2, alpha=0.4)
    sizes = 12 + 240 * calibration.counts[used] / calibration.counts.sum()
    style: dict[str, Any] = {"color": COLORS[stream], "edgecolors": "white", "linewidths": 0.8}
    axes.scatter(*places, s=sizes, label=NAMES[stream], **style)
  axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(-3, 103), ylim=(-3, 103))
  for handle in axes.legend(frameon=False, loc="upper left").legend_handles:
    if isinstance(handle, collections_lib.PathCollection):
      handle.set_sizes([30])
  return png(drawing)


@matplotlib.rc_context(STYLE)
def learning_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
  """Returns a plot of loss and accuracy against the step, as PNG; training is solid and validation dashed.

  Args:
    runs: by stream, the lines of the run's metrics.jsonl: `step`, and any of `loss`, `accuracy`, `validation_loss` and
      `validation_accuracy`.
  """
  drawing = _figure(10.6, 3.4)
  for axes, (name, factor, unit) in zip(
    drawing.subplots(1, 2), (("loss", 1, "loss, nats"), ("accuracy", 100, "accuracy, %"))
  ):
    _plain(axes)
    for stream, lines in runs.items():
      for prefix, style in (("", "-"), ("validation_", "--")):
        points = [(line["step"], factor * line[prefix + name]) for line in lines if line.get(prefix + name) is not None]
        if points:
          marks = {"marker": "o", "ms": 4} if prefix else {"alpha": 0.75}
          label = f"{NAMES[stream]}, {'validation' if prefix else 'training'}"
          axes.plot(*zip(*points), style, color=COLORS[stream], lw=1.6, label=label, **marks)
    axes.set(xlabel="step", ylabel=unit)
    axes.set_ylim(bottom=0, top=103 if factor == 100 else None)
    if axes.lines:
      axes.legend(frameon=False)
  return png(drawing)


@matplotlib.rc_context(STYLE)
def confusion(matrix: np.ndarray, classes: Sequence[str], stream: str) -> bytes:
  """Returns a PNG of a confusion matrix, each row as fractions of its videos, with names and numbers if they fit.

  Args:
    matrix: `[classes, classes]`, with labels as rows.
    classes: names in index order.
    stream: gives the color.
  """
  count = len(classes)
  side = float(np.clip(0.42 * count, 3.6, 7.6))
  drawing = _figure(side + 1.6, side + 1.2)
  axes = drawing.subplots()
  fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  # The root lets rare mistakes be seen among hundreds of classes.
  shade = colors.PowerNorm(0.6, 0, 1)
  axes.imshow(fractions, cmap=_color_map(COLORS[stream]), norm=shade, interpolation="nearest")
  numbered = "" if count <= _MOST_CLASSES_WITH_NAMES else ", number of the class"
  axes.set(xlabel=f"predicted{numbered}", ylabel=f"label{numbered}")
  axes.tick_params(length=0)
  for spine in axes.spines.values():
    spine.set_color(_GRID)
  if count <= _MOST_CLASSES_WITH_NAMES:
    size = float(np.clip(260 / count, 5, 9.5))
    names, fonts = zip(*[canvas.drawable(_short(name)) for name in classes], strict=True)
    axes.set_xticks(range(count), names, rotation=90 if count > 8 else 45, ha="center" if count > 8 else "right",
                    rotation_mode="default" if count > 8 else "anchor")  # fmt: skip
    axes.set_yticks(range(count), names)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
      for label, font in zip(labels, fonts, strict=True):
        label.set_fontproperties(font_manager.FontProperties(fname=font, size=size))
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=_GRID, lw=0.6)
    axes.tick_params(which="minor", length=0)
  if count <= _MOST_CELLS_WITH_NUMBERS:
    for label, predicted in zip(*np.nonzero(matrix)):
      color = "white" if fractions[label, predicted] > 0.5 else _INK
      axes.text(predicted, label, matrix[label, predicted], ha="center", va="center", color=color,
                fontsize=float(np.clip(220 / count, 5, 9.5)))  # fmt: skip
  return png(drawing)


def _figure(width: float, height: float) -> figure.Figure:
  drawing = figure.Figure(figsize=(width, height), layout="constrained")
  backend_agg.FigureCanvasAgg(drawing)
  return drawing


def new(width: float, height: float) -> tuple[figure.Figure, axes_lib.Axes]:
  """Returns an empty plot in the report's style: the figure and its axes.

  Args:
    width: inches.
    height: inches.
  """
  drawing = _figure(width, height)
  axes = drawing.subplots()
  _plain(axes)
  return drawing, axes


def _plain(axes: axes_lib.Axes) -> None:
  axes.spines[["top", "right"]].set_visible(False)
  axes.grid(color=_GRID, lw=0.8)
  axes.set_axisbelow(True)


def png(drawing: figure.Figure) -> bytes:
  """Returns a figure as PNG.

  Args:
    drawing: the figure.
  """
  stream = io.BytesIO()
  drawing.savefig(stream, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
  return stream.getvalue()


def _color_map(color: str) -> colors.Colormap:
  return colors.LinearSegmentedColormap.from_list("paper", ["#ffffff", color])


def _some(values: np.ndarray, count: int) -> np.ndarray:
  return values[:: -(-len(values) // count)]


def _short(name: str) -> str:
  return name if len(name) <= 24 else name[:23] + "…"


_COLUMNS = 8
_TILE_HEIGHT = 112  # pixels
_JPEG_QUALITY = 90  # photographs as PNG would make the report ten times as large


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """A clip to show.

  Attributes:
    id: the video's id.
    label: its class name.
    margin: the label's score minus the best other class's.
    ranking: (class, probability) of the best classes; probability is None for scores without probabilities.
    picture: frames and colored flow, JPEG; empty without records.
  """

  id: str
  label: str
  margin: float
  ranking: tuple[tuple[str, float | None], ...]
  picture: bytes = b""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """A part of the page between the results and the curves: text, and perhaps a table.

  Attributes:
    title: Its title.
    note: A line beneath it.
    texts: Paragraphs.
    columns: Heads of a table's columns.
    rows: Its rows.
    pictures: Beside each row a picture as JPEG; empty for none.
  """

  title: str
  note: str = ""
  texts: tuple[str, ...] = ()
  columns: tuple[str, ...] = ()
  rows: tuple[tuple[str, ...], ...] = ()
  pictures: tuple[bytes, ...] = ()


def choose(scores: np.ndarray, labels: np.ndarray, count: int) -> tuple[list[int], list[int]]:
  """Returns the indices of the best videos and of the worst, by margin, at most one of a class in each.

  Args:
    scores: `[N, classes]`.
    labels: `[N]`.
    count: how many of each.
  """
  order = np.argsort(-metrics_lib.margins(scores, labels), kind="stable").tolist()
  return _one_a_class(order, labels, count), _one_a_class(order[::-1], labels, count)


def describe(
  predictions: predictions_lib.Predictions, scores: metrics_lib.ClassScores, index: int, picture: bytes
) -> Example:
  """Returns the example that describes a video.

  Args:
    predictions: have the video's id and label.
    scores: of the same videos.
    index: of the video.
    picture: see `Example`.
  """
  best = np.argsort(-scores.scores[index], kind="stable")[:3]
  logs = scores.log_probabilities
  probability = lambda c: None if logs is None else float(np.exp(logs[index, c]))
  return Example(
    id=predictions.ids[index],
    label=predictions.classes[predictions.labels[index]],
    margin=float(metrics_lib.margins(scores.scores[index : index + 1], predictions.labels[index : index + 1])[0]),
    ranking=tuple((predictions.classes[c], probability(c)) for c in best),
    picture=picture,
  )


def draw(entries: Sequence[record_index.Entry], predictions: predictions_lib.Predictions, index: int) -> bytes:
  """Returns frames and colored flow of a video as JPEG.

  Args:
    entries: all records of the split, in order.
    predictions: of its videos.
    index: of the video among the predictions.

  Raises:
    I3dError: if the predictions are not of these records, or the record cannot be drawn.
  """
  number = int(predictions.numbers[index])
  record = entries[number].load() if number < len(entries) else None
  if record is None or record.id != predictions.ids[index]:
    where = entries[number] if record else f"the {len(entries)} records"
    raise errors.I3dError(f"{where}: {predictions.ids[index]} is not there; the scores are of other records")
  picture = canvas.draw_images(record, columns=_COLUMNS, tile_height=_TILE_HEIGHT)
  options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
  return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _one_a_class(order: Sequence[int], labels: np.ndarray, count: int) -> list[int]:
  first: dict[int, int] = {}
  for index in order:
    first.setdefault(labels[index], index)
  return list(first.values())[:count]


_TEMPLATE = "report.html.jinja"
_MAX_MISTAKES = 12
_MAX_CLASSES_BESIDE = 20  # up to which a confusion matrix is legible at half the page's width
_PROTOCOLS = {
  "whole": "whole videos, centre crop",
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
  examples: Mapping[str, Sequence[Example]],
  sections: Sequence[Section] = (),
) -> str:
  """Returns the page, HTML that needs neither scripts nor the network.

  Args:
    about: provenance, `streams`, `fusion` and `failures`, as results.json has them.
    measured: metrics by stream, the fusion last; the last one's mistakes are shown.
    classes: names in index order.
    runs: by stream, the lines of metrics.jsonl of its training, if there are any.
    examples: the 'best' and 'worst' clips of the last of `measured`.
    sections: Further parts of the page.
  """
  *_, last = measured
  made_with = {stream: {**values, **values["protocol"]} for stream, values in about["streams"].items()}
  mistakes = metrics_lib.most_confused(measured[last].confusion)
  png = lambda content: _data_uri(content, "image/png")
  return _template().render(
    title=_title(about),
    facts=_facts(about, measured[last].num_videos, len(classes)),
    fusion=_describe_fusion(about["fusion"], NAMES[last.removesuffix(_TUNED)]),
    names=NAMES,
    colors=COLORS,
    measured=measured,
    last=last,
    classes=classes,
    columns=metrics_lib.COLUMNS,
    cells={stream: metrics_lib.cells(metrics) for stream, metrics in measured.items()},
    none_text=metrics_lib.NONE,
    curves=png(accuracy_curves(measured)),
    reliability=png(reliability(measured)) if any(each.calibration for each in measured.values()) else None,
    learning=png(learning_curves(runs)) if any(runs.values()) else None,
    matrices={name: png(confusion(each.confusion, classes, name)) for name, each in measured.items()},
    is_narrow=len(classes) <= _MAX_CLASSES_BESIDE,
    mistakes=mistakes[:_MAX_MISTAKES],
    num_mistakes=len(mistakes),
    per_class=_per_class(measured, classes),
    examples=examples,
    example_notes=_EXAMPLE_NOTES,
    sections=sections,
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
  streams = NAMES["+".join(about["streams"]) if about["fusion"] else next(iter(about["streams"]))]
  return f"{streams}: {made_with['dataset'] or 'evaluation'}, {made_with['split']}"


def _facts(about: Mapping[str, Any], num_videos: int, num_classes: int) -> list[str]:
  """The line beneath the title."""
  protocols = {_describe_protocol(made_with["protocol"]) for made_with in about["streams"].values()}
  return [f"{num_videos:,} videos", f"{num_classes:,} classes", *sorted(protocols), about["date"][:10]]


def _describe_protocol(protocol: Mapping[str, Any]) -> str:
  words = _PROTOCOLS[protocol["protocol"]].format_map(protocol)
  return f"{words}, and mirrored" if protocol.get("flip") else words


def _describe_fusion(fusion: Mapping[str, Any] | None, streams: str) -> str:
  if fusion is None:
    return ""
  if fusion["method"] == "svm":
    return f"{streams}: a linear SVM on the streams’ L2-normalised softmax scores, trained on the training split."
  weight = fusion.get("flow_weight", 0.5)
  each = list(fusion.get("weights", {"rgb": 1 - weight, "flow": weight}).values())
  what = {"logits": "logits added", "softmax": "probabilities averaged"}[fusion["method"]]
  listed = f"{', '.join(f'{value:.3g}' for value in each[:-1])} and {each[-1]:.3g}"
  return (
    f"{streams}: the streams’ {what} with {'equal weights' if max(each) - min(each) < 1e-9 else f'weights {listed}'}."
  )


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
