"""Which protocol made a file of features: by how many there are and their shape, then by their values.

Counts and shapes leave a few candidates: a preset, or another window, hop and rate. Where weights are at hand, the
first windows of each are computed, and compared by the cosine.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import copy
import dataclasses
import functools
import itertools
import os
from typing import Any

import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import workers
from i3d_tf.features import extraction
from i3d_tf.features import networks
from i3d_tf.features import profiles
from i3d_tf.features import sources
from i3d_tf.models import inception_spec as spec
from i3d_tf.video import decode
from i3d_tf.weights import saved

# Relative difference up to which features are called the same. A port of I3D to PyTorch whose batch norm has an epsilon
# of 1e-5 in place of 1e-3 is up to 1.6e-3 away (v-iashin/video_features:models/i3d/i3d_src/i3d_net.py).
SAME = 3e-3
NEAR = 0.5  # share of the rows' variance that must be explained to call them made alike
NEAR_COSINE = 0.99  # in its place where there is a single row
_WINDOWS = (16, 64, 32, 24, 20, 10)  # the usual ones first
_HOPS = (1, 2, 4, 8, 10, 16, 24, 32, 64)
_RATES = (0.0, 25.0, 24.0, 30.0, 15.0)
_NEAREST = 12  # candidates that are compared by more than the first row
# The network's shorter side, or one as long as the crop; or width and height, whatever the video's aspect.
_SIZES: tuple[dict[str, Any], ...] = ({}, {"frame_size": (340, 256)}, {"short_side": 224}, {"frame_size": (224, 224)})
_REFINED = 2  # of these, those that are also tried with other crops and ways of resizing


@dataclasses.dataclass(frozen=True)
class Given:
  """Features that were made somehow.

  Attributes:
    path: Their file.
    values: float64 `[N, crops, channels]`.
  """

  path: str
  values: np.ndarray

  def __str__(self) -> str:
    num_rows, num_crops, num_channels = self.values.shape
    crops = f" of {num_crops} crops" if num_crops > 1 else ""
    return f"{self.path}: {num_rows} rows{crops} of {num_channels} values"


@dataclasses.dataclass(frozen=True)
class Candidate:
  """One way in which features may have been made.

  Attributes:
    preset: Name of a preset; None: the windows were found by trying.
    options: How.
    streams: Streams that they are of, in the order of the halves of the values.
    endpoint: Layer.
    cosine: Mean cosine between the values given and those computed; None: not computed.
    lowest: The lowest of them.
    difference: Mean length of the differences, relative to the lengths of the values computed.
    explained: Share of the variance of the rows given that those computed explain; None for a single row. Features of
      one video are alike, and cosines high, whatever made them; this is not.
    crop: Number of the crop, see `profiles.CROP_ORDERS`; None for all in the order of the options.
  """

  preset: str | None
  options: profiles.FeatureConfig
  streams: tuple[str, ...]
  endpoint: str = profiles.POOLED_FEATURES
  cosine: float | None = None
  lowest: float | None = None
  difference: float | None = None
  explained: float | None = None
  crop: int | None = None

  def __str__(self) -> str:
    options = self.options
    window = f"{options.window}/{options.step} {options.tail}"
    if options.window == profiles.ALL:
      window = "whole video" if options.pooling == "space" else "mean of the whole video"
    rate = f"{options.fps:g} fps" if options.fps else "the video's own rate"
    name = self.preset or "(no preset)"
    size = f"shorter side {options.short_side} " if options.short_side else ""
    size = "x".join(map(str, options.frame_size)) + " " if options.frame_size else size
    crop = f"{options.crops} crops, {options.crop_order}" if self.crop is None else f"crop {self.crop}"
    text = f"{name}: {'+'.join(self.streams)}, {self.endpoint}, {window}, {rate}, {size}{options.resize}, {crop}"
    return text if self.cosine is None else f"{self.cosine:.6f} (difference {self.difference:.1e})  {text}"

  def command(self, video: str | os.PathLike) -> str:
    """Returns the command that makes the same features.

    Args:
      video: Path of the video.
    """
    options = self.options
    base = profiles.PRESETS[self.preset].options if self.preset else profiles.PROFILES["ours"].defaults
    words = [f"--preset={self.preset}"] if self.preset else []
    defaults: dict[str, Any] = {"fps": 25.0, "resize": "opencv", "frame_size": (), "hop": None, **base}
    changes: dict[str, Any] = {"window": options.window, "hop": options.hop, "tail": options.tail, "fps": options.fps}
    changes |= {"crops": options.crops, "resize": options.resize, "frame_size": options.frame_size}
    changes |= {"short_side": options.short_side, "pooling": options.pooling}
    changes |= {"streams": self.streams, "endpoints": (self.endpoint,)}
    if options.crops > 1:
      changes["crop_order"] = options.crop_order
    for name, value in changes.items():
      if value != defaults.get(name) and value is not None:
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        words.append(f"--{name}={'all' if name == 'window' and value == profiles.ALL else text}")
    for stream in self.streams:
      words.append(f"--{stream}_checkpoint={getattr(options, f'{stream}_checkpoint')}")
    return " ".join(["python -m i3d_tf.extract_features", f"--input={video}", "--output=features", *words])


def read(path: str | os.PathLike) -> Given:
  """Returns a file's features, of any of the usual layouts.

  Args:
    path: A .npy file `[N, C]`, `[N, 1, 1, C]` or `[N, crops, C]`; or an .npz file with `features` like these, or
      `feature` `[crops, N, C]`.

  Raises:
    I3dError: If it holds no features.
    OSError: If it cannot be read.
  """
  if os.fspath(path).lower().endswith(".npz"):
    arrays = files.read_arrays(path)
    if "feature" in arrays:
      values = np.swapaxes(arrays["feature"], 0, 1) if arrays["feature"].ndim == 3 else arrays["feature"]
    elif "features" in arrays:
      values = arrays["features"]
    else:
      raise errors.I3dError(f"{path}: it holds {', '.join(arrays)}, but neither features nor feature")
  else:
    values = np.asarray(files.map_array(path))
  shape = list(values.shape)
  if values.ndim == 4 and shape[1:3] == [1, 1]:
    values = values[:, 0, 0]
  if values.ndim == 1:
    values = values[np.newaxis]
  if values.ndim == 2:
    values = values[:, np.newaxis]
  if values.ndim != 3 or not values.size or not np.issubdtype(values.dtype, np.floating):
    raise errors.I3dError(f"{path}: {values.dtype} {shape} is none of [N, C], [N, 1, 1, C] and [N, crops, C]")
  if not np.isfinite(values).all():
    raise errors.I3dError(f"{path}: it holds values that are not finite")
  return Given(os.fspath(path), values.astype(np.float64))


def by_shape(
  given: Given, video: str | os.PathLike, *, frame_rate: float = decode.FRAME_RATE, width: int = 1024
) -> list[Candidate]:
  """Returns the ways that give as many values, presets first.

  Args:
    given: The features.
    video: What they are of.
    frame_rate: Frames per second of folders of images and of arrays.
    width: Values of an I3D's PooledFeatures.

  Raises:
    VideoError: If the video cannot be read.
  """
  num_rows, num_crops, num_channels = given.values.shape
  own = decode.probe(video, frame_rate=frame_rate).frame_rate
  count = functools.cache(lambda fps: decode.count_frames(video, fps=fps or own, frame_rate=frame_rate))
  found, seen = [], set[Any]()
  for preset, options in itertools.chain(_of_presets(), _of_windows(num_crops)):
    a_file = 1 if options.profile == "xd_violence" else options.crops  # of its crops
    if num_crops not in (a_file, options.crops):
      continue
    for streams, endpoint in _kinds(preset, num_channels, width):
      if endpoint == profiles.LOGITS and options.window == profiles.ALL:
        continue  # these are of a clip
      config = dataclasses.replace(options, streams=streams, endpoints=(endpoint,))
      if preset is None:
        key = (config.window, config.step, config.tail, config.pooling, round(config.fps or own, 2), streams, endpoint)
        if key in seen:
          continue
        seen.add(key)
      if extraction.num_rows(config, count(config.fps)) == num_rows:
        found.append(Candidate(preset, config, streams, endpoint))
  return found


def by_values(
  given: Given,
  video: str | os.PathLike,
  candidates: Sequence[Candidate],
  checkpoints: Mapping[str, str],
  *,
  num_rows: int = 3,
  frame_rate: float = decode.FRAME_RATE,
  progress: bool = False,
) -> list[Candidate]:
  """Returns the candidates with their cosines, the best first; those of streams without weights are left out.

  All are compared by the first row, which many have in common, up to one that is the same in more of them. If none is,
  the nearest are compared by more rows; they come first.

  Args:
    given: The features.
    video: What they are of.
    candidates: From `by_shape`.
    checkpoints: Weights by stream.
    num_rows: Rows from the first on that are computed and compared.
    frame_rate: As in `by_shape`.
    progress: Whether to show a bar.

  Raises:
    I3dError: If the video or the weights cannot be read.
  """
  computed = _Computed(video, frame_rate)
  named: dict[str, Any] = {f"{stream}_checkpoint": path for stream, path in checkpoints.items()}
  models = {stream: saved.read(path)[1].model for stream, path in checkpoints.items()}
  usable = [each for each in candidates if {models.get(stream) for stream in each.streams} <= _networks(each.preset)]
  with_weights = lambda options: dataclasses.replace(options, preset=None, **named)
  usable = [dataclasses.replace(each, options=with_weights(each.options)) for each in usable]
  best_first = lambda found: sorted(found, key=lambda each: (round(each.difference, 5), each.preset is None))
  by_first_row: list[Candidate] = []
  compared: list[Candidate] = []
  with workers.Bar(total=len(usable), unit="candidate", leave=False, is_shown=progress) as bar:

    def compare(each: Candidate) -> bool:
      """Compares a candidate in full, and returns whether it is the same."""
      compared.append(_compared(given, each, computed, num_rows))
      return _is_same(compared[-1:])

    for each in usable:
      bar.update()
      with contextlib.suppress(errors.I3dError):  # the network does not take such windows
        by_first_row.append(_compared(given, each, computed, 1))
        if _is_same(by_first_row[-1:]) and compare(by_first_row.pop()):
          return best_first(compared) + best_first(by_first_row)
    by_first_row = best_first(by_first_row)
    near, by_first_row = by_first_row[:_NEAREST], by_first_row[_NEAREST:]
    bar.total += len(near) + _REFINED * len(_SIZES) * len(profiles.RESIZES)
    for each in near:
      compare(each)
      bar.update()
    for best in best_first(compared)[:_REFINED]:
      first_row = _compared(given, best, computed, 1)
      for other in _refined(best):
        bar.update()
        with contextlib.suppress(errors.I3dError):  # its crop is larger than such frames
          if best_first([first_row, _compared(given, other, computed, 1)])[0] is not first_row and compare(other):
            return best_first(compared) + by_first_row
  return best_first(compared) + by_first_row


def verdict(ranked: Sequence[Candidate]) -> str:
  """Returns in words what the best candidate is worth.

  Args:
    ranked: From `by_values`.
  """
  if not is_explained(ranked):
    return f"none of these{f'; the nearest has a cosine of {ranked[0].cosine:.4f}' if ranked else ''}"
  return "the same" if _is_same(ranked) else "nearly the same: perhaps another decoder, resizing or optical flow"


def is_explained(ranked: Sequence[Candidate]) -> bool:
  """Returns whether the best candidate made the features, or what differs from it in details.

  Args:
    ranked: From `by_values`.
  """
  if not ranked or _is_same(ranked):
    return bool(ranked)
  best = ranked[0]
  return best.explained >= NEAR if best.explained is not None else (best.cosine or 0) >= NEAR_COSINE


def _is_same(ranked: Sequence[Candidate]) -> bool:
  return bool(ranked) and ranked[0].difference is not None and ranked[0].difference <= SAME


class _Computed:
  """The first windows of a video, run as often as other settings want and no more."""

  def __init__(self, video: str | os.PathLike, frame_rate: float):
    (self._source,) = sources.list_sources([video])
    self._frame_rate, self._own = frame_rate, decode.probe(video, frame_rate=frame_rate).frame_rate
    self._windows = functools.cache(self._run)
    self._network = functools.cache(extraction.Extractor)

  def rows(self, options: profiles.FeatureConfig, stream: str, endpoint: str, num_rows: int) -> np.ndarray:
    """The first rows `[N, crops, C]`, the centre's or all crops in the order of evaluation."""
    is_whole, is_own = options.window == profiles.ALL, abs(options.fps - self._own) < 0.01
    setting = dataclasses.replace(
        options, profile="ours", streams=(stream,), endpoints=(endpoint,), crops=1 if options.crops == 1 else 10,
        crop_order="evaluation", pooling=options.pooling if is_whole else "space_time",
        fps=0.0 if is_own else options.fps,
        flow_bytes="none" if stream == "rgb" else options.flow_bytes,
    )  # fmt: skip
    if num_rows == 1 and not is_whole:  # whatever follows it
      setting = dataclasses.replace(setting, hop=None, tail="pad" if setting.tail == "drop" else setting.tail)
    return self._windows(setting, None if is_whole else num_rows, options.needs_pairs)[:num_rows]

  def _extractor(self, setting: profiles.FeatureConfig) -> extraction.Extractor:
    """An extractor with the networks of another one that differs in what they do not depend on."""
    window = profiles.ALL if setting.window == profiles.ALL else None
    same = dataclasses.replace(
        setting, window=window, hop=None, tail="pad", fps=25.0, offset=0, resize="opencv", frame_size=(),
        short_side=None,
    )  # fmt: skip
    extractor = copy.copy(self._network(same))
    for network in extractor.networks.values():
      if setting.window != profiles.ALL:
        network.check_window(setting.num_frames)
    extractor.options = dataclasses.replace(setting, precision=extractor.options.precision)
    return extractor

  def _run(self, setting: profiles.FeatureConfig, num_rows: int | None, pairs: bool) -> np.ndarray:
    extractor = self._extractor(setting)
    first: networks.FeatureNetwork = next(iter(extractor.networks.values()))
    video = sources.open_video(
        self._source, streams=setting.streams, pairs=pairs, fps=setting.fps,
        short_side=first.resized(setting),
        frame_rate=self._frame_rate, flow_bytes=setting.flow_bytes,
    )  # fmt: skip
    if num_rows is not None:  # as many positions as the rows need
      limit, positions = (num_rows - 1) * setting.step + setting.num_frames, video.positions
      video = dataclasses.replace(video, positions=lambda first: itertools.islice(positions(first), limit))
    with extractor.extract(self._source, video=video) as features:
      (array,) = features.arrays[setting.streams[0]].values()
      return array.load()[:num_rows].astype(np.float64)


