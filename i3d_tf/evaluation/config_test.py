"""What may be asked for together."""

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf import evaluation

_TWO = {"checkpoints": {"rgb": "a", "flow": "b"}, "records": "r"}
_FILES = {"score_files": {"rgb": "a", "flow": "b"}}


class EvaluationTest(parameterized.TestCase):
  def test_streams_come_rgb_first(self):
    mixed = evaluation.EvaluationConfig(output="o", records="r", checkpoints={"flow": "b"}, score_files={"rgb": "a"})
    self.assertEqual(mixed.streams, ("rgb", "flow"))
    self.assertTrue(mixed.has_fusion)
    self.assertFalse(evaluation.EvaluationConfig(output="o", score_files={"flow": "b"}).has_fusion)

  @parameterized.named_parameters(
      ("nothing", {}, "no stream is given; give a checkpoint or a score file of rgb, flow or both"),
      ("stream", {**_TWO, "checkpoints": {"depth": "a"}}, "there is no stream 'depth'; there are rgb, flow, joint"),
      ("twice", {**_TWO, "score_files": {"flow": "c"}}, "flow has both a checkpoint and a score file; give one"),
      ("no_records", {"checkpoints": {"rgb": "a"}}, "^records is missing"),
      ("clips_of_files", {**_FILES, "clips": {"crop": 64}}, "^crop is for a checkpoint"),
      ("frames_of_release", {**_TWO, "clips": {"protocol": "release", "num_frames": 16}},
       "^num_frames is not used by the protocol release"),
      ("clips_of_release", {**_TWO, "clips": {"protocol": "release", "num_clips": 3}},
       "^num_clips is not used by the protocol release"),
      ("most_of_clips", {**_TWO, "clips": {"protocol": "clips", "max_frames": 99}},
       "^max_frames is not used by the protocol clips"),
      ("clips_of_ten", {**_TWO, "clips": {"protocol": "ten_crop", "num_clips": 3}},
       "^num_clips is not used by the protocol ten_crop"),
      ("crop_of_three", {**_TWO, "clips": {"protocol": "three_crops", "crop": 224}},
       "^crop is not used by the protocol three_crops"),
      ("protocol", {**_TWO, "clips": {"protocol": "best"}}, "protocol is 'best'; allowed are release, clips, ten_crop"),
      ("fusion", {**_FILES, "fusion": "max"}, "fusion is 'max'; allowed are logits, softmax, svm"),
      ("fusion_of_one", {"score_files": {"rgb": "a"}, "fusion": "softmax"}, "for two streams; only rgb is given"),
      ("weight_of_one", {"score_files": {"flow": "a"}, "flow_weight": 0.5}, "for two streams; only flow is given"),
      ("weight", {**_FILES, "flow_weight": 1.5}, r"^flow_weight is 1.5; it must be from 0 to 1"),
      ("weight_of_svm", {**_FILES, "fusion": "svm", "flow_weight": 0.5}, "^flow_weight is not used by the fusion svm"),
      ("svm_untrained", {**_FILES, "fusion": "svm"}, "belong together"),
      ("trained_no_svm", {**_FILES, "svm_train_scores": ("a", "b")}, "belong together"),
      ("svm_of_one", {**_FILES, "fusion": "svm", "svm_train_scores": ("a",)}, "^svm_train_scores is a; it takes two"),
  )  # fmt: skip
  def test_what_does_not_go_together(self, values, sentence):
    with self.assertRaisesRegex(errors.I3dError, sentence):
      evaluation.EvaluationConfig(output="o", **values)

  @parameterized.parameters(
    ("release", {"num_clips", "num_frames"}),
    ("clips", {"max_frames", "min_frames"}),
    ("ten_crop", {"max_frames", "min_frames", "num_clips"}),
    ("three_crops", {"max_frames", "min_frames", "crop"}),
  )
  def test_unused(self, protocol, expected):
    self.assertEqual(evaluation.unused(protocol), expected)


if __name__ == "__main__":
  absltest.main()
