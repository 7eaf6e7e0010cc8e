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

from collections.abc import Sequence
import dataclasses
import inspect
import numbers
import os
import re
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
    first, *rest = typing.get_args(hint)
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
  return is_of_type and value == value and allowed.allow(value)  # NaN differs from itself


def _wanted(what: str, of: type, allowed: Limits) -> str:
  if allowed.choices:
    return f"allowed are {', '.join(allowed.choices)}"
  if of is float and str(allowed):
    return f"{what} must be {allowed}"
  return f"{what} must be {', '.join(filter(None, (_KINDS[of], str(allowed))))}"
