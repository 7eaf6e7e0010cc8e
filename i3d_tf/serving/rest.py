"""TensorFlow Serving's REST format (tensorflow/serving, g3doc/api_rest.md): requests and answers."""

import base64
import binascii
from collections.abc import Mapping
import io
import json
import math
import struct
from typing import Any

import numpy as np
from PIL import Image
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import serving
from i3d_tf.serving import models
from i3d_tf.video import containers

_ROW, _COLUMN = "instances", "inputs"
_FORMATS = ("JPEG", "PNG")
_KEYS = ("signature_name", _ROW, _COLUMN)


def parse(body: bytes, model: models.ServedModel) -> tuple[models.ServedSignature, dict[str, np.ndarray], bool]:
  """Reads the body of a predict request.

  Args:
    body: The JSON text.
    model: The network that it is for.

  Returns:
    The signature, its inputs by name, and whether they came row by row, which is how the answer is to be written.

  Raises:
    I3dError: If it is no such request, or does not fit the signature.
  """
  try:
    content = json.loads(body)
  except (ValueError, RecursionError) as error:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
    raise errors.I3dError(f"the body is no JSON: {reason}") from None
  if not isinstance(content, dict):
    raise errors.I3dError(f"the body must be a JSON object with {_ROW} or {_COLUMN}")
  if unknown := [key for key in content if key not in _KEYS]:
    raise errors.I3dError(f"the body has {unknown[0]!r}, which is unknown; known are {', '.join(_KEYS)}")
  name = content.get("signature_name", "")
  if not isinstance(name, str):
    raise errors.I3dError("signature_name must be a text")
  if (_ROW in content) == (_COLUMN in content):
    raise errors.I3dError(f"the body must have either {_ROW} or {_COLUMN}")
  signature = model.signature(name)
  is_row = _ROW in content
  inputs = _rows(content[_ROW], signature) if is_row else _columns(content[_COLUMN], signature)
  try:
    inputs = {name: _decode(value) for name, value in inputs.items()}
  except RecursionError:
    raise errors.I3dError("the inputs are nested too deeply") from None
  return signature, signature.check(inputs), is_row


def check(inputs: Mapping[str, np.ndarray], signature: models.ServedSignature, config: serving.ServeConfig) -> None:
  """Refuses inputs that would take too much time or memory.

  Args:
    inputs: Arrays by name.
    signature: What they are for.
    config: The limits.

  Raises:
    I3dError: If a clip is too long or a frame too large.
  """
  for name, array in inputs.items():
    frames = math.prod(array.shape[:2]) if array.ndim > 1 else 0
    limit = config.max_seconds * 25
    if frames > limit:
      raise errors.I3dError(f"the input {name} has {frames} frames; a request may have {limit:g}")
    if signature.inputs[name].dtype == tf.string:
      for content in array.flat:
        width, height = _size_of(content, name)
        check_pixels(name, width, height, config)
    elif array.ndim == 5:
      check_pixels(name, array.shape[3], array.shape[2], config)


def check_pixels(name: str, width: int, height: int, config: serving.ServeConfig) -> None:
  """Refuses frames that are too large.

  Args:
    name: What is named in the message.
    width: Pixels of a row.
    height: Number of rows.
    config: The limits.

  Raises:
    VideoError: If they are.
  """
  if width * height > config.max_pixels:
    raise errors.VideoError(f"{name}: a frame has {width}x{height} pixels; at most {config.max_pixels:,} are taken")
  containers.check_size(name, width, height)


