"""Tests of fields."""

import dataclasses
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from i3d_tf import errors
from i3d_tf import fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Base:
  """What bases have is inherited.

  Attributes:
    size: pixels
      of a side.
    mode, other_mode: how it is done.

  And more.
  """

  size: int = fields.option(8, least=1, most=10)
  mode: str = fields.option("plain", choices=("plain", "fancy"))
  other_mode: str | None = fields.option(None, choices=("plain", "fancy"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config(_Base):
  """One field of each type.

  Attributes:
    size: Another text.
    rate: Factor.
  """

  size: int = fields.option(9, least=1, most=10)
  rate: float = fields.option(0.5, above=0, below=1)
  rates: tuple[float, ...] = fields.option((), least=0)
  pair: tuple[int, int] = (1, 2)
  path: str = ""
  is_on: bool = False

  def __post_init__(self):
    fields.check(self)


class FieldsTest(parameterized.TestCase):
  def test_defaults_are_valid(self):
    self.assertEqual(_Config(), _Config(size=9, rate=0.5, other_mode=None))

  def test_values_are_brought_to_the_type_of_the_field(self):
    config = _Config(size=np.int64(3), rates=[1, 0.5], pair=[3, 4], path=pathlib.Path("a/b"))
    self.assertEqual((config.rates, config.pair, config.path, config.size), ((1.0, 0.5), (3, 4), "a/b", 3))
    self.assertEqual([type(value) for value in (config.size, *config.rates)], [int, float, float])

  @parameterized.parameters(
    ({"size": 0}, "size is 0; it must be a whole number, from 1 to 10"),
    ({"size": 11}, "size is 11; it must be a whole number, from 1 to 10"),
    ({"size": 2.0}, "size is 2.0; it must be a whole number, from 1 to 10"),
    ({"size": True}, "size is True; it must be a whole number, from 1 to 10"),
    ({"size": None}, "size is None; it must be a whole number, from 1 to 10"),
    ({"rate": 0}, "rate is 0; it must be more than 0 and less than 1"),
    ({"rate": 1.0}, "rate is 1.0; it must be more than 0 and less than 1"),
    ({"rate": float("nan")}, "rate is nan; it must be more than 0 and less than 1"),
    ({"rate": "0.5"}, "rate is '0.5'; it must be more than 0 and less than 1"),
    ({"rates": (1.0, -1.0)}, "rates is 1.0,-1.0; each must be at least 0"),
    ({"pair": (1, 2, 3)}, "pair is 1,2,3; it must be 2 values"),
    ({"mode": "odd"}, "mode is 'odd'; allowed are plain, fancy"),
    ({"other_mode": "odd"}, "other_mode is 'odd'; allowed are plain, fancy"),
    ({"path": 3}, "path is 3; it must be a text"),
    ({"is_on": 1}, "is_on is 1; it must be true or false"),
  )
  def test_what_does_not_fit_is_named(self, given, message):
    with self.assertRaises(errors.I3dError) as caught:
      _Config(**given)
    self.assertEqual(str(caught.exception), message)

  def test_descriptions(self):
    how = "How it is done."
    found = {"size": "Another text.", "mode": how, "other_mode": how, "rate": "Factor."}
    self.assertEqual(fields.descriptions(_Config), found)
    self.assertEqual(fields.descriptions(_Base)["size"], "Pixels of a side.")


if __name__ == "__main__":
  absltest.main()
