"""Fields of the configuration dataclasses: each states its default and its limits once, for checks and for flags.

A configuration is a frozen dataclass whose fields are numbers, texts, booleans, or tuples of them:

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config:
    \"\"\"What is configured.

    Attributes:
      rate: Dropout rate.
    \"\"\"

    rate: float = fields.option(0.5, least=0, below=1)

    def __post_init__(self):
      fields.check(self)

`cli.define_flags` makes the flags of a program from such a class; the text under `Attributes:` is their help.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import inspect
import numbers
import os
import re
import textwrap
import types
import typing
from typing import Any

from i3d_tf import errors

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclasses.dataclass(frozen=True)
class Limits:
  """Which values a field takes; None: no limit on this side.

  Attributes:
    choices: All values allowed; empty: any.
    least, most: The smallest and the largest value allowed.
    above, below: Bounds that are not allowed themselves.
  """

  choices: tuple[str, ...] = ()
  least: float | None = None
  most: float | None = None
  above: float | None = None
  below: float | None = None

  def allow(self, value: Any) -> bool:
    """Returns whether a value is within the limits.

    Args:
      value: Value of the field, or one element of a tuple.
    """
    if self.choices and value not in self.choices:
      return False
    above = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
    return above and (self.most is None or value <= self.most) and (self.below is None or value < self.below)

  def __str__(self) -> str:
    """The limits of a number in words, such as 'at least 0 and less than 1'; '' for none."""
    if self.least is not None and self.most is not None:
      return f"from {self.least:g} to {self.most:g}"
    words = {"at least": self.least, "more than": self.above, "at most": self.most, "less than": self.below}
    return " and ".join(f"{word} {bound:g}" for word, bound in words.items() if bound is not None)


@dataclasses.dataclass(frozen=True)
class Kind:
  """The type of a field: `of` is bool, int, float, str, or another type, which is not checked."""

  of: Any
  is_tuple: bool = False
  length: int | None = None  # of the tuple; None: any


def option(
  default: Any = dataclasses.MISSING,
  *,
  choices: Sequence[str] = (),
  least: float | None = None,
  most: float | None = None,
  above: float | None = None,
  below: float | None = None,
) -> Any:
  """Returns a dataclass field with limits, which `check` enforces; of a tuple they are those of its elements.

  Args:
    default: Value of the field if none is given; left out, the field must be given.
    choices: All values allowed.
    least: Smallest value allowed.
    most: Largest value allowed.
    above: Lower bound that is not allowed itself.
    below: Upper bound that is not allowed itself.
  """
  limits = Limits(tuple(choices), least, most, above, below)
  return dataclasses.field(default=default, metadata={"limits": limits})


def limits(field: dataclasses.Field) -> Limits:
  """Returns the limits of a dataclass field.

  Args:
    field: Any field; one that was declared without `option` has no limits.
  """
  return field.metadata.get("limits", Limits())


def kinds(cls: type) -> dict[str, Kind]:
  """Returns the kind of every field by name; `X | None` is of the kind X.

  Args:
    cls: Dataclass.
  """
  hints = typing.get_type_hints(cls)
  # A dictionary is an object of JSON, whatever it holds.
  hints = {name: dict if typing.get_origin(hint) is dict else hint for name, hint in hints.items()}
  return {field.name: _kind(hints[field.name]) for field in dataclasses.fields(cls)}


def check(config: Any) -> None:
  """Checks every field of a frozen dataclass against its type and limits, and brings it to its type.

  Lists become tuples, paths texts, and whole numbers in fields of type float become floats. None is allowed where it
  is the default.

  Args:
    config: Instance of a dataclass, as its `__post_init__` has it.

  Raises:
    I3dError: if a value is of another type or outside the limits; the message names the field.
  """
  of_class = kinds(type(config))
  for field in dataclasses.fields(config):
    value, kind = getattr(config, field.name), of_class[field.name]
    if kind.of in _KINDS and not (value is None and field.default is None):
      object.__setattr__(config, field.name, _checked(field.name, value, kind, limits(field)))


def from_json(
  cls: type,
  content: Any,
  where: str | os.PathLike,
  *,
  most: Mapping[str, float] | None = None,
  has_others: bool = False,
) -> Any:
  """Returns an instance of a dataclass from a JSON object that may be damaged, or made to do harm.

  Args:
    cls: Dataclass whose fields are numbers, texts, booleans, objects (`dict`), or tuples of them.
    content: The object; a field with a default may be absent.
    where: File that it stands in, for the message.
    most: Further limits of numbers by name, for what is read but not for what is configured.
    has_others: Whether the object may have further names, which are left out.

  Raises:
    I3dError: If it is no object, a name is unknown or missing, or a value is of another type or outside the limits.
  """
  if not isinstance(content, dict):
    raise errors.I3dError(f"{where}: it holds {_shown(content)}, which is no JSON object")
  of_class = kinds(cls)
  if unknown := [name for name in content if name not in of_class and not has_others]:
    raise errors.I3dError(f"{where}: it holds {_shown(unknown[0])}, which is unknown; known are {', '.join(of_class)}")
  values = {}
  for field in dataclasses.fields(cls):
    if field.name in content:
      values[field.name] = _from_json(field, of_class[field.name], content[field.name], where, most or {})
    elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
      raise errors.I3dError(f"{where}: it has no {field.name}")
  try:
    return cls(**values)
  except errors.I3dError as error:
    raise errors.I3dError(f"{where}: {error}") from None


def changes(config: Any, names: Iterable[str]) -> dict[str, Any]:
  """Returns those options that are not at their defaults; what older versions wrote does not state newer ones.

  Args:
    config: Instance of a dataclass.
    names: Names of fields that have defaults.
  """
  defaults = {field.name: field.default for field in dataclasses.fields(config)}
  return {name: value for name in names if (value := getattr(config, name)) != defaults[name]}


def is_text(value: Any) -> bool:
  """Returns whether a value is a text of whole characters, which every file and terminal takes.

  Args:
    value: The value.
  """
  return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _from_json(field: dataclasses.Field, kind: Kind, value: Any, where: Any, most: Mapping[str, float]) -> Any:
  """Returns the value of a field, checked, with lists as tuples."""
  if value is None and field.default is None:
    return None
  allowed, name = limits(field), field.name
  elements = value if kind.is_tuple else [value]
  if not isinstance(elements, list):
    raise errors.I3dError(f"{where}: {name} is {_shown(value)}; it must be a list")
  if kind.length not in (None, len(elements)) and kind.is_tuple:
    raise errors.I3dError(f"{where}: {name} has {len(elements)} elements; it must have {kind.length}")
  for element in elements:
    is_object = kind.of is dict and isinstance(element, dict)
    if not is_object and not (kind.of in _KINDS and _fits(element, kind.of, allowed)):
      wanted = (
        "it must be an object" if kind.of is dict else _wanted("each" if kind.is_tuple else "it", kind.of, allowed)
      )
      raise errors.I3dError(f"{where}: {name} is {_shown(element)}; {wanted}")
  if name in most and max(elements, default=0) > most[name]:
    raise errors.I3dError(f"{where}: {name} is {_shown(value)}; it must be at most {most[name]:,}")
  made = [element if kind.of is dict else kind.of(element) for element in elements]
  return tuple(made) if kind.is_tuple else made[0]


def _shown(value: Any) -> str:
  """A value for a message, shortened; what cannot be printed is escaped."""
  return ascii(value) if len(text := repr(value)) <= 80 and not text.isprintable() else textwrap.shorten(text, 80)


def descriptions(cls: type) -> dict[str, str]:
  """Returns the texts under `Attributes:` in the docstrings of a class and its bases, by field, each on one line.

  Args:
    cls: Dataclass.
  """
  found: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
    names: list[str] = []
    for line in section.splitlines():
      if line and not line.startswith(" "):
        break
      if entry := re.match(r"  (\w+(?:, \w+)*): (.*)", line):
        names = entry[1].split(", ")
        found |= dict.fromkeys(names, entry[2])
      else:
        found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
  return {name: text[:1].upper() + text[1:] for name, text in found.items()}


def _kind(hint: Any) -> Kind:
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    others = [argument for argument in typing.get_args(hint) if argument is not type(None)]
    return _kind(others[0]) if len(others) == 1 else Kind(hint)
  if typing.get_origin(hint) is tuple:
    first, *rest = (dict if typing.get_origin(each) is dict else each for each in typing.get_args(hint))
    if rest == [...]:
      return Kind(first, is_tuple=True)
    return Kind(first, is_tuple=True, length=1 + len(rest)) if set(rest) <= {first} else Kind(hint)
  return Kind(hint)


def _checked(name: str, value: Any, kind: Kind, allowed: Limits) -> Any:
  """Returns `value` as the type of its field; raises I3dError if it does not fit."""
  if not kind.is_tuple:
    value = os.fspath(value) if kind.of is str and isinstance(value, os.PathLike) else value
    if not _fits(value, kind.of, allowed):
      raise errors.I3dError(f"{name} is {value!r}; {_wanted('it', kind.of, allowed)}")
    return kind.of(value)
  values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
  text = ",".join(map(str, values)) or "empty"
  if kind.length not in (None, len(values)):
    raise errors.I3dError(f"{name} is {text}; it must be {kind.length} values")
  if not all(_fits(element, kind.of, allowed) for element in values):
    raise errors.I3dError(f"{name} is {text}; {_wanted('each', kind.of, allowed)}")
  return tuple(map(kind.of, values))


def _fits(value: Any, of: type, allowed: Limits) -> bool:
  types_allowed = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}[of]
  is_of_type = isinstance(value, types_allowed) and isinstance(value, bool) == (of is bool)
  # NaN differs from itself, and a larger whole number is none of NumPy's.
  is_number = value == value and not (is_of_type and of is int and not -(2**63) <= value < 2**63)
  return is_of_type and is_number and allowed.allow(value)


def _wanted(what: str, of: type, allowed: Limits) -> str:
  if allowed.choices:
    return f"allowed are {', '.join(allowed.choices)}"
  if of is float and str(allowed):
    return f"{what} must be {allowed}"
  return f"{what} must be {', '.join(filter(None, (_KINDS[of], str(allowed))))}"
