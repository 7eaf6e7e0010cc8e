"""The public names of i3d_tf, imported on first use so that `import i3d_tf` and `--help` stay quick."""

import importlib
import os

__version__ = "0.1.0"

# TensorFlow's own CPU kernel of the 3D max pool's gradient gives every one of several equal maxima the whole gradient;
# oneDNN's is right. TensorFlow takes oneDNN by default only where the processor has AVX-512, so it is asked for here.
# It is read when TensorFlow is imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_HOMES = {
  "InceptionI3d": "i3d_tf.models.inception",
  "I3dFeatures": "i3d_tf.endpoints",
  "load_checkpoint": "i3d_tf.weights.release",
  "save_release_checkpoint": "i3d_tf.weights.release",
  "read_video": "i3d_tf.video.decode",
  "tvl1_flow": "i3d_tf.video.tvl1",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
  if name not in _HOMES:
    raise AttributeError(f"module 'i3d_tf' has no attribute {name!r}; it has {', '.join(__all__)}")
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
  return sorted([*globals(), *_HOMES])
