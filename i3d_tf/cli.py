"""What all command-line programs share: flags made from dataclasses, help, quiet start-up, errors as sentences."""

from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
import dataclasses
import difflib
import importlib
import logging
import os
import re
import signal
import sys
import textwrap
import types
from typing import Any, NoReturn, TypeVar

from absl import app
from absl import flags
from absl import logging as absl_logging

from i3d_tf import devices
from i3d_tf import errors
from i3d_tf import fields
from i3d_tf import files

flags.disclaim_key_flags()  # what the functions below define are flags of the module that calls them

FLAGS = flags.FLAGS
_T = TypeVar("_T")
_NEEDED = "is needed$|^Flag .* must have a value other than None"  # what _require and absl itself say
_OTHERS = "Flags"
# For --help: the title of a flag's group, its limits, and the text shown as its default where that is None.
_groups: dict[flags.Flag, str] = {}
_limits: dict[flags.Flag, fields.Limits] = {}
_defaults: dict[flags.Flag, str] = {}
# Names that other programs of the field give to flags of ours; the first one that a program has is suggested.
_FOREIGN: Mapping[str, tuple[str, ...]] = {
  "arch": ("model",),
  "backbone": ("model",),
  "batch": ("batch_size",),
  "bs": ("batch_size", "batch"),
  "checkpoint": ("initial_checkpoint", "rgb_checkpoint"),
  "checkpoint_path": ("checkpoint", "rgb_checkpoint", "initial_checkpoint"),
  "clip_len": ("num_frames", "window"),
  "data": ("records",),
  "data_dir": ("records",),
  "epochs": ("num_steps",),
  "eval_type": ("streams",),
  "extraction_fps": ("fps",),
  "feature_type": ("profile",),
  "file_with_video_paths": ("video", "input"),
  "fp16": ("precision",),
  "image_size": ("crop", "size"),
  "iterations": ("num_steps",),
  "logdir": ("output",),
  "lr": ("learning_rate",),
  "max_epochs": ("num_steps",),
  "max_steps": ("num_steps",),
  "modality": ("stream", "streams"),
  "network": ("model",),
  "num_epochs": ("num_steps",),
  "num_workers": ("num_threads", "threads"),
  "out": ("output",),
  "output_dir": ("output",),
  "output_path": ("output",),
  "pretrained": ("initial_checkpoint", "checkpoint", "rgb_checkpoint"),
  "resume": ("output",),
  "save_dir": ("output",),
  "show_pred": ("top_k",),
  "stack_size": ("window", "num_frames"),
  "step_size": ("hop",),
  "streams": ("stream",),
  "video_path": ("video", "input"),
  "video_paths": ("video", "input"),
  "wd": ("weight_decay",),
  "weights": ("checkpoint", "rgb_checkpoint", "initial_checkpoint"),
  "work_dir": ("output",),
}
_WORDING = {
  r"^flags? (.*: (?=--))?": "",  # before what a validator says there are the flags and values that it saw
  r"^.*Flag (--\w+) must have a value other than None\.": r"\1 is needed",
  r"^ERROR:: Unable to open flagfile: \[Errno \d+\] ([^:]*): '(.*)'$": r"--flagfile=\2: \1",
  r"invalid literal for int.*": "it must be a whole number",
  r"could not convert string to float.*": "it must be a number",
}
_CHOICES = re.compile(r"(--\w+)=(.*): value should be one of <(.*)>")
_SMALLER = ("batch", "batch_size", "chunk", "window", "num_frames", "max_frames")  # flags of what memory grows with
_SHOWN_ELSEWHERE = {"show_pred": "python -m i3d_tf.classify prints the classes of a video"}