def _refined(candidate: Candidate) -> Iterator[Candidate]:
  """The candidate with other crops and ways of resizing."""
  options = candidate.options
  plain = {"frame_size": (), "short_side": None}
  changes = [{**plain, **size, "resize": resize} for size in _SIZES for resize in profiles.RESIZES]
  if options.crops == 1 and options.window != profiles.ALL:  # whole videos ten times over would take long
    changes.append({"profile": "ours", "crops": 10})  # other profiles may have one crop only
  for change in changes:
    if (changed := dataclasses.replace(options, **change)) != options:
      yield dataclasses.replace(candidate, preset=None, options=changed)


def _compared(given: Given, candidate: Candidate, computed: _Computed, num_rows: int) -> Candidate:
  """The candidate with its cosines, and of a single crop with the number of the best."""
  parts = [computed.rows(candidate.options, each, candidate.endpoint, num_rows) for each in candidate.streams]
  ours = np.concatenate(parts, axis=-1)
  theirs = given.values[: len(ours)]
  if theirs.shape[-1] != ours.shape[-1]:
    raise errors.I3dError(f"the features have {theirs.shape[-1]} values each, those of the weights {ours.shape[-1]}")
  if theirs.shape[1] == 1:
    crops = {crop if ours.shape[1] > 1 else 4: ours[:, crop : crop + 1] for crop in range(ours.shape[1])}
    best = min(crops, key=lambda crop: _measured(theirs, crops[crop])["difference"])
    return dataclasses.replace(candidate, crop=best, **_measured(theirs, crops[best]))
  number = theirs.shape[1]
  orders = {name: _measured(theirs, ours[:, order[:number]]) for name, order in profiles.CROP_ORDERS.items()}
  name = min(orders, key=lambda name: orders[name]["difference"])
  options = dataclasses.replace(candidate.options, crop_order=name, crops=number)
  return dataclasses.replace(candidate, options=options, **orders[name])


