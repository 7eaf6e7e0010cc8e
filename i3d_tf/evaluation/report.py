"""The report: one HTML file that needs nothing else, neither scripts nor the network."""

import base64
from collections.abc import Iterable, Mapping, Sequence
import html
import json
import math
import string
from typing import Any

from i3d_tf import provenance
from i3d_tf.evaluation import figures
from i3d_tf.evaluation import metrics as metrics_lib
from i3d_tf.evaluation import report_style

_MOST_CONFUSIONS = 12
_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def render(
  *,
  about: Mapping[str, Any],
  measured: Mapping[str, metrics_lib.Metrics],
  classes: Sequence[str],
  runs: Mapping[str, Sequence[Mapping[str, Any]]],
  examples: Mapping[str, Sequence[figures.Example]],
) -> str:
  """The page.

  Args:
    about: what results.json holds: provenance, `streams`, `fusion`, `failures`.
    measured: by stream, the fusion last; the last one's mistakes are shown.
    classes: their names.
    runs: by stream, the lines of its training's metrics.jsonl, if there are any.
    examples: 'best' and 'worst' clips of the last of `measured`.
  """
  sections = [
    _header(about, measured, classes),
    _section("Results", _cards(measured) + _metrics_table(measured), _fusion_words(about["fusion"])),
    _curves(measured),
    _learning(runs),
    _mistakes(measured, classes),
    _per_class(measured, classes),
    _clips(examples, list(measured)[-1]),
    _failures(about["failures"]),
    _about(about),
  ]
  return _PAGE.substitute(title=_title(about), style=report_style.STYLE, body="\n".join(sections))


def _title(about: Mapping[str, Any]) -> str:
  made_with = next(iter(about["streams"].values()))
  return html.escape(f"{made_with['dataset'] or 'Evaluation'}, {made_with['split']}")


def _header(about: Mapping[str, Any], measured: Mapping[str, metrics_lib.Metrics], classes: Sequence[str]) -> str:
  count = list(measured.values())[-1].num_videos
  protocols = {_protocol_words(made_with["protocol"]) for made_with in about["streams"].values()}
  facts = [f"{count:,} videos", f"{len(classes):,} classes", *sorted(protocols), about["date"][:10]]
  return (
    f'<header><p class="kicker">Inception I3D, evaluation</p><h1>{_title(about)}</h1>'
    f"<p>{' · '.join(map(html.escape, facts))}</p></header>"
  )


def _protocol_words(protocol: Mapping[str, Any]) -> str:
  words = {
    "release": "one pass over up to {max_frames} frames, centre crop",
    "clips": "{num_clips} clips of {num_frames} frames, centre crop",
    "ten_crop": "ten crops of a clip of {num_frames} frames",
    "three_crops": "three crops of {num_clips} clips of {num_frames} frames",
  }[protocol["protocol"]].format_map(protocol)
  return f"{words}, and mirrored" if protocol.get("flip") else words


def _fusion_words(fusion: Mapping[str, Any] | None) -> str:
  if fusion is None:
    return ""
  if fusion["method"] == "svm":
    return "RGB+Flow: a linear SVM on both streams’ L2-normalised softmax scores, trained on the training split."
  weight = fusion["flow_weight"]
  what = {"logits": "logits added", "softmax": "probabilities averaged"}[fusion["method"]]
  weights = "with equal weights" if weight == 0.5 else f"with weights {1 - weight:g} and {weight:g}"
  return f"RGB+Flow: the streams’ {what} {weights}."


def _cards(measured: Mapping[str, metrics_lib.Metrics]) -> str:
  cards = []
  for name, metrics in measured.items():
    top5 = "" if metrics.top5 is None else f"<span>top-5 <b>{_percent(metrics.top5)}</b></span>"
    cards.append(
      f'<div class="card" style="--hue:{figures.COLORS[name]}"><p class="kicker">{_name(name)}</p>'
      f'<p class="big">{100 * metrics.top1:.1f}<small>%</small></p><p class="sub"><span>top-1</span>{top5}'
      f"<span>per class <b>{_percent(metrics.mean_per_class)}</b></span></p></div>"
    )
  return f'<div class="cards">{"".join(cards)}</div>'


