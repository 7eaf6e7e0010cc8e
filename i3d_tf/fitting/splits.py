"""Which clips are trained on and which are tested: groups that stay together, folds, and what they lack.

Clips that were cut from one recording look alike, and a network that has seen one of them knows the other. So they form
a group, and a group is never on both sides of a fold. Groups are given, or guessed from the names of the clips. The
same clips, groups and seed give the same folds. Imports no TensorFlow.
"""

import collections
from collections.abc import Sequence
import dataclasses
import hashlib
import re

from i3d_tf import errors

PROTOCOLS = ("auto", "k_fold", "leave_one_group_out", "holdout")
NO_GROUPS = "none"  # in place of a regular expression: every clip by itself
_NAMED = 5  # names in a warning
# How data sets name what clips were cut from, the most telling first, with what the pattern is about.
_PATTERNS = (
  (r"^v_.+_g\d+(?=_c\d+)", "the video that clips were cut from, as UCF-101 names it"),
  (r"^.+_g\d+(?=_c\d+)", "the video that clips were cut from"),
  (r"(?<![a-z])seq(?:uence)?[-_ ]?\d+", "the sequence"),
  (r"(?<![a-z])(?:person|subject|subj|actor|performer|player)[-_ ]?\d+", "the person"),
  (r"^.{11}(?=_\d{6}_\d{6}$)", "the video that clips were cut from, as Kinetics names it"),
  (r"^.+(?=_[a-z_]+_[hulf]_(?:cm|nm)_np\d_(?:ba|fr|le|ri)_(?:goo|med|bad)_\d+$)", "the film, as HMDB-51 names it"),
  (r"(?<=^S\d{3}C\d{3})P\d{3}", "the person, as NTU RGB+D names it"),
  (r"(?<![a-z])(?:scene|session|take|cam(?:era)?|video|vid)[-_ ]?\d+(?=[-_ ].)", "the recording"),
)


@dataclasses.dataclass(frozen=True)
class Grouping:
  """Which clips belong together.

  Attributes:
    groups: The group of each clip.
    is_given: Whether a group is more than one clip by itself.
    note: One sentence that says where the groups are from.
  """

  groups: tuple[str, ...]
  is_given: bool
  note: str


@dataclasses.dataclass(frozen=True)
class Fold:
  """One division of the clips, by their indices.

  Attributes:
    name: What is tested, for people.
    train: Clips to train on, in ascending order.
    test: Clips to test on, likewise.
  """

  name: str
  train: tuple[int, ...]
  test: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
  """The folds of a protocol.

  Attributes:
    protocol: One of `PROTOCOLS` but 'auto', or 'folders' of clips that came with their splits.
    folds: The folds; no clip is tested in two of them.
    warnings: Sentences on classes that a fold lacks, by name.
  """

  protocol: str
  folds: tuple[Fold, ...]
  warnings: tuple[str, ...]


def group(ids: Sequence[str], pattern: str | None) -> Grouping:
  """Returns the groups of clips.

  Args:
    ids: Ids of the clips: paths without the file names' endings.
    pattern: Regular expression; clips in whose ids it finds the same text, or whose first bracket holds the same, are
      a group. 'none': every clip by itself. None: guessed from the file names.

  Raises:
    I3dError: If it is no regular expression, or is not found in an id.
  """
  if pattern == NO_GROUPS:
    return Grouping(tuple(ids), False, "every clip is a group by itself, as was asked for")
  if pattern is None:
    return _guess(ids)
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    raise errors.I3dError(f"split_group is '{pattern}', which is no regular expression: {error}") from None
  found = [compiled.search(each) for each in ids]
  if None in found:
    raise errors.I3dError(f"split_group '{pattern}' is not found in the clip {ids[found.index(None)]}")
  keys = tuple(_key(match) for match in found if match is not None)
  return Grouping(keys, True, f"{_count(keys)} groups by '{pattern}'")


def blocks(ids: Sequence[str], size: int) -> Grouping:
  """Returns groups of clips whose numbers follow each other, for sets in which neighbours were cut from one recording.

  Args:
    ids: Ids of the clips; the last number in the file's name counts, whatever stands before it.
    size: Numbers of a block, of those that there are, in ascending order.

  Raises:
    I3dError: If a name has no number.
  """
  found = [re.search(r"(\d+)\D*$", each.rpartition("/")[2]) for each in ids]
  if None in found:
    raise errors.I3dError(f"split_block is {size}, but the clip {ids[found.index(None)]} has no number in its name")
  numbers = [int(match[1]) for match in found if match is not None]
  ranks = {number: rank for rank, number in enumerate(sorted(set(numbers)))}
  starts = sorted(ranks)[::size]
  keys = tuple(f"from {starts[ranks[number] // size]}" for number in numbers)
  return Grouping(keys, True, f"{_count(keys)} blocks of {size} numbers")


