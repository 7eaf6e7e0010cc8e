"""The sound of a video as a log-mel spectrogram, the input of networks of sound.

It is that of VGGish (tensorflow/models research/audioset/vggish: vggish_params.py, mel_features.py): 64 bands from 125
to 7500 Hz, on the mel scale, of windows of 25 ms, one every 10 ms, and the logarithm of their magnitudes plus 0.01.
"""

from collections.abc import Generator, Iterator
import contextlib
import os

import av
from av.audio.frame import AudioFrame
import numpy as np

from i3d_tf import errors
from i3d_tf.video import containers
from i3d_tf.video import decode
from i3d_tf.video import stills

SAMPLE_RATE = 16_000  # samples per second, to which sound is resampled
NUM_BANDS = 64
STEPS_PER_SECOND = 100
NUM_STATISTICS = 4 * NUM_BANDS
_WINDOW, _HOP, _FFT = 400, SAMPLE_RATE // STEPS_PER_SECOND, 512  # samples; the window is padded to a power of two
_LOWEST, _HIGHEST = 125.0, 7500.0  # Hz
_OFFSET = 0.01
_PIECE = 10 * SAMPLE_RATE  # samples that are transformed at once
_MAX_LEAD = 10.0  # seconds by which sound may begin after the picture; more is taken for a clock that jumps


def log_mel(
  path: str | os.PathLike, *, start: float | None = None, end: float | None = None, allow_damaged: bool = False
) -> np.ndarray:
  """Returns the spectrogram of a video's sound, whose channels are averaged.

  Args:
    path: Path of the video.
    start: Seconds into the file; None: from its beginning.
    end: Seconds into the file; None: to its end.
    allow_damaged: Leave out what cannot be decoded.

  Returns:
    float32 `[steps, NUM_BANDS]`, 100 steps a second; no step of a video without sound, or of less than 25 ms of it.

  Raises:
    VideoError: If the file cannot be read, or its sound is damaged.
  """
  if stills.is_stills(path):
    return np.zeros((0, NUM_BANDS), np.float32)
  first = 0 if start is None else round(start * SAMPLE_RATE)
  last = None if end is None else round(end * SAMPLE_RATE)
  with decode.running(_samples, path, allow_damaged=allow_damaged) as pieces:
    found = [_transform(piece) for piece in _windows(_between(pieces, first, last))]
  return np.concatenate([np.zeros((0, NUM_BANDS), np.float32), *found])


def statistics(spectrogram: np.ndarray) -> np.ndarray:
  """Returns what a linear classifier can take of a sound of any length.

  Args:
    spectrogram: `[steps, NUM_BANDS]`, of one step at least.

  Returns:
    float32 `[NUM_STATISTICS]`: mean and standard deviation of each band over time, then those of its change from step
    to step.
  """
  changes = np.diff(spectrogram, axis=0) if len(spectrogram) > 1 else np.zeros_like(spectrogram)
  parts = [function(values, axis=0) for values in (spectrogram, changes) for function in (np.mean, np.std)]
  return np.concatenate(parts).astype(np.float32)


def mel_weights() -> np.ndarray:
  """Returns the weights that take a spectrum to the bands, float32 `[257, NUM_BANDS]`.

  Each band is a triangle on the mel scale, 1127 ln(1 + f / 700), from the middle of the band before to that of the one
  after; the constant component is in none.
  """
  mel = lambda frequency: 1127.0 * np.log1p(np.asarray(frequency) / 700.0)
  edges = np.linspace(mel(_LOWEST), mel(_HIGHEST), NUM_BANDS + 2)
  bins = mel(np.arange(1, _FFT // 2 + 1) * SAMPLE_RATE / _FFT)[:, np.newaxis]
  rising = (bins - edges[:-2]) / np.diff(edges)[:-1]
  falling = (edges[2:] - bins) / np.diff(edges)[1:]
  weights = np.maximum(0.0, np.minimum(rising, falling))
  return np.concatenate([np.zeros((1, NUM_BANDS)), weights]).astype(np.float32)


def _transform(samples: np.ndarray) -> np.ndarray:
  """The spectrogram of samples, `[steps, NUM_BANDS]`."""
  windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
  hann = 0.5 - 0.5 * np.cos(2 * np.pi / _WINDOW * np.arange(_WINDOW))
  # In double precision, so that the last digits do not depend on how a product of matrices is divided.
  magnitudes = np.abs(np.fft.rfft(windows * hann, _FFT))
  return np.log(magnitudes @ mel_weights().astype(np.float64) + _OFFSET).astype(np.float32)


def _windows(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
  """Joins samples to longer pieces, each of which begins where the last one's next window does."""
  held = np.zeros(0, np.float32)
  for piece in pieces:
    held = np.concatenate([held, piece])
    if len(held) >= _PIECE + _WINDOW:
      count = (len(held) - _WINDOW) // _HOP + 1
      yield held[: (count - 1) * _HOP + _WINDOW]
      held = held[count * _HOP :]
  if len(held) >= _WINDOW:
    yield held


def _between(pieces: Iterator[np.ndarray], first: int, last: int | None) -> Iterator[np.ndarray]:
  """The samples from one number to before another."""
  place = 0
  for piece in pieces:
    yield piece[max(0, first - place) : None if last is None else max(0, last - place)]
    place += len(piece)
    if last is not None and place >= last:
      return


def _samples(path: str | os.PathLike, *, allow_damaged: bool) -> Generator[np.ndarray]:
  """The sound in pieces, float32 `[samples]` in [-1, 1]; silence where it begins after the picture."""
  with containers.opened(path) as (container, _):
    stream = container.streams.best("audio")
    if stream is None or (allow_damaged and stream.codec_context is None):
      return
    if stream.codec_context is None:
      raise errors.VideoError(f"{path}: its sound is of a codec for which this FFmpeg has no decoder")
    resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
    made_for, is_first = None, True
    for packet in container.demux(stream):
      try:
        decoded = list(packet.decode())
      except av.FFmpegError as error:
        if not allow_damaged:
          raise errors.VideoError(f"{path}: its sound is damaged ({error.strerror})") from None
        continue
      for frame in decoded:
        assert isinstance(frame, AudioFrame)
        if is_first:
          yield _lead(frame, container.start_time)
          is_first = False
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if made_for not in (None, form):  # it changes in the middle
          yield from map(_mono, resampler.resample(None))
          resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
        made_for = form
        frame.pts = None  # samples follow each other, whatever their times say
        yield from map(_mono, resampler.resample(frame))
    if made_for is not None:
      with contextlib.suppress(av.FFmpegError):  # too few samples for the filter
        yield from map(_mono, resampler.resample(None))


def _mono(frame: AudioFrame) -> np.ndarray:
  return np.nan_to_num(frame.to_ndarray().mean(axis=0, dtype=np.float32))


def _lead(frame: AudioFrame, start_time: int | None) -> np.ndarray:
  """Silence from the file's first time to that of the first sound."""
  seconds = 0.0 if frame.time is None else frame.time - (start_time or 0) / 1e6
  return np.zeros(round(seconds * SAMPLE_RATE) if 0 < seconds <= _MAX_LEAD else 0, np.float32)
