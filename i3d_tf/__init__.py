"""The public names of i3d_tf, imported on first use so that `import i3d_tf` and `--help` stay quick.

import i3d_tf

print(i3d_tf.classify("clip.mp4", checkpoint="rgb_scratch").predictions)
"""

import importlib
import os
import sys
import types
from typing import Any

__version__ = "0.2.0"

# TensorFlow's own CPU kernel of the 3D max pool's gradient gives every one of several equal maxima the whole gradient;
# oneDNN's is right. TensorFlow takes oneDNN by default only where the processor has AVX-512, so it is asked for here.
# It is read when TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_HOMES = {
  "Classifier": "i3d_tf.inference.classifier",
  "FvdAccumulator": "i3d_tf.frechet.accumulator",
  "FvdEmbedding": "i3d_tf.frechet.embedding",
  "I3dFeatures": "i3d_tf.features.networks",
  "InceptionI3d": "i3d_tf.models.inception",
  "classify": "i3d_tf.inference.classification",
  "compare_generators": "i3d_tf.frechet.fvd",
  "create_model": "i3d_tf.models.zoo",
  "evaluate": "i3d_tf.evaluation.evaluator",
  "extract_features": "i3d_tf.features.extraction",
  "fit": "i3d_tf.fitting.fitter",
  "fvd": "i3d_tf.frechet.fvd",
  "fvd_by_length": "i3d_tf.frechet.fvd",
  "list_models": "i3d_tf.models.zoo",
  "load": "i3d_tf.weights.saved",
  "load_checkpoint": "i3d_tf.weights.release",
  "optical_flow": "i3d_tf.flow",
  "read_video": "i3d_tf.video.decode",
  "save_release_checkpoint": "i3d_tf.weights.release",
  "train": "i3d_tf.training.trainer",
  "tvl1_flow": "i3d_tf.flow.tvl1",
}
_WITHOUT_TENSORFLOW = ("list_models", "optical_flow", "read_video", "tvl1_flow")

__all__ = sorted(_HOMES)


class _Library(types.ModuleType):
  """This module, in which a program of the name of a public function, once it is imported, does not take its place.

  `i3d_tf.classify` is the function; `python -m i3d_tf.classify` and `from i3d_tf.classify import main` the program.
  """

  def __setattr__(self, name: str, value: Any) -> None:
    if not (name in _HOMES and isinstance(value, types.ModuleType)):
      super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Library


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module 'i3d_tf' has no attribute {name!r}; it has {', '.join(__all__)}")
  if name not in _WITHOUT_TENSORFLOW and "tensorflow" not in sys.modules:
    from i3d_tf import devices

    with devices.tensorflow_in_silence():  # who wants to hear it imports TensorFlow first
      importlib.import_module("tensorflow")
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_HOMES])