def _measured(theirs: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
  """The fields of a candidate that compare features `[N, crops, C]`."""
  length = np.linalg.norm
  lengths = np.maximum(length(theirs, axis=-1) * length(ours, axis=-1), 1e-30)
  cosines = (theirs * ours).sum(axis=-1) / lengths
  difference = (length(theirs - ours, axis=-1) / np.maximum(length(ours, axis=-1), 1e-30)).mean()
  spread = np.square(theirs - theirs.mean(axis=0)).sum()
  explained = 1 - np.square(theirs - ours).sum() / max(spread, 1e-30) if len(ours) > 1 else None
  return {"cosine": cosines.mean(), "lowest": cosines.min(), "difference": difference, "explained": explained}


def _networks(preset: str | None) -> set[str | None]:
  """Names of the networks that a candidate is of."""
  return {"i3d"} if preset is None else set(profiles.PRESETS[preset].networks)


def _of_presets() -> Iterator[tuple[str, profiles.FeatureConfig]]:
  for name, preset in profiles.PRESETS.items():
    brought = {} if preset.networks == ("i3d",) else {"rgb_checkpoint": "WEIGHTS"}
    yield name, profiles.from_preset(name, **brought)


def _of_windows(num_crops: int) -> Iterator[tuple[None, profiles.FeatureConfig]]:
  """Windows that no preset has."""
  crops = num_crops if num_crops in profiles.CROPS else 1
  for fps, pooling in itertools.product(_RATES, ("space", "space_time")):
    yield None, profiles.FeatureConfig(crops=crops, window=profiles.ALL, pooling=pooling, fps=fps)
  for fps, window, hop, tail in itertools.product(_RATES, _WINDOWS, _HOPS, ("drop", "pad")):
    if hop <= window:
      yield None, profiles.FeatureConfig(crops=crops, window=window, hop=hop, tail=tail, fps=fps)


def _kinds(preset: str | None, num_channels: int, pooled_width: int) -> list[tuple[tuple[str, ...], str]]:
  """Streams and endpoint of which there are so many values."""
  both, pooled = ("rgb", "flow"), profiles.POOLED_FEATURES
  if preset is not None and profiles.PRESETS[preset].networks != ("i3d",):
    return [(("rgb",), pooled)] if num_channels == 2048 else []
  widths, channels = {pooled: pooled_width}, 3
  if preset is None:
    widths[profiles.LOGITS] = 400
    for row in spec.ROWS:
      channels = spec.out_channels(row, channels)
      widths[spec.endpoint_name(row)] = channels
  kinds = [((stream,), name) for name, width in widths.items() if width == num_channels for stream in both]
  return kinds + ([(both, pooled)] if num_channels == 2 * pooled_width else [])
