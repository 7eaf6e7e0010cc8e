from unittest import mock

from absl.testing import absltest

from i3d_tf import devices
from i3d_tf import doctor
from i3d_tf import testing


class DoctorTest(absltest.TestCase):
  def test_it_says_what_there_is_and_what_is_wrong(self):
    found = ("bfloat16", {"float32": 0.2, "bfloat16": 0.1})
    with mock.patch.object(devices, "fastest_precision", return_value=found):
      for problem in (None, "the gradients of bfloat16 are not finite"):
        # What it does is tested by itself, in training/matrix_test.py, and takes ten seconds.
        with mock.patch.object(doctor, "_training", return_value=problem):
          done = testing.run_main("doctor")
        lines = {line[:14].strip(): line[15:] for line in done.stdout.splitlines()}
        self.assertEqual(done.status, int(problem is not None), done.stderr)
        self.assertRegex(lines["network"], r"^ok \(")
        self.assertRegex(lines["optical flow"], r"^ok \(")
        self.assertRegex(lines["training"], r"^ok \(" if problem is None else f"^WRONG: {problem} ")
        self.assertEqual(lines["convolution"], "float32 200 ms, bfloat16 100 ms; --precision=auto takes bfloat16")

  def test_logits_that_are_off_are_wrong(self):
    with mock.patch.object(doctor, "_LOGITS", (0.00492, 0.040436, 0.0575)):
      self.assertRegex(doctor._network(), "off by 0.01 of the largest")


if __name__ == "__main__":
  absltest.main()