def _guess(ids: Sequence[str]) -> Grouping:
  """The first pattern that most names have, and that puts some of them together but not all."""
  names = [each.rpartition("/")[2] for each in ids]
  for pattern, what in _PATTERNS:
    found = [re.search(pattern, name, re.IGNORECASE) for name in names]
    keys = tuple(each if match is None else _key(match).casefold() for each, match in zip(ids, found, strict=True))
    is_telling = sum(match is not None for match in found) >= 0.9 * len(ids)
    if is_telling and 2 <= len(set(keys)) < len(ids):
      example = next(_key(match) for match in found if match is not None)
      note = f"{_count(keys)} groups guessed from the names ({example!r} and the like): {what}; split_group changes it"
      return Grouping(keys, True, note)
  note = "no groups are told by the names, so every clip is one by itself; split_group keeps clips together"
  return Grouping(tuple(ids), False, note)


def _key(match: re.Match) -> str:
  return match[1] if match.re.groups and match[1] is not None else match[0]


def _count(keys: Sequence[str]) -> int:
  return len(set(keys))


def join(grouping: Grouping, pairs: Sequence[tuple[int, int]]) -> Grouping:
  """Returns groups of which those that hold both clips of a pair are one.

  Args:
    grouping: The groups.
    pairs: Pairs of clips that belong together, by index.
  """
  parents = {key: key for key in grouping.groups}

  def root(key: str) -> str:
    while parents[key] != key:
      key = parents[key]
    return key

  for one, other in pairs:
    first, second = sorted((root(grouping.groups[one]), root(grouping.groups[other])))
    parents[second] = first
  joined = tuple(root(key) for key in grouping.groups)
  if joined == grouping.groups:
    return grouping
  note = f"{grouping.note}; {_count(grouping.groups)} groups became {_count(joined)} by clips that look alike"
  return Grouping(joined, True, note)


def plan(
  labels: Sequence[int],
  classes: Sequence[str],
  groups: Sequence[str],
  *,
  protocol: str = "auto",
  num_folds: int = 5,
  seed: int = 0,
  given: Sequence[str] = (),
) -> Plan:
  """Returns the folds of a protocol, and what they lack.

  Args:
    labels: Class index of each clip.
    classes: Names of the classes.
    groups: Group of each clip; see `group`.
    protocol: 'k_fold': every group is tested once, in one of `num_folds` folds of about equal sizes and mixtures of
      classes; 'leave_one_group_out': every group is a fold; 'holdout': the first of `num_folds` folds is tested, the
      others are trained on; 'auto': as `given` says, or else 'k_fold'.
    num_folds: Number of folds, at least 2; there are never more than groups.
    seed: Another seed gives other folds.
    given: Split of each clip ('train', 'val' or 'test'), where the clips came with them; they are one fold, of which
      test is tested, or val where there is no test.

  Raises:
    I3dError: If there are not two classes or groups, or the protocol does not fit.
  """
  if protocol not in PROTOCOLS:
    raise errors.I3dError(f"protocol is {protocol!r}; allowed are {', '.join(PROTOCOLS)}")
  if len(set(labels)) < 2:
    raise errors.I3dError(f"there are clips of {len(set(labels))} class; a classifier needs at least two")
  if given and protocol == "auto":
    return _as_given(labels, classes, given)
  if given:
    raise errors.I3dError(f"the clips are split already, into {', '.join(sorted(set(given)))}; leave protocol at auto")
  names = sorted(set(groups))
  if len(names) < 2:
    raise errors.I3dError(f"all clips are of one group, {names[0]!r}; give another split_group")
  if protocol == "leave_one_group_out":
    parts = {name: name for name in names}
    labelled = names
  else:
    numbers = _deal(labels, groups, min(num_folds, len(names)), seed)
    parts = {name: f"fold {number + 1}" for name, number in numbers.items()}
    labelled = [f"fold {number + 1}" for number in range(min(num_folds, len(names)))]
    if protocol == "holdout":
      labelled = [_fullest(labels, groups, parts, labelled)]
  folds = tuple(_fold(name, groups, parts) for name in labelled)
  kind = "k_fold" if protocol == "auto" else protocol
  return Plan(kind, folds, _gaps(folds, labels, classes, groups))


