"""What a user should know of a set of videos before believing an accuracy: duplicates, scenes, balance, lengths."""

import collections
from collections.abc import Sequence
import dataclasses
import hashlib

import cv2
import numpy as np

from i3d_tf.fitting import samples as samples_lib
from i3d_tf.fitting import splits

# Least correlation of two videos' mean pictures, and of their pictures in turn, to be of one scene, or the same video.
_SCENE, _SAME = 0.95, 0.985
_CONTRAST = 2.0  # least deviation of a picture, in grey levels
_GRID = (24, 24)  # pixels that pictures are compared at
_NAMED = 8  # names in a sentence
_IMBALANCE = 3.0  # of the largest class to the smallest, that is worth a word


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two videos that are as good as one.

  Attributes:
    one, other: Their indices.
    kind: 'copy' of files of the same bytes, 'same frames', or 'same scene'.
    similarity: 1 of copies, or the correlation of their pictures.
  """

  one: int
  other: int
  kind: str
  similarity: float


def find_pairs(facts: Sequence[samples_lib.Facts]) -> list[Pair]:
  """Returns the pairs of videos that are copies, or show the same frames or scene.

  Videos of one scene have the same mean picture, since what moves covers little of it for long. Pictures are compared
  without the mean of each colour and their contrast; those that are all one colour are like no other.

  Args:
    facts: Of all videos.
  """
  means = _unit(np.stack([_grid(each.frames.mean(axis=0)) for each in facts]))
  turns = _unit(np.stack([np.concatenate([_grid(frame) for frame in each.frames[::2]]) for each in facts]))
  scene, same = means @ means.T, turns @ turns.T
  found = []
  for one, other in np.argwhere(np.triu(scene >= _SCENE, 1)).tolist():
    is_copy = facts[one].digest == facts[other].digest != ""
    kind = "copy" if is_copy else "same frames" if same[one, other] >= _SAME else "same scene"
    found.append(Pair(one, other, kind, 1.0 if is_copy else float(scene[one, other])))
  return found


def _grid(picture: np.ndarray) -> np.ndarray:
  small = cv2.resize(picture.astype(np.float32), _GRID, interpolation=cv2.INTER_AREA)
  return (small - small.mean(axis=(0, 1))).ravel()


def _unit(rows: np.ndarray) -> np.ndarray:
  """Rows of length 1; what has next to no contrast is 0."""
  lengths = np.linalg.norm(rows, axis=1, keepdims=True)
  return np.where(lengths > _CONTRAST * rows.shape[1] ** 0.5, rows / np.maximum(lengths, 1e-6), 0)


def across(pairs: Sequence[Pair], plan: splits.Plan) -> list[Pair]:
  """Returns the pairs of which one video is tested while the other is trained on.

  Args:
    pairs: All pairs.
    plan: The folds.
  """
  found = []
  sides = [(frozenset(fold.train), frozenset(fold.test)) for fold in plan.folds]
  for pair in pairs:
    ends = (pair.one, pair.other), (pair.other, pair.one)
    if any(a in train and b in test for train, test in sides for a, b in ends):
      found.append(pair)
  return found


def describe_leak(pairs: Sequence[Pair], samples: samples_lib.Samples) -> str:
  """Returns a sentence that counts and names the pairs that lie across a split's border; '' for none.

  Args:
    pairs: Those that do.
    samples: The videos.
  """
  if not pairs:
    return ""
  videos = {index for pair in pairs for index in (pair.one, pair.other)}
  kinds = ", ".join(f"{count} {kind}" for kind, count in collections.Counter(pair.kind for pair in pairs).items())
  first = sorted(pairs, key=lambda pair: (pair.kind, -pair.similarity))[:_NAMED]
  names = "; ".join(f"{samples.ids[pair.one]} and {samples.ids[pair.other]}" for pair in first)
  more = f"; and {len(pairs) - len(first)} more" if len(pairs) > len(first) else ""
  return (
    f"{len(videos)} of {len(samples)} clips ({100 * len(videos) / len(samples):.0f} %) have a twin on the other side "
    f"of a split ({kinds}: {names}{more}), so that the accuracy may be too good; split_scenes=True keeps them "
    "together, or name the groups with split_group"
  )


def warn(samples: samples_lib.Samples, facts: Sequence[samples_lib.Facts], *, num_frames: int) -> list[str]:
  """Returns a sentence on everything of the set that a user should be told.

  Args:
    samples: The videos.
    facts: Of each.
    num_frames: Frames of the network's clips.
  """
  counts = collections.Counter(samples.labels)
  largest, smallest = counts.most_common()[0], counts.most_common()[-1]
  found = []
  if largest[1] >= _IMBALANCE * smallest[1]:
    found.append(
      f"the classes are unequal: {samples.classes[largest[0]]} has {largest[1]} clips, {samples.classes[smallest[0]]} "
      f"{smallest[1]}; all count equally in training, and mean per class is the accuracy to look at"
    )
  if few := [samples.classes[label] for label, count in sorted(counts.items()) if count < 5]:
    found.append(f"there are fewer than five clips of {_some(few)}, whose accuracy says little")
  if short := [name for name, each in zip(samples.ids, facts, strict=True) if each.num_frames < num_frames]:
    found.append(
      f"{len(short)} of {len(samples)} clips are shorter than the {num_frames} frames that the network was trained on "
      f"({_some(short)}); they are used as they are"
    )
  if pairs := _labelled_twice(samples, facts):
    named = "; ".join(f"{samples.ids[a]} and {samples.ids[b]}" for a, b in pairs[:_NAMED])
    found.append(f"{len(pairs)} videos are there twice with two labels ({named}); one of them is wrong")
  return found


def _labelled_twice(samples: samples_lib.Samples, facts: Sequence[samples_lib.Facts]) -> list[tuple[int, int]]:
  first: dict[str, int] = {}
  found = []
  for index, each in enumerate(facts):
    digest = each.digest or hashlib.sha256(each.frames.tobytes()).hexdigest()
    other = first.setdefault(digest, index)
    if samples.labels[other] != samples.labels[index]:
      found.append((other, index))
  return found


def _some(names: Sequence[str]) -> str:
  more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
  return ", ".join(names[:_NAMED]) + more