def define_flags(
  cls: type,
  *,
  group: str,
  names: Collection[str] | None = None,
  exclude: Collection[str] = (),
  defaults: Mapping[str, Any] | None = None,
  unset: Mapping[str, str] | None = None,
  required: Collection[str] = (),
) -> None:
  """Defines a flag for each field of a dataclass: its name, type, default, limits and description.

  A field of a tuple becomes a flag of values separated by commas; given twice, the last one counts.

  Args:
    cls: Dataclass, see `fields`. `from_flags` makes an instance of it.
    group: Title over these flags in `--help`.
    names: Fields to make flags of; None: all.
    exclude: Fields to leave out.
    defaults: Defaults that differ from those of the fields.
    unset: For flags whose default is None: what is used then, for `--help`. `from_flags` leaves these fields out.
    required: Flags that must be given, beside those of fields without a default.

  Raises:
    TypeError: if there is no flag for the type of a field, or a name is not that of a field.
  """
  defaults, unset = dict(defaults or {}), dict(unset or {})
  described, kinds = fields.descriptions(cls), fields.kinds(cls)
  chosen = [name for name in kinds if (names is None or name in names) and name not in exclude]
  if unknown := {*(names or ()), *exclude, *defaults, *unset, *required} - set(kinds):
    raise TypeError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
  with group_of(group):
    for field in dataclasses.fields(cls):
      if field.name in chosen:
        is_required = field.name in required or field.default is dataclasses.MISSING
        default = None if field.default is dataclasses.MISSING or field.name in unset else field.default
        text, if_none = _split_none(described[field.name])
        flag = _define(field, kinds[field.name], defaults.get(field.name, default), text)
        _limits[flag], _defaults[flag] = fields.limits(field), unset.get(field.name, "")
        if flag.default is None and not _defaults[flag]:
          _defaults[flag] = if_none
        if is_required:
          _require(flag)


def define_paths(name: str, help_text: str, *, default: list[str] | None = None, required: bool = False) -> None:
  """Defines a flag that takes paths; its value is a list of texts, or `default`.

  The flag can be repeated. A value is a path that exists, or paths separated by commas, or `@FILE`: a file with one
  path on each line, which may contain commas.

  Args:
    name: Name of the flag.
    help_text: Its description.
    default: Value if the flag is not given.
    required: Whether it must be given.
  """
  flag = _PathsFlag(name, default, help_text)
  flags.DEFINE_flag(flag)
  if required:
    _require(flag)


@contextlib.contextmanager
def group_of(title: str) -> Iterator[None]:
  """Puts the flags that are defined in the body, by any function, under `title` in `--help`.

  Args:
    title: Title of the group. Groups are shown in the order in which they are first used.

  Yields:
    Nothing.
  """
  before = set(FLAGS)
  yield
  for name in FLAGS:
    if name not in before:
      _groups[FLAGS[name]] = title


def flag_values(cls: type) -> dict[str, Any]:
  """Returns the values of the flags that have the names of fields, without those that are None.

  Args:
    cls: Dataclass.
  """
  names = [field.name for field in dataclasses.fields(cls) if field.name in FLAGS]
  return {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}


def from_given_flags(cls: type[_T]) -> _T | None:
  """Returns an instance of a dataclass as `from_flags` does, or None if no flag of its fields was given.

  Args:
    cls: Dataclass.

  Raises:
    I3dError: if the values do not fit.
  """
  names = [field.name for field in dataclasses.fields(cls) if field.name in FLAGS]  # type: ignore[arg-type]
  return from_flags(cls) if any(FLAGS[name].present for name in names) else None


def from_flags(cls: type[_T], **given: Any) -> _T:
  """Returns an instance of a dataclass from the flags that have the names of its fields.

  Args:
    cls: Dataclass.
    **given: Values of fields that the flags do not give. A field without flag or value has its default.

  Raises:
    I3dError: if the values do not fit.
  """
  return cls(**{**flag_values(cls), **given})


def run(main: Callable[[list[str]], int | None], *, usage: str, takes_arguments: bool = False) -> None:
  """Parses flags, runs `main(positional arguments)` and exits with its status.

  TensorFlow's start-up messages appear only with `-v 1`. An `I3dError` or `OSError` ends the process with status 1
  and one line on stderr; any other exception is a defect of ours and keeps its traceback.

  Args:
    main: returns the exit status; None means 0.
    usage: the text above the flags in `--help`.
    takes_arguments: whether words that are no flags are allowed.
  """
  sys.modules["__main__"].__doc__ = usage  # for --helpfull
  _open_closed()
  if hasattr(sys.stdout, "reconfigure"):  # a path need not be text that the terminal can show
    sys.stdout.reconfigure(errors="backslashreplace")
  own = FLAGS.get_key_flags_for_module(main.__module__)
  # Started as a console script, the main's module is not __main__, and --helpfull would not show its flags.
  for flag in own:
    FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  signal.signal(signal.SIGTERM, _terminate)
  parse = lambda argv: _parse(argv, usage, own)
  app.run(lambda argv: _guarded(main, argv[1:], takes_arguments), flags_parser=parse)


def _open_closed() -> None:
  """Lets stdin, stdout and stderr lead nowhere where they are closed, so that no other file takes their numbers."""
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number that is free
      setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))


