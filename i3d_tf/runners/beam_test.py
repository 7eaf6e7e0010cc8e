"""What Beam's pipelines refuse; their work is tested where it is done."""

import importlib.util
import sys
import unittest
from unittest import mock

from absl.testing import absltest

from i3d_tf import errors
from i3d_tf import runners


class BeamPipelinesTest(absltest.TestCase):
  @unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
  def test_bad_options_are_named(self):
    for runner, option, message in (
      ("DirectRunner", "--direct_num_wokers=2", "Beam has no option --direct_num_wokers"),
      ("DirectRunner", "--direct_num_workers=two", "--direct_num_workers: invalid int value: 'two'"),
      ("DirectRunner", "direct_num_workers=2", "must have the form --NAME=VALUE"),
      ("FlinkRunner", "--runner=SparkRunner", "name no runner"),
      ("DataflowRunner", "--project=p", "cannot set up DataflowRunner: .+"),
    ):
      with self.subTest(option), self.assertRaisesRegex(errors.I3dError, message):
        runners.create(runner, [option])

  @unittest.skipUnless(importlib.util.find_spec("apache_beam"), "Apache Beam is not installed")
  def test_options_of_a_job_server_pass(self):
    runners.create("FlinkRunner", ["--flink_master=host:8081", "--an_option_of_the_job_server=1"])

  def test_a_cluster_needs_absolute_paths(self):
    with self.assertRaisesRegex(errors.I3dError, "^output is out; the workers of FlinkRunner need an absolute path$"):
      runners.create("FlinkRunner", [], paths=[("output", "out")])

  def test_a_missing_beam_is_named(self):
    with mock.patch.dict(sys.modules, {"apache_beam": None}):
      with self.assertRaisesRegex(
        errors.I3dError, r"^runners of Beam need Apache .* pip install '.\[beam\]' in a clone of i3d_tf$"
      ):
        runners.create("DirectRunner", [])


if __name__ == "__main__":
  absltest.main()
