"""Serves trained networks over HTTP. See `--help`."""

from absl import flags

from i3d_tf import cli
from i3d_tf import errors
from i3d_tf import inference
from i3d_tf import serving

USAGE = """Serves trained networks over HTTP, and a page to try them with videos or a camera.

  python -m i3d_tf.serve --model=rgb_scratch              then open http://localhost:8500
  python -m i3d_tf.serve --model=i3d=rgb_imagenet --model=two=rgb_imagenet,flow_imagenet --model=exported/i3d

A --model is a released name, a path, a run of train, two of these (of RGB and flow, whose logits are added), or what
export wrote, also in TensorFlow Serving's folders: NAME/1, NAME/2. The service has

  /v1/models/NAME:predict   TensorFlow Serving's REST, for clips as arrays and frames as JPEG images in base64; also
                            /v1/models/NAME, /metadata and /versions/N of it
  /v1/videos                uploads of videos (multipart): classes of each window and of the whole, features, an
                            annotated video, or where the class is seen
  /v1/models/NAME:reload    loads a network anew, as SIGHUP does with all
  /healthz, /metrics (Prometheus), /openapi.json

Requests beyond --queue get 429 and may try again. Each is logged to stderr as a line of JSON. SIGTERM lets those that
run end. Only this machine reaches it unless --host says otherwise. Needs pip install '.[serve]'."""

FLAGS = flags.FLAGS
with cli.group_of("Required"):
  flags.DEFINE_multi_string("model", None, "A network: [NAME=]CHECKPOINT[,CHECKPOINT]. Can be repeated.", required=True)
_LIMITS = (
  "queue", "max_batch", "batch_delay", "video_workers", "max_bytes", "max_seconds", "max_pixels", "timeout",
  "upload_timeout", "header_timeout", "shutdown_timeout",
)  # fmt: skip
cli.define_flags(serving.ServeConfig, group="Service", exclude=_LIMITS)
cli.define_flags(serving.ServeConfig, group="Limits", names=_LIMITS)
cli.define_flags(inference.InferenceConfig, group="Network", names=("precision",), defaults={"precision": "auto"})
cli.define_device_flags()


def main(arguments: list[str]) -> None:
  """Serves what the flags name, until a signal comes."""
  del arguments
  config = cli.from_flags(serving.ServeConfig)
  try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
  except ImportError as error:
    raise errors.I3dError(f"serving needs more packages ({error}): pip install '.[serve]' in the clone") from None
  cli.import_tensorflow()
  from i3d_tf.serving import models
  from i3d_tf.serving import server

  server.run([models.parse_source(text) for text in FLAGS.model], config, precision=FLAGS.precision)


def run() -> None:
  """Runs the program; the console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