def _guarded(main: Callable[[list[str]], int | None], arguments: list[str], takes_arguments: bool) -> int:
  if is_quiet():
    absl_logging.get_absl_handler().setFormatter(_Sentences())
  try:
    if arguments and not takes_arguments:
      raise errors.I3dError(f"unexpected argument {arguments[0]!r}; flags are written --name=value, see --help")
    status = main(arguments) or 0
    sys.stdout.flush()
    return status
  except errors.I3dError as error:
    return fail(str(error))
  except BrokenPipeError:  # whoever reads the output, such as head, has enough
    return _discard_output()
  except OSError as error:
    return fail(errors.describe_os_error(error, may_be_temporary=True))
  except MemoryError as error:
    return fail(_out_of_memory(error))
  except _Terminated:
    fail("ended by SIGTERM")
    return 128 + signal.SIGTERM
  except KeyboardInterrupt:
    return fail("interrupted")
  except Exception as error:
    if type(error).__name__ == "ResourceExhaustedError" and "tensorflow" in sys.modules:
      return fail(_out_of_memory(error))
    raise


def _out_of_memory(error: Exception) -> str:
  """What is said when there is not enough memory, with the flags of this program that need less of it."""
  smaller = [f"--{name}" for name in _SMALLER if name in FLAGS]
  advice = f"take less at once with {' or '.join(smaller)}" if smaller else "use a machine that has more"
  reason = errors.first_line(error) if str(error) else ""
  return f"there is not enough memory{f' ({reason})' if reason else ''}; {advice}"


class _Sentences(logging.Formatter):
  """Logged warnings in the form of this program's errors, without the place in its code."""

  def format(self, record: logging.LogRecord) -> str:
    return f"{program()}: {record.levelname.lower()}: {record.getMessage()}"


