"""The card of an exported network: its data, input, figures, license and limits."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from i3d_tf.inference import classifier as classifier_lib
from i3d_tf.models import zoo
from i3d_tf.weights import hub
from i3d_tf.weights import manifest

FILE = "MODEL_CARD.md"
_RELEASE = "google-deepmind/kinetics-i3d, Apache License 2.0"
_LIMITS = (
  "It chooses among the classes it was trained on, also for videos that show none of them; probabilities cannot tell.",
  "It sees what was filmed as its training videos were. Other cameras, cuts, places and people may be told less well; "
  "test it on videos of your own before you rely on it.",
  "Videos of the Web, on which such networks are trained, have the biases of what people upload. It was not examined "
  "for fairness among groups of people, and is not for identifying or judging persons.",
  "Values outside the stated range, another frame rate, or frames in another order of channels give wrong classes "
  "without an error.",
)


def write(classifier: classifier_lib.Classifier, streams: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the card as Markdown.

  Args:
    classifier: The network, or two.
    streams: What its clips are, as `input.json` has it.
  """
  networks = list(classifier.networks.values())
  names = " and ".join(f"{network.info.model} ({network.info.stream})" for network in networks)
  lines = [f"# {names}", "", f"{_purpose(classifier, networks)}", "", "## Data", ""]
  lines += [f"* {network.info.stream}: {_data(network)}" for network in networks]
  lines += ["", "## Input", "", "| stream | values | frames per second | frames of training | short side, crop |"]
  lines += ["|---|---|---|---|---|", *map(_input, streams.items()), "", "## Figures", "", *_figures(networks)]
  lines += ["", "## License", "", *_licenses(networks), "", "## Limits", "", *(f"* {limit}" for limit in _LIMITS), ""]
  return "\n".join(lines)


def _purpose(classifier: classifier_lib.Classifier, networks: Sequence[classifier_lib.LoadedNetwork]) -> str:
  added = ", whose logits are added" if len(networks) > 1 else ""
  return f"Classifies short videos into {classifier.num_classes} classes (`classes.txt`): {_titles(networks)}{added}."


def _titles(networks: Sequence[classifier_lib.LoadedNetwork]) -> str:
  return "; ".join(dict.fromkeys(f"{(e := zoo.get(network.info.model)).title} ({e.source})" for network in networks))


def _data(network: classifier_lib.LoadedNetwork) -> str:
  info = network.info
  data = manifest.load(network.checkpoint).trained_on if network.checkpoint in hub.NAMES else info.dataset
  steps = "" if info.step is None else f", {info.step:,} steps"
  return f"{data or 'not stated by the checkpoint'}{steps}; weights with the checksum {network.weights}"


def _input(item: tuple[str, Mapping[str, Any]]) -> str:
  stream, facts = item
  clip = facts["trained_on"]
  cells = (stream, facts["values"], f"{facts['frames_per_second']:g}", clip["num_frames"])
  return f"| {' | '.join(map(str, cells))} | {clip['short_side']}, {clip['crop']} |"


def _figures(networks: Sequence[classifier_lib.LoadedNetwork]) -> Iterator[str]:
  yield "Of these very weights none was measured at export; `python -m i3d_tf.evaluate` measures them on a data set."
  for network in networks:
    info = network.info
    for start, accuracies in zoo.get(info.model).accuracies.items():
      if info.stream in accuracies:
        yield (
          f"\nPublished for {info.model} ({info.stream}), weights of its source, begun from {start}: "
          f"{accuracies[info.stream]} % top-1 on Kinetics-400."
        )


def _licenses(networks: Sequence[classifier_lib.LoadedNetwork]) -> Iterator[str]:
  for network in networks:
    whose = (
      _RELEASE if network.checkpoint in hub.NAMES else "that of whoever trained it; add it here before you pass it on"
    )
    yield f"* {network.info.stream}: {whose}."
