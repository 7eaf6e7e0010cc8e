import sys
from unittest import mock

from absl.testing import absltest
import numpy as np

from i3d_tf import provenance
from i3d_tf import workers


class ProvenanceTest(absltest.TestCase):
  def test_what_is_told(self):
    with mock.patch.object(sys, "argv", ["/some/where/evaluate.py", "--records=a b"]):
      rows = provenance.collect()
    self.assertEqual(rows["command"], "python -m i3d_tf.evaluate '--records=a b'")
    self.assertRegex(rows["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d$")
    self.assertEqual(rows["numpy"], np.__version__)
    self.assertEndsWith(rows["machine"], f", {workers.available_cores()} cores")


if __name__ == "__main__":
  absltest.main()
