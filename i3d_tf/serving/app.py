"""The service's addresses: TensorFlow Serving's REST, videos, what operators need, and the page."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent import futures
import importlib.resources
import logging
from typing import Annotated, Any

import fastapi
from fastapi import exceptions as fastapi_exceptions
from fastapi import responses
import pydantic
from starlette import exceptions as starlette_exceptions
from starlette import requests

import i3d_tf
from i3d_tf import errors
from i3d_tf import serving
from i3d_tf.serving import models
from i3d_tf.serving import rest
from i3d_tf.serving import service as service_lib
from i3d_tf.serving import videos

_STATUS = {  # the first that fits
  serving.NotFound: 404,
  serving.Busy: 429,
  serving.Late: 504,
  serving.Unavailable: 503,
  errors.VideoError: 422,
  errors.I3dError: 400,
  MemoryError: 503,
  OSError: 503,
}
_PAGE = {
  "": ("index.html", "text/html"),
  "app.js": ("app.js", "text/javascript"),
  "style.css": ("style.css", "text/css"),
}
_MOST_PICTURES = 24


class Error(pydantic.BaseModel):
  """What went wrong, in one sentence."""

  error: str


_ERRORS: dict[int | str, dict[str, Any]] = {
  status: {"model": Error, "description": text}
  for status, text in {
    400: "The request is malformed", 401: "The token is missing", 403: "Another site's page", 404: "No such model",
    408: "The body is too slow", 413: "Too many bytes", 415: "A body of another kind", 421: "Another host",
    422: "A video or a parameter that cannot be used", 429: "Busy; try again later", 503: "Not at the moment",
    504: "It takes too long",
  }.items()
}  # fmt: skip
_PREDICT_BODY = {
  "requestBody": {
    "required": True,
    "content": {
      "application/json": {
        "schema": {
          "type": "object",
          "properties": {"signature_name": {"type": "string"}, "instances": {"type": "array"}, "inputs": {}},
        }
      }
    },
  }
}
Version = Annotated[int, fastapi.Path(ge=0, lt=2**63)]


def make(service: service_lib.Service, is_healthy: Callable[[], bool] = lambda: True) -> fastapi.FastAPI:
  """Returns the application.

  Args:
    service: What computes.
    is_healthy: Whether new requests are taken.
  """
  app = fastapi.FastAPI(
      title="i3d_tf", version=i3d_tf.__version__, description=__doc__, docs_url=None, redoc_url=None,
      responses=_ERRORS,
  )  # fmt: skip
  _answer_errors(app)
  _add_operation(app, service, is_healthy)
  _add_predict(app, service)  # before `/v1/models/{name}`, which fits these addresses, too, but takes no POST
  _add_models(app, service)
  _add_videos(app, service)
  _add_page(app)
  return app


def _answer_errors(app: fastapi.FastAPI) -> None:
  """Has every error answered by one sentence."""
  say = lambda status, sentence, headers=None: responses.JSONResponse(
    {"error": serving.shorten(sentence)}, status, headers=headers
  )

  async def of_input(request: fastapi.Request, error: Exception) -> responses.JSONResponse:
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return say(status, errors.describe(error))

  async def of_http(request: fastapi.Request, error: Any) -> responses.JSONResponse:
    return say(error.status_code, str(error.detail), error.headers)

  async def of_parameters(request: fastapi.Request, error: Any) -> responses.JSONResponse:
    found = error.errors()[0]
    return say(422, f"{'.'.join(map(str, found['loc']))}: {found['msg']}")

  async def of_ours(request: fastapi.Request, error: Exception) -> responses.JSONResponse:
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return say(500, "the service has a defect; its log has more")

  async def of_gone(request: fastapi.Request, error: Exception) -> responses.JSONResponse:
    return say(400, "the connection ended before the request did")  # which nobody reads

  app.add_exception_handler(requests.ClientDisconnect, of_gone)
  for kind in (errors.I3dError, MemoryError, OSError):
    app.add_exception_handler(kind, of_input)
  app.add_exception_handler(starlette_exceptions.HTTPException, of_http)
  app.add_exception_handler(fastapi_exceptions.RequestValidationError, of_parameters)
  app.add_exception_handler(Exception, of_ours)


def _add_operation(app: fastapi.FastAPI, service: service_lib.Service, is_healthy: Callable[[], bool]) -> None:
  @app.get("/healthz")
  async def health() -> dict[str, str]:
    """Says whether requests are taken."""
    if not is_healthy():
      raise serving.Unavailable("the service ends")
    return {"status": "ok"}

  @app.get("/metrics", response_class=responses.PlainTextResponse)
  async def metrics() -> responses.Response:
    """Returns what was counted, for Prometheus."""
    return responses.Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_models(app: fastapi.FastAPI, service: service_lib.Service) -> None:
  repository, config = service.repository, service.config

  @app.post("/v1/models/{name}:reload")
  async def reload(name: str) -> dict[str, Any]:
    """Loads a network anew: a newer step of a run, or newer versions of an exported network."""
    return {"name": name, "versions": await asyncio.wrap_future(service.reload(name))}

  @app.get("/v1/models")
  async def list_models() -> dict[str, Any]:
    """Lists the networks, and the limits of requests."""
    found = [repository.get(name) for name in repository.names]
    limits = {name: getattr(config, name) for name in ("max_bytes", "max_seconds", "max_pixels", "top_k")}
    return {"models": list(map(_described, found)), "limits": limits}

  @app.get("/v1/models/{name}")
  async def status(name: str) -> dict[str, Any]:
    """Returns the state of a network's versions."""
    return rest.status(repository.versions(name))

  @app.get("/v1/models/{name}/versions/{version}")
  async def version_status(name: str, version: Version) -> dict[str, Any]:
    """Returns the state of one version."""
    return rest.status([repository.get(name, version)])

  @app.get("/v1/models/{name}/metadata")
  async def metadata(name: str) -> dict[str, Any]:
    """Returns a network's signatures."""
    return rest.metadata(repository.get(name))

  @app.get("/v1/models/{name}/versions/{version}/metadata")
  async def version_metadata(name: str, version: Version) -> dict[str, Any]:
    """Returns the signatures of one version."""
    return rest.metadata(repository.get(name, version))


