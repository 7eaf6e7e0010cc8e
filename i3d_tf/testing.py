"""What the tests share. Not part of the installed package."""

from collections.abc import Callable
from concurrent import futures
import multiprocessing
import os
import pathlib
from typing import Any
import unittest
import zlib

import numpy as np

_PROJECT_ROOT = pathlib.Path(__file__).resolve().parents[1]


def shared(path: str = "") -> pathlib.Path:
  """The path of reference material: `path` in the folder $I3D_SHARED, or else `../shared` beside the project.

  Call it while a test or its set-up runs: where there is no such folder it skips that test, unless CI=true.

  Raises:
    unittest.SkipTest: if the folder is absent.
    AssertionError: if the folder is absent with CI=true, or it is there without `path`.
  """
  folder = pathlib.Path(os.environ.get("I3D_SHARED") or _PROJECT_ROOT.parent / "shared")
  if not folder.is_dir():
    reason = f"the reference material is not at {folder} (see $I3D_SHARED)"
    raise AssertionError(reason) if os.environ.get("CI") == "true" else unittest.SkipTest(reason)
  if not (folder / path).exists():
    raise AssertionError(f"the reference material at {folder} has no {path}")
  return folder / path


def in_own_process(function: Callable, *arguments) -> Any:
  """`function(*arguments)` in a fresh Python process, for what must come before anything else in TensorFlow.

  The function is found there by its module's name, and what it takes and returns is pickled.
  """
  with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    return pool.submit(function, *arguments).result()


def golden_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The value that the goldens' weight rule gives the release variable `name` of `shape`, float32."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith("/w"):
    values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
  elif name.endswith("moving_variance"):
    values = rng.uniform(0.5, 1.5, shape)
  else:
    values = rng.standard_normal(shape) * 0.1
  return values.astype(np.float32)


def golden_noise(seed: str, frames: int, channels: int) -> np.ndarray:
  """The goldens' noise clip `[1, frames, 224, 224, channels]` for a seed text, float32 in [-1, 1]."""
  rng = np.random.default_rng(zlib.crc32(seed.encode()))
  return rng.uniform(-1, 1, [1, frames, 224, 224, channels]).astype(np.float32)


def golden_waves(frames: int) -> np.ndarray:
  """The goldens' travelling waves `[1, frames, 224, 224, 3]`, float32 in [-1, 1]."""
  t, y, x, c = np.ogrid[:frames, :224, :224, :3]
  return np.sin(0.21 * t + 0.05 * (c + 1) * y + 0.031 * x * (1 + 0.1 * c)).astype(np.float32)[np.newaxis]


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
  """The largest absolute difference, relative to the largest absolute expected value."""
  return float(np.abs(np.asarray(actual, np.float64) - expected).max() / np.abs(expected).max())
