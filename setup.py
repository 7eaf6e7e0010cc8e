"""Packaging of i3d_tf."""

import pathlib
import re

import setuptools
from setuptools.command import build_py

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "i3d_tf" / "__init__.py").read_text(), re.MULTILINE)[1]
# The folders of data beside the package travel inside it.
DATA = {"i3d_tf.assets.data": "data", "i3d_tf.assets.checkpoints": "checkpoints"}
TEST_ONLY = ("conftest", "testing")
# Without its extra `tfrecord`, which is for Beam's own writing of TFRecords: ours is video/shards.py.
BEAM = "apache-beam>=2.66"
DASK = "distributed>=2026.8"
ONNX = "tf2onnx>=1.17"
S3 = "s3fs>=2026.9"  # which takes fsspec of the same date
SERVE = ("fastapi>=0.115", "prometheus-client>=0.26", "python-multipart>=0.0.32", "uvicorn>=0.54")
MAINS = (
    "classify", "download", "make_synthetic", "prepare_dataset", "inspect_records", "inflate", "train", "evaluate",
    "fit", "fvd", "visualize", "export", "extract_features", "identify", "verify", "experiments", "benchmark",
    "doctor", "serve", "anomaly.__main__", "models.__main__",
)  # fmt: skip


class BuildWithoutTests(build_py.build_py):
  """Leaves tests, and what only tests use, out of wheels."""

  def find_package_modules(self, package, package_dir):
    modules = super().find_package_modules(package, package_dir)
    return [module for module in modules if not module[1].endswith("_test") and module[1] not in TEST_ONLY]


setuptools.setup(
  name="i3d_tf",
  version=VERSION,
  description="Two-Stream Inflated 3D ConvNets (I3D) in TensorFlow 2 and Sonnet 2",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  packages=[*setuptools.find_packages(include=["i3d_tf", "i3d_tf.*"]), *DATA],
  package_dir=DATA,
  package_data={
    "i3d_tf.assets.data": ["*.txt", "README.md"],
    "i3d_tf.assets.checkpoints": ["*.json", "README.md"],
    "i3d_tf.evaluation": ["*.jinja"],
    "i3d_tf.serving": ["page/*", "docker/*", "README.md"],
    "i3d_tf": ["py.typed"],
  },
  cmdclass={"build_py": BuildWithoutTests},
  python_requires=">=3.10,<3.14",
  install_requires=[
    "absl-py>=2.1",
    "av>=17.1",
    "dm-sonnet>=2.0.2",
    "filelock>=3.12",
    "google-crc32c>=1.6",
    "h5py>=3.14",
    "jinja2>=3.1",
    "matplotlib>=3.9.2",
    "numba>=0.61.2",
    "numpy>=2.0",
    "opencv-contrib-python-headless>=4.13,<6",
    "pillow>=10.4",
    "pooch>=1.8",
    "scikit-learn>=1.5.2",
    "scipy>=1.13",
    "tensorboard>=2.20",
    "tensorflow>=2.20",
    "tensorflow-datasets>=4.9.10",
    "threadpoolctl>=3.8",
    "tqdm>=4.66",
  ],
  extras_require={
    "beam": [BEAM],
    "dask": [DASK],
    "gpu": ["tensorflow[and-cuda]>=2.20"],
    "onnx": [ONNX],
    "openvino": ["nncf>=3", "openvino>=2025.4"],
    "s3": [S3],
    "serve": [*SERVE],
    "torch": ["torch>=2.13"],
    "test": [
      BEAM,
      DASK,
      ONNX,
      S3,
      *SERVE,
      "ai-edge-litert>=2.0",
      "onnxruntime>=1.22",
      "aiobotocore[boto3]>=3.10",  # with the boto3 for moto that fits it
      "moto[server]>=5.2",
      "mypy>=1.15",
      "pytest>=8",
      "pytest-xdist>=3.6",
      "pyyaml>=6",
      "ruff>=0.11",
      "selenium>=4.51",
      "tensorflow-serving-api>=2.20",
    ],
    "dev": ["pre-commit>=4"],
  },
  entry_points={"console_scripts": [f"i3d_{name.removesuffix('.__main__')}=i3d_tf.{name}:run" for name in MAINS]},
)