def _described(model: models.ServedModel) -> dict[str, Any]:
  streams = [] if model.classifier is None else list(model.classifier.streams)
  return {
    "name": model.name,
    "version": model.version,
    "num_classes": len(model.class_names),
    "streams": streams,
    "takes_videos": model.classifier is not None,
    "signatures": list(model.signatures),
  }


def _add_predict(app: fastapi.FastAPI, service: service_lib.Service) -> None:
  async def compute(request: fastapi.Request, name: str, version: int | None) -> responses.Response:
    service.repository.get(name, version)
    body = await request.body()
    signature, inputs, is_row = await asyncio.wrap_future(service.parse(body, name, version))
    del body
    outputs = await _outcome(request, service.submit(signature, inputs), service.config.timeout)
    return responses.Response(rest.answer(outputs, is_row), media_type="application/json")

  @app.post("/v1/models/{name}:predict", openapi_extra=_PREDICT_BODY)
  async def predict(request: fastapi.Request, name: str) -> responses.Response:
    """Computes a signature of clips, as TensorFlow Serving's REST does."""
    return await compute(request, name, None)

  @app.post("/v1/models/{name}/versions/{version}:predict", openapi_extra=_PREDICT_BODY)
  async def predict_version(request: fastapi.Request, name: str, version: Version) -> responses.Response:
    """Computes a signature of one version."""
    return await compute(request, name, version)


def _add_videos(app: fastapi.FastAPI, service: service_lib.Service) -> None:
  config = service.config
  contents: dict[str, Any] = {media: {} for media in dict.fromkeys(videos.OUTPUTS.values())}

  @app.post("/v1/videos", response_model=None, responses={200: {"content": contents}})
  async def analyse(
    request: fastapi.Request,
    file: Annotated[fastapi.UploadFile | None, fastapi.File(description="the video")] = None,
    url: Annotated[str | None, fastapi.Form(max_length=2000, description="its address, where allowed")] = None,
    model: Annotated[str, fastapi.Form(description="a network's name; else the first")] = "",
    version: Annotated[int | None, fastapi.Form(ge=0, lt=2**63)] = None,
    output: Annotated[str, fastapi.Form(pattern="^(json|features|annotated|activation)$")] = "json",
    top_k: Annotated[int | None, fastapi.Form(ge=1, le=100)] = None,
    features: Annotated[bool, fastapi.Form(description="add features to the JSON")] = False,
    pictures: Annotated[int, fastapi.Form(ge=0, le=_MOST_PICTURES)] = 0,
  ) -> responses.Response:
    """Returns what a network says of a video: as JSON, its features, an annotated video, or where it sees the class."""
    chosen = service.repository.get(model, version)
    if (file is None) == (url is None):
      raise errors.I3dError("give either the part file, the video, or url, its address")
    asked = {
        "name": videos.safe_name(file.filename if file else None), "output": output, "top_k": top_k or config.top_k,
        "has_features": features, "num_pictures": pictures,
    }  # fmt: skip
    watch = videos.Watch(config.timeout)
    source: Any = file.file if file is not None else url
    found = await _outcome(request, service.analyse(source, asked, chosen, watch), config.timeout, watch)
    if output == "json":
      return responses.JSONResponse(found)
    return responses.Response(found, media_type=videos.OUTPUTS[output])


async def _outcome(
  request: fastapi.Request, future: futures.Future, seconds: float, watch: videos.Watch | None = None
) -> Any:
  """The result of work in a thread, as long as the client waits for it."""
  result, gone = asyncio.wrap_future(future), asyncio.ensure_future(_is_gone(request.receive))
  try:
    await asyncio.wait([result, gone], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if result.done():
      return result.result()
    raise serving.Late("the request takes longer than it may; send fewer or shorter clips")
  finally:
    gone.cancel()
    if not result.done():
      result.cancel()
      if watch is not None:
        watch.cancel()


async def _is_gone(receive: Callable[[], Awaitable[Any]]) -> None:
  while (await receive())["type"] != "http.disconnect":
    pass


def _add_page(app: fastapi.FastAPI) -> None:
  folder = importlib.resources.files(serving) / "page"
  for address, (name, media) in _PAGE.items():
    content = (folder / name).read_bytes()

    async def show(content: bytes = content, media: str = media) -> responses.Response:
      return responses.Response(content, media_type=f"{media}; charset=utf-8")

    app.add_api_route(f"/{address}", show, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)
