"""TensorFlow Serving's gRPC: Predict, GetModelMetadata and GetModelStatus, for its clients as they are."""

from collections.abc import Callable
from concurrent import futures
import hmac
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from i3d_tf import errors
from i3d_tf import serving
from i3d_tf.serving import models
from i3d_tf.serving import service as service_lib

_CODES = {  # the first that fits
  serving.NotFound: grpc.StatusCode.NOT_FOUND,
  serving.Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
  serving.Late: grpc.StatusCode.DEADLINE_EXCEEDED,
  serving.Unavailable: grpc.StatusCode.UNAVAILABLE,
  errors.I3dError: grpc.StatusCode.INVALID_ARGUMENT,
}


def start(service: service_lib.Service, token: str | None = None) -> tuple[Any, int]:
  """Starts the gRPC server.

  Args:
    service: What computes.
    token: What requests must carry as metadata `authorization: Bearer TOKEN`; None: nothing.

  Returns:
    The server, and its port.

  Raises:
    I3dError: If tensorflow-serving-api is not installed, or the port is taken.
  """
  try:
    from tensorflow_serving.apis import model_service_pb2_grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc
  except ImportError as error:
    raise errors.I3dError(f"gRPC needs tensorflow-serving-api ({error}): pip install tensorflow-serving-api") from None
  config = service.config
  server = grpc.server(
    futures.ThreadPoolExecutor(config.queue, "grpc"),
    options=[("grpc.max_receive_message_length", config.max_bytes), ("grpc.max_send_message_length", -1)],
    maximum_concurrent_rpcs=config.queue,
  )
  answers = _Answers(service, token)
  prediction = type("_Predictions", (_Forwarding, prediction_service_pb2_grpc.PredictionServiceServicer), {})
  status = type("_Status", (_Forwarding, model_service_pb2_grpc.ModelServiceServicer), {})
  prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction(answers), server)
  model_service_pb2_grpc.add_ModelServiceServicer_to_server(status(answers), server)
  try:
    port = server.add_insecure_port(f"{config.host}:{config.grpc_port}")
  except RuntimeError:
    raise errors.I3dError(f"cannot listen at {config.host} port {config.grpc_port}") from None
  server.start()
  return server, port


class _Answers:
  """The answers to the calls that are known."""

  def __init__(self, service: service_lib.Service, token: str | None):
    self._service, self._token = service, token

  def run(self, answer: Callable[[Any, Any], Any], request: Any, context: Any) -> Any:
    """Returns an answer, or ends the call with a sentence."""
    given = dict(context.invocation_metadata()).get("authorization", "").removeprefix("Bearer ")
    if self._token is not None and not hmac.compare_digest(str(given).encode(), self._token.encode()):
      context.abort(grpc.StatusCode.UNAUTHENTICATED, "this service needs a token: authorization: Bearer TOKEN")
    try:
      return answer(request, context)
    except futures.CancelledError:
      context.abort(grpc.StatusCode.CANCELLED, "the call was cancelled")
    except tuple(_CODES) as error:
      context.abort(next(code for kind, code in _CODES.items() if isinstance(error, kind)), serving.shorten(str(error)))

  def predict(self, request: Any, context: Any) -> Any:
    """Answers Predict."""
    from tensorflow_serving.apis import predict_pb2

    model = self._find(request.model_spec)
    signature = model.signature(request.model_spec.signature_name)
    inputs = signature.check({name: _to_array(name, each) for name, each in request.inputs.items()})
    seconds = min(self._service.config.timeout, context.time_remaining() or self._service.config.timeout)
    future = self._service.submit(signature, inputs, seconds)
    context.add_callback(future.cancel)
    try:
      outputs = future.result(timeout=seconds)
    except futures.TimeoutError:
      future.cancel()
      raise serving.Late("the request takes longer than it may; send fewer or shorter clips") from None
    response = predict_pb2.PredictResponse()
    _describe(response.model_spec, model, request.model_spec.signature_name)
    for name in set(request.output_filter) or outputs:
      if name not in outputs:
        raise errors.I3dError(f"there is no output {name!r}; there are {', '.join(outputs)}")
      response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
    return response

  def metadata(self, request: Any, context: Any) -> Any:
    """Answers GetModelMetadata."""
    from tensorflow_serving.apis import get_model_metadata_pb2

    if list(request.metadata_field) != ["signature_def"]:
      raise errors.I3dError("metadata_field must be signature_def")
    model = self._find(request.model_spec)
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in model.signatures.items():
      made = found.signature_def[name]
      made.method_name = "tensorflow/serving/predict"
      for specs, infos in ((signature.inputs, made.inputs), (signature.outputs, made.outputs)):
        for key, spec in specs.items():
          infos[key].name, infos[key].dtype = key, spec.dtype.as_datatype_enum
          infos[key].tensor_shape.CopyFrom(spec.shape.as_proto())
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    _describe(response.model_spec, model, "")
    response.metadata["signature_def"].Pack(found)
    return response

  def status(self, request: Any, context: Any) -> Any:
    """Answers GetModelStatus."""
    from tensorflow_serving.apis import get_model_status_pb2

    response = get_model_status_pb2.GetModelStatusResponse()
    name = request.model_spec.name
    is_one = request.model_spec.HasField("version")
    for model in [self._find(request.model_spec)] if is_one else self._service.repository.versions(name):
      response.model_version_status.add(version=model.version, state=30)  # AVAILABLE
    return response

  def _find(self, spec: Any) -> models.ServedModel:
    version = spec.version.value if spec.HasField("version") else None
    return self._service.repository.get(spec.name, version)


class _Forwarding:
  """The calls of TensorFlow Serving's services."""

  def __init__(self, answers: _Answers):
    self._answers = answers

  def Predict(self, request: Any, context: Any) -> Any:
    return self._answers.run(self._answers.predict, request, context)

  def GetModelMetadata(self, request: Any, context: Any) -> Any:
    return self._answers.run(self._answers.metadata, request, context)

  def GetModelStatus(self, request: Any, context: Any) -> Any:
    return self._answers.run(self._answers.status, request, context)


def _to_array(name: str, proto: Any) -> np.ndarray:
  try:
    return tf.make_ndarray(proto)
  except (ValueError, TypeError):
    raise errors.I3dError(f"the input {name} is damaged: its values do not fit its shape and type") from None


def _describe(spec: Any, model: models.ServedModel, signature: str) -> None:
  spec.name, spec.signature_name = model.name, signature or "serving_default"
  spec.version.value = model.version