def _metrics_table(measured: Mapping[str, metrics_lib.Metrics]) -> str:
  rows = []
  for name, metrics in measured.items():
    error = None if metrics.calibration is None else metrics.calibration.expected_error
    rows.append([_dot(name), *metrics_lib.cells(metrics), metrics_lib.NONE if error is None else f"{100 * error:.2f}"])
  return _table(["stream", *metrics_lib.COLUMNS, "calibration error"], rows) + (
    '<p class="note">Accuracies and calibration error in percent, cross-entropy in nats.</p>'
  )


def _curves(measured: Mapping[str, metrics_lib.Metrics]) -> str:
  shown = _figure(figures.accuracy_curves(measured), "How often the label is among the k best classes.")
  if any(metrics.calibration for metrics in measured.values()):
    caption = "What a confidence is worth: points below the diagonal are overconfident; size is the share of videos."
    shown += _figure(figures.reliability(measured), caption)
  return _section("Curves", f'<div class="pair">{shown}</div>')


def _learning(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  if not any(runs.values()):
    return ""
  return _section("Training", _figure(figures.learning_curves(runs), "Loss and accuracy over the steps of training."))


def _mistakes(measured: Mapping[str, metrics_lib.Metrics], classes: Sequence[str]) -> str:
  *others, last = measured
  matrix = lambda name: _picture(figures.confusion(measured[name].confusion, classes, name), "image/png", _name(name))
  mistakes = metrics_lib.most_confused(measured[last].confusion)
  rows = [[html.escape(classes[a]), html.escape(classes[b]), str(n)] for a, b, n in mistakes[:_MOST_CONFUSIONS]]
  listed = _table(["label", "taken for", "videos"], rows, texts=2) if rows else '<p class="note">There are none.</p>'
  more = f", the {len(rows)} most frequent of {len(mistakes)} kinds" if len(mistakes) > len(rows) else ""
  beside = "matrix" if len(classes) <= figures.MOST_CLASSES_BESIDE else ""
  body = f'<div class="{beside}"><figure>{matrix(last)}</figure><div><h3>Mistakes{more}</h3>{listed}</div></div>'
  for name in others:
    body += f'<details><summary>{_dot(name)} alone</summary><figure class="alone">{matrix(name)}</figure></details>'
  return _section("Confusion", body, f"{_name(last)}: labels down, predictions across.")


def _per_class(measured: Mapping[str, metrics_lib.Metrics], classes: Sequence[str]) -> str:
  *_, last = measured.values()
  fractions = {name: metrics_lib.per_class(metrics.confusion) for name, metrics in measured.items()}
  counts = last.confusion.sum(axis=1)
  final = list(fractions.values())[-1]
  order = sorted(range(len(classes)), key=lambda c: (math.isnan(final[c]), final[c], c))
  rows = [
    [html.escape(classes[c]), str(counts[c]), *(_bar(values[c], name) for name, values in fractions.items())]
    for c in order
  ]
  table = _table(["class", "videos", *map(_name, measured)], rows, class_name="classes")
  return _section("Classes", f'<div class="scroll">{table}</div>', "Accuracy in percent, the hardest class first.")


def _clips(examples: Mapping[str, Sequence[figures.Example]], name: str) -> str:
  if not any(examples.values()):
    return ""
  notes = {
    "best": "The label’s score exceeds every other class’s by most.",
    "worst": "The label’s score falls short of another’s by most, or exceeds it by least.",
  }
  body = ""
  for kind, chosen in examples.items():
    body += f'<h3>{kind.capitalize()}</h3><p class="note">{notes[kind]}</p>' + "".join(map(_clip, chosen))
  return _section("Clips", body, f"{_name(name)}; at most one clip of a class. Flow’s colour is its direction.")


def _clip(example: figures.Example) -> str:
  verdict = "right" if example.ranking[0][0] == example.label else "wrong"
  ranking = "".join(
      f'<li class="{"own" if label == example.label else ""}">{html.escape(label)}'
      + ("" if probability is None else f" <b>{100 * probability:.1f}</b>") + "</li>"
      for label, probability in example.ranking
  )  # fmt: skip
  picture = _picture(example.picture, "image/jpeg", example.id) if example.picture else ""
  return (
    f'<article><div class="words"><span class="pill {verdict}">{verdict}</span><b>{html.escape(example.label)}</b>'
    f"<code>{html.escape(example.id)}</code><ol>{ranking}</ol></div>{picture}</article>"
  )


def _failures(failures: Sequence[Mapping[str, Any]]) -> str:
  if not failures:
    return ""
  rows = [[failure["stream"], str(failure["number"]), *(html.escape(failure[k]) for k in ("id", "reason"))]
          for failure in failures]  # fmt: skip
  table = _table(["stream", "record", "id", "reason"], rows, texts=4)
  return _section("Failures", table, "Records that could not be evaluated; they are in no figure above.")


def _about(about: Mapping[str, Any]) -> str:
  """Provenance, and beneath it what each stream's scores were made with, side by side."""
  code = lambda value: f"<code>{html.escape(value if isinstance(value, str) else json.dumps(value))}</code>"
  texts = {name: value for name, value in about.items() if isinstance(value, str)}
  general = {name: value for name, value in texts.items() if name not in provenance.VERSIONS}
  general["versions"] = ", ".join(f"{name} {texts[name]}" for name in provenance.VERSIONS if name in texts)
  streams = {stream: {**made_with, **made_with["protocol"]} for stream, made_with in about["streams"].items()}
  names = dict.fromkeys(name for values in streams.values() for name in values)
  rows = [
    [html.escape(name.replace("_", " ")), *(code(values.get(name)) for values in streams.values())] for name in names
  ]
  count = 1 + len(streams)
  return _section(
    "What was run",
    _table(["", ""], [[name, code(value)] for name, value in general.items()], texts=2, class_name="about")
    + _table(["", *map(_dot, streams)], rows, texts=count, class_name="about"),
  )


def _section(title: str, body: str, note: str = "") -> str:
  note = f'<p class="note">{html.escape(note)}</p>' if note else ""
  return f"<section><h2>{title}</h2>{note}{body}</section>"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, class_name: str = "") -> str:
  """A table of HTML cells; all but the first `texts` columns are figures, flush right."""
  line = lambda tag, row: "".join(
    f"<{tag}{'' if column < texts else ' class=n'}>{text}</{tag}>" for column, text in enumerate(row)
  )
  head = f"<thead><tr>{line('th', names)}</tr></thead>" if any(names) else ""
  body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
  return f'<table class="{class_name}">{head}<tbody>{body}</tbody></table>'


def _bar(fraction: float, name: str) -> str:
  if math.isnan(fraction):
    return metrics_lib.NONE
  percent = 100 * fraction
  style = f"--hue:{figures.COLORS[name]};--part:{percent:.1f}%"
  return f'<span class="bar" style="{style}"></span><span class="percent">{percent:.1f}</span>'


def _dot(name: str) -> str:
  return f'<span class="dot" style="--hue:{figures.COLORS[name]}"></span>{_name(name)}'


def _name(stream: str) -> str:
  return figures.NAMES[stream]


def _percent(fraction: float) -> str:
  return f"{100 * fraction:.1f}"


def _figure(picture: bytes, caption: str) -> str:
  text = html.escape(caption)
  return f"<figure>{_picture(picture, 'image/png', caption)}<figcaption>{text}</figcaption></figure>"


def _picture(content: bytes, kind: str, words: str) -> str:
  data = base64.b64encode(content).decode()
  return f'<img alt="{html.escape(words)}" src="data:{kind};base64,{data}">'