def _show_exception(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
  """Says in one sentence that a program was interrupted while it was still importing its modules."""
  if issubclass(kind, KeyboardInterrupt):
    fail("interrupted")
  else:
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _show_exception  # when this is imported, since `run` comes after the imports


class _Terminated(KeyboardInterrupt):
  """SIGTERM, which ends a program as Ctrl-C does, so that it cleans up."""


def _terminate(number: int, frame: types.FrameType | None) -> None:
  del number, frame
  raise _Terminated


def _discard_output() -> int:
  """Makes stdout lead nowhere, so that flushing it at the end does not fail; returns the exit status 1."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 1


def fail(message: str) -> int:
  """Prints a message as this program's error.

  Args:
    message: One sentence.

  Returns:
    The exit status 1.
  """
  with contextlib.suppress(BrokenPipeError):  # of a reader who has enough
    print(f"{program()}: error: {as_flags(message)}", file=sys.stderr)
  return 1


def as_flags(message: str) -> str:
  """Returns a library's message with the parameters that it advises, such as `fps=25`, as flags of this program.

  Args:
    message: One sentence.
  """

  def spoken(found: re.Match) -> str:
    name, value = found.groups()
    if name not in FLAGS:
      return found.group()
    return {"True": f"--{name}", "False": f"--no{name}"}.get(value, f"--{name}={value}")

  return re.sub(r"(?<![^\s(])([a-z]\w*)=([\w.+-]*\w)", spoken, message)


def import_tensorflow(*, quiet: bool | None = None) -> None:
  """Imports TensorFlow without its start-up messages.

  A program with the flags of `define_device_flags` says on which device it computes, in one line on stderr.

  Args:
    quiet: False: with them; None: as the flags say.

  Raises:
    I3dError: If --gpu_memory cannot be had.
  """
  if "tensorflow" in sys.modules:
    return
  quiet = is_quiet() if quiet is None else quiet
  with devices.tensorflow_in_silence() if quiet else contextlib.nullcontext():
    importlib.import_module("tensorflow")
  if quiet:
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    absl_logging.set_verbosity(absl_logging.WARNING)  # not of its logger: TensorFlow sets that to absl's own at times
  if "gpu_memory" in FLAGS:
    devices.use_gpu_memory(FLAGS.gpu_memory)
    print(f"{program()}: computing on {devices.describe()}", file=sys.stderr)
  if warning := devices.unused_gpu():
    print(f"{program()}: warning: {warning}", file=sys.stderr)


def define_device_flags() -> None:
  """Defines the flags of programs that compute networks."""
  with group_of("Device"):
    flags.DEFINE_string("gpu_memory", "growth", "Memory of each GPU: growth (what is needed), all, or a number of MB.")
  check = lambda value: value in devices.GPU_MEMORY or (value.isdecimal() and int(value) > 0)
  flags.register_validator("gpu_memory", check, message="it is growth, all, or a number of MB")


def define_runner_flags(names: Collection[str], *, group: str) -> None:
  """Defines the flags that say where the work on many videos is done: --runner and its options.

  Args:
    names: Runners, the default first.
    group: Title over the flags in `--help`.
  """
  with group_of(group):
    flags.DEFINE_enum("runner", next(iter(names)), list(names), "Where to work: on this machine, or on such a cluster.")
    flags.DEFINE_multi_string(
      "runner_option",
      [],
      "An option of the runner as --name=value: a flag of Beam; --scheduler=ADDRESS or --scheduler_file=FILE for Dask; "
      "an option of sbatch for Slurm. Can be repeated.",
    )
    flags.DEFINE_multi_string("beam_option", [], "The earlier name of --runner_option.")


def runner_options() -> list[str]:
  """Returns the options that the flags of `define_runner_flags` give the runner."""
  return [*FLAGS.runner_option, *FLAGS.beam_option]


def is_quiet() -> bool:
  """Returns whether TensorFlow's start-up messages are unwanted: unless `-v 1` asks for them."""
  return FLAGS.verbosity < 1


def program() -> str:
  """Returns the name under which this program was started, for messages."""
  folder, name = os.path.split(os.path.abspath(sys.argv[0]))
  return os.path.basename(folder) if name == "__main__.py" else name.removesuffix(".py")


class _ValuesParser(flags.ListParser):
  """Values of one kind separated by commas."""

  def __init__(self, kind: type):
    super().__init__()
    self._kind = kind

  def parse(self, argument: Any) -> list:
    if isinstance(argument, (list, tuple)):
      return list(argument)
    try:
      return [self._kind(value) for value in super().parse(argument)]
    except ValueError:
      raise ValueError(f"it takes {'whole ' * (self._kind is int)}numbers separated by commas") from None


class _PathsFlag(flags.MultiFlag):
  """A repeatable flag of paths, see `define_paths`."""

  def __init__(self, name: str, default: list[str] | None, help_text: str):
    super().__init__(flags.ArgumentParser(), flags.ArgumentSerializer(), name, default, help_text)
    self.help = help_text  # to which MultiFlag adds that the flag can be repeated

  def _parse(self, arguments: Any) -> list[str]:
    if not isinstance(arguments, str):
      return list(arguments)
    if os.path.exists(arguments):
      return [arguments]
    if not arguments.startswith("@"):
      return flags.ListParser().parse(arguments)
    try:
      return files.read_paths(arguments[1:])
    except OSError as error:
      raise flags.IllegalFlagValueError(f"--{self.name}={arguments}: {errors.describe_os_error(error)}") from None


class _HelpFlag(flags.BooleanFlag):
  """A flag that prints a text and ends the program with status 0, where absl's own ends it with status 1."""

  def __init__(self, name: str, short_name: str | None, help_text: str, show: Callable[[], None]):
    super().__init__(name, False, help_text, short_name=short_name, allow_override=True)
    self._show = show

  def parse(self, arg: Any) -> None:
    if self._parse(arg):
      try:
        self._show()
        sys.stdout.flush()
      except BrokenPipeError:
        sys.exit(_discard_output())
      sys.exit(0)


def _define(field: dataclasses.Field, kind: fields.Kind, default: Any, text: str) -> flags.Flag:
  """Defines the flag of a field."""
  name, limits = field.name, fields.limits(field)
  if kind.is_tuple:
    flags.DEFINE(_ValuesParser(kind.of), name, default, text, serializer=flags.ListSerializer(","))
  elif limits.choices:
    flags.DEFINE_enum(name, default, limits.choices, text)
  elif kind.of is int:
    least, most = (None if bound is None else int(bound) for bound in (limits.least, limits.most))
    flags.DEFINE_integer(name, default, text, lower_bound=least, upper_bound=most)
  elif kind.of is float:
    flags.DEFINE_float(name, default, text, lower_bound=limits.least, upper_bound=limits.most)
  elif kind.of is bool:
    flags.DEFINE_boolean(name, default, text)
  elif kind.of is str:
    flags.DEFINE_string(name, default, text)
  else:
    raise TypeError(f"there is no flag for the field {name} of type {kind.of}")
  return FLAGS[name]


def _split_none(text: str) -> tuple[str, str]:
  """A description without what None stands for, which no flag can be given, and that; '' if it does not say so."""
  found = re.search(r"[;.] None: ([^.]*)\.$", text)
  return (f"{text[: found.start()]}.", found[1]) if found else (text, "")


def _require(flag: flags.Flag) -> None:
  flags.register_validator(flag.name, lambda value: value not in (None, "", []), message=f"--{flag.name} is needed")


def _is_required(flag: flags.Flag) -> bool:
  return any(re.search(_NEEDED, validator.message) for validator in flag.validators)


def _parse(argv: list[str], usage: str, own: list[flags.Flag]) -> list[str]:
  """Parses the flags, or ends the program with one sentence about what is wrong with them."""
  full = lambda: app.usage(writeto_stdout=True)
  module = app.__name__
  for flag in (
    _HelpFlag("help", "?", "Show the flags of this program.", lambda: _show_help(usage, own)),
    _HelpFlag("helpshort", None, "Show the flags of this program.", lambda: _show_help(usage, own)),
    _HelpFlag("helpfull", None, "Show all flags, also those of libraries.", full),
  ):
    flags.DEFINE_flag(flag, module_name=module)
  try:
    return FLAGS(argv)
  except flags.UnrecognizedFlagError as error:
    _exit(_suggestion(error.flagname, [flag.name for flag in own]))
  except (flags.Error, ValueError) as error:
    _exit("; ".join([*map(_sentence, str(error).splitlines()), "see --help"]))


def _exit(message: str) -> NoReturn:
  sys.exit(fail(message))


def _sentence(line: str) -> str:
  """A line of an error of absl's flags in our words."""
  for pattern, ours in _WORDING.items():
    line = re.sub(pattern, ours, line.strip())
  if (found := _CHOICES.fullmatch(line)) and (near := difflib.get_close_matches(found[2], found[3].split("|"), 1)):
    line = line.replace("value should", f"did you mean {near[0]}? The value should", 1)
  return line


def _suggestion(name: str, names: list[str]) -> str:
  """What is said of a flag that is not known: the one that is probably meant."""
  if name in _SHOWN_ELSEWHERE:
    return f"unknown flag --{name}; {_SHOWN_ELSEWHERE[name]}"
  near = [ours for ours in _FOREIGN.get(name, ()) if ours in names]
  meant = {theirs: found[0] for theirs, ours in _FOREIGN.items() if (found := [each for each in ours if each in names])}
  meant |= {f"no{ours}": f"no{ours}" for ours in names if FLAGS[ours].boolean} | dict(zip(names, names))
  near += [meant[word] for word in difflib.get_close_matches(name, meant, 1)]
  return f"unknown flag --{name}; " + (f"did you mean --{near[0]}?" if near else "see --help")


def _show_help(usage: str, own: list[flags.Flag]) -> None:
  """Prints the usage and the flags by group, what is required first, with their defaults."""
  print(usage)
  title_of = lambda flag: "Required" if _is_required(flag) else _groups.get(flag, _OTHERS)
  for title in dict.fromkeys(["Required", *_groups.values(), _OTHERS]):
    members = [flag for flag in own if title_of(flag) == title]
    if members:
      print(f"\n{title}:")
    for flag in members:
      name = f"[no]{flag.name}" if flag.boolean else flag.name
      described = re.sub(r"`(\w+)`", lambda match: f"--{match[1]}" if match[1] in FLAGS else match[1], flag.help)
      described = re.sub(r"^<.*?>: ", "", described) if isinstance(flag, flags.EnumFlag) else described
      text = f"--{name}: {described} {_details(flag)}"
      print(textwrap.fill(" ".join(text.split()), 100, initial_indent="  ", subsequent_indent="      "))
  print(
    "\nFlags are written --name=value; --flagfile=FILE reads them from a file. --helpfull shows those of libraries."
  )


def _details(flag: flags.Flag) -> str:
  """The allowed values and the default of a flag, in parentheses."""
  found = []
  if isinstance(flag, flags.EnumFlag):
    found.append(f"one of {', '.join(flag.parser.enum_values)}")
  least, most = (getattr(flag.parser, f"{side}_bound", None) for side in ("lower", "upper"))
  found.append(str(_limits.get(flag) or fields.Limits(least=least, most=most)))
  value = {True: "true", False: "false"}[flag.default] if flag.boolean and flag.default is not None else flag.default
  shown = ",".join(map(str, value)) if isinstance(value, list) else value
  if default := _defaults.get(flag) or ("" if shown is None else str(shown)):
    found.append(f"default: {default}")
  return f"({'; '.join(filter(None, found))})" if any(found) else ""