def answer(outputs: Mapping[str, np.ndarray], is_row: bool) -> bytes:
  """Returns the body of the answer to a predict request.

  Args:
    outputs: Arrays by name.
    is_row: Whether the request came row by row.

  Raises:
    I3dError: If a value is not finite, which JSON cannot say.
  """
  for name, value in outputs.items():
    if not np.isfinite(value).all():
      raise errors.I3dError(f"the output {name} is not finite; check the values of the inputs")
  lists = {name: value.tolist() for name, value in outputs.items()}
  if not is_row:
    found: Any = next(iter(lists.values())) if len(lists) == 1 else lists
    return json.dumps({"outputs": found}).encode()
  rows = zip(*lists.values(), strict=True)
  found = [row[0] if len(lists) == 1 else dict(zip(lists, row, strict=True)) for row in rows]
  return json.dumps({"predictions": found}).encode()


def metadata(model: models.ServedModel) -> dict[str, Any]:
  """Returns the answer to a metadata request.

  Args:
    model: The network.
  """
  show = lambda name, spec: {
    "dtype": f"DT_{'FLOAT' if spec.dtype == tf.float32 else spec.dtype.name.upper()}",
    "name": name,
    "tensor_shape": {
      "dim": [{"name": "", "size": str(-1 if each is None else each)} for each in spec.shape],
      "unknown_rank": spec.shape.rank is None,
    },
  }
  shown = {
    name: {
      "inputs": {key: show(key, spec) for key, spec in each.inputs.items()},
      "outputs": {key: show(key, spec) for key, spec in each.outputs.items()},
      "method_name": "tensorflow/serving/predict",
    }
    for name, each in model.signatures.items()
  }
  return {
    "model_spec": {"name": model.name, "signature_name": "", "version": str(model.version)},
    "metadata": {"signature_def": {"signature_def": shown}},
  }


def status(found: list[models.ServedModel]) -> dict[str, Any]:
  """Returns the answer to a request for a network's status.

  Args:
    found: Its versions.
  """
  ok = {"error_code": "OK", "error_message": ""}
  return {
    "model_version_status": [{"version": str(each.version), "state": "AVAILABLE", "status": ok} for each in found]
  }


def _rows(rows: Any, signature: models.ServedSignature) -> dict[str, Any]:
  if not isinstance(rows, list) or not rows:
    raise errors.I3dError(f"{_ROW} must be a list of clips")
  names = list(signature.inputs)
  is_named = [isinstance(row, dict) and set(row) != {"b64"} for row in rows]
  if not any(is_named):
    if len(names) > 1:
      raise errors.I3dError(f"each of {_ROW} must be an object with {', '.join(names)}")
    return {names[0]: rows}
  for row in rows:
    if not isinstance(row, dict) or set(row) != set(names):
      raise errors.I3dError(f"each of {_ROW} must be an object with {', '.join(names)}")
  return {name: [row[name] for row in rows] for name in names}


def _columns(columns: Any, signature: models.ServedSignature) -> dict[str, Any]:
  if isinstance(columns, dict) and set(columns) != {"b64"}:
    return columns
  if len(signature.inputs) > 1:
    raise errors.I3dError(f"{_COLUMN} must be an object with {', '.join(signature.inputs)}")
  return {next(iter(signature.inputs)): columns}


def _decode(value: Any) -> Any:
  """Replaces `{"b64": TEXT}` in nested lists by bytes; lists of numbers stay as they are."""
  if isinstance(value, dict):
    if set(value) != {"b64"} or not isinstance(value["b64"], str):
      raise errors.I3dError('an object in an input must be {"b64": BASE64}')
    try:
      return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
      raise errors.I3dError("a text of b64 is no base64") from None
  if isinstance(value, list) and value and isinstance(value[0], dict | list):
    return [_decode(each) for each in value]
  return value


def _size_of(content: bytes, name: str) -> tuple[int, int]:
  """Width and height of a JPEG or PNG image; its pixels are not decoded."""
  try:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
      return image.size
  except Image.DecompressionBombError:
    raise errors.VideoError(f"{name}: an image has more pixels than can be decoded") from None
  except (OSError, ValueError, SyntaxError, struct.error):
    raise errors.VideoError(f"{name}: this is no JPEG or PNG image") from None