def _deal(labels: Sequence[int], groups: Sequence[str], count: int, seed: int) -> dict[str, int]:
  """The number of the fold of each group: the largest first, each where its classes and clips are most wanted."""
  members: dict[str, collections.Counter] = {}
  for label, name in zip(labels, groups, strict=True):
    members.setdefault(name, collections.Counter())[label] += 1
  totals = collections.Counter(labels)
  rare = lambda name: min(totals[label] for label in members[name])
  digest = lambda name: hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
  order = sorted(members, key=lambda name: (-members[name].total(), rare(name), digest(name)))
  filled = [collections.Counter[int]() for _ in range(count)]
  numbers: dict[str, int] = {}
  for name in order:

    def cost(number: int, own: collections.Counter = members[name]) -> tuple[float, int, int]:
      # How much fuller of these classes the fold gets than an equal share, in parts of each class.
      crowd = sum((2 * filled[number][label] + n) * n / totals[label] ** 2 for label, n in own.items())
      return round(crowd, 12), filled[number].total(), number

    numbers[name] = min(range(count), key=cost)
    filled[numbers[name]].update(members[name])
  for number in range(count):  # with few large groups one may have got none
    if number not in numbers.values():
      fullest = collections.Counter(numbers.values()).most_common(1)[0][0]
      numbers[next(name for name in reversed(order) if numbers[name] == fullest)] = number
  return numbers


def _fullest(labels: Sequence[int], groups: Sequence[str], parts: dict[str, str], names: Sequence[str]) -> str:
  """The fold whose test has most classes of which others are left to train on; the first of equals."""

  def held(fold: str) -> int:
    inside = {label for label, name in zip(labels, groups, strict=True) if parts[name] == fold}
    outside = {label for label, name in zip(labels, groups, strict=True) if parts[name] != fold}
    return 2 * len(outside) + len(inside)

  return max(names, key=held)


def _fold(name: str, groups: Sequence[str], parts: dict[str, str]) -> Fold:
  is_tested = [parts[each] == name for each in groups]
  indices = range(len(groups))
  return Fold(name, tuple(i for i in indices if not is_tested[i]), tuple(i for i in indices if is_tested[i]))


def _as_given(labels: Sequence[int], classes: Sequence[str], given: Sequence[str]) -> Plan:
  tested = "test" if "test" in given else "val"
  test = tuple(index for index, split in enumerate(given) if split == tested)
  train = tuple(index for index, split in enumerate(given) if split != tested)
  if not test or not train:
    raise errors.I3dError(
      f"all clips are in the folder of the split {given[0]}; put some into another one (train, val, test), or give the "
      "folder of the classes itself, which is then split"
    )
  folds = (Fold(tested, train, test),)
  return Plan("folders", folds, _gaps(folds, labels, classes, ()))


def _gaps(
  folds: Sequence[Fold], labels: Sequence[int], classes: Sequence[str], groups: Sequence[str]
) -> tuple[str, ...]:
  """A sentence for every way in which classes are missing: none is missing without being named."""
  warnings = []
  everything = set(labels)
  if absent := [name for index, name in enumerate(classes) if index not in everything]:
    warnings.append(f"no clip can be used of {_some(absent)}, which the network will know nothing of")
  for side in ("train", "test"):
    lacking: dict[int, list[str]] = {}
    for fold in folds:
      for label in sorted(everything - {labels[index] for index in getattr(fold, side)}):
        lacking.setdefault(label, []).append(fold.name)
    for label, names in lacking.items():
      where = f"{_some(names)}" if len(folds) > 1 else f"the split ({names[0]})"
      if side == "train":
        own = {each for each, other in zip(groups, labels, strict=True) if other == label} if groups else ()
        reason = " (all its clips are one group)" if len(own) == 1 else ""
        warnings.append(f"{classes[label]}: no clip to train on in {where}{reason}, so that it cannot be known there")
      else:
        warnings.append(f"{classes[label]}: no clip to test in {where}, whose accuracy says nothing of it")
  return tuple(warnings)


def _some(names: Sequence[str]) -> str:
  more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
  return ", ".join(names[:_NAMED]) + more
