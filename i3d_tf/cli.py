"""What all command-line mains share: quiet start-up, and errors as sentences."""

from collections.abc import Callable
import contextlib
import dataclasses
import importlib
import logging
import os
import sys
import tempfile

from absl import app
from absl import flags
from absl import logging as absl_logging

from i3d_tf import errors

FLAGS = flags.FLAGS


def run(main: Callable[[list[str]], int | None], *, usage: str, takes_arguments: bool = False) -> None:
  """Parses flags, runs `main(positional arguments)` and exits with its status.

  TensorFlow's start-up messages appear only with `-v 1`. An `I3dError` or `OSError` ends the process with status 1
  and one line on stderr; any other exception is a defect of ours and keeps its traceback.

  Args:
    main: returns the exit status; None means 0.
    usage: the text above the flags in `--help`.
    takes_arguments: whether words that are no flags are allowed.
  """
  sys.modules["__main__"].__doc__ = usage
  if hasattr(sys.stdout, "reconfigure"):  # a path need not be text that the terminal can show
    sys.stdout.reconfigure(errors="backslashreplace")
  # Started as a console script, the main's module is not __main__, and --help would not show its flags.
  for flag in FLAGS.get_key_flags_for_module(main.__module__):
    FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(lambda argv: _guarded(main, argv[1:], takes_arguments))


def _guarded(main: Callable[[list[str]], int | None], arguments: list[str], takes_arguments: bool) -> int:
  try:
    if arguments and not takes_arguments:
      raise errors.I3dError(f"unexpected argument {arguments[0]!r}; flags are written --name=value, see --help")
    status = main(arguments) or 0
    sys.stdout.flush()
    return status
  except errors.I3dError as error:
    return fail(str(error))
  except BrokenPipeError:  # whoever reads the output, such as head, has enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
    return 1
  except OSError as error:
    return fail(errors.describe_os_error(error))
  except KeyboardInterrupt:
    return fail("interrupted")


def from_flags(cls: type, **given):
  """A dataclass from the flags that have its fields' names, lists as tuples; `given` are the other fields."""
  values = {field.name: FLAGS[field.name].value for field in dataclasses.fields(cls) if field.name not in given}
  return cls(**given, **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def fail(message: str) -> int:
  """Prints `message` as this program's error and returns the exit status 1."""
  print(f"{program()}: error: {message}", file=sys.stderr)
  return 1


def program() -> str:
  """The name under which this program was started, for messages."""
  folder, name = os.path.split(os.path.abspath(sys.argv[0]))
  return os.path.basename(folder) if name == "__main__.py" else name.removesuffix(".py")


def is_quiet() -> bool:
  """Whether TensorFlow's start-up messages are unwanted: unless `-v 1` asks for them."""
  return FLAGS.verbosity < 1


def import_tensorflow(*, quiet: bool | None = None) -> None:
  """Imports TensorFlow, without its start-up messages if `quiet` (None: as the flags say)."""
  if "tensorflow" in sys.modules:
    return
  quiet = is_quiet() if quiet is None else quiet
  if quiet:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  with _stderr_kept_back() if quiet else contextlib.nullcontext():
    importlib.import_module("tensorflow")
  if quiet:
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.WARNING)  # not of its logger: TensorFlow sets that to absl's own at times


@contextlib.contextmanager
def _stderr_kept_back():
  """Keeps back what is written to file descriptor 2, and shows it only if the body fails.

  Libraries log there before their own level setting takes effect.
  """
  sys.stderr.flush()
  original = os.dup(2)
  with tempfile.TemporaryFile() as kept:
    os.dup2(kept.fileno(), 2)
    try:
      yield
    except BaseException:
      kept.seek(0)
      os.write(original, kept.read())
      raise
    finally:
      os.dup2(original, 2)
      os.close(original)
