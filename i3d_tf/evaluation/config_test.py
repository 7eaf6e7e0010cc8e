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
    self.assertEqual(mixed.fused, ("rgb", "flow"))
    self.assertEqual(mixed.weights, {"rgb": 0.5, "flow": 0.5})
    self.assertEmpty(evaluation.EvaluationConfig(output="o", score_files={"flow": "b"}).fused)

  @parameterized.parameters(
    (("rgb", "audio"), {}, {"rgb": 0.5, "audio": 0.5}),
    (("joint", "audio"), {"audio_weight": 0.25}, {"joint": 0.75, "audio": 0.25}),
    (("rgb", "flow", "audio"), {"flow_weight": 0.75, "audio_weight": 0.2}, {"rgb": 0.2, "flow": 0.6, "audio": 0.2}),
    (("rgb", "flow", "joint"), {"flow_weight": 0.75}, {"rgb": 0.25, "flow": 0.75}),
  )
  def test_weights(self, streams, given, expected):
    config = evaluation.EvaluationConfig(output="o", score_files=dict.fromkeys(reversed(streams), "a"), **given)
    self.assertEqual({stream: round(weight, 9) for stream, weight in config.weights.items()}, expected)

  @parameterized.named_parameters(
      ("nothing", {}, "no stream is given; give a checkpoint or a score file of rgb, flow or both"),
      ("stream", {**_TWO, "checkpoints": {"depth": "a"}}, "there is no stream 'depth'; there are rgb, flow, joint, a"),
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
      ("weight_of_no_sound", {**_FILES, "audio_weight": 0.5}, "^audio_weight is for the fusion of audio with another"),
      ("svm_untrained", {**_FILES, "fusion": "svm"}, "belong together"),
      ("trained_no_svm", {**_FILES, "svm_train_scores": ("a", "b")}, "belong together"),
      ("svm_of_one", {**_FILES, "fusion": "svm", "svm_train_scores": ("a",)}, "scores is a; it takes 2 files"),
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
