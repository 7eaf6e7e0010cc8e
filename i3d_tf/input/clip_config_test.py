"""What the options of clips allow."""

import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from i3d_tf import errors
from i3d_tf.input import clip_config
from i3d_tf.models import preprocess


class ClipOptionsTest(parameterized.TestCase):
  def test_options_are_off_by_default(self):
    clips = clip_config.TrainClips()
    off = (clips.scale_jitter, clips.photometric_jitter, clips.temporal_jitter, clips.segment_shuffle)
    self.assertEqual((*off, clips.frame_dropout, clips.frame_stride), ((1, 1), 0, 0, 0, 0, 1))
    self.assertEqual((clips.num_frames, clips.short_side, clips.crop, clips.flip), (64, 256, 224, True))
    self.assertEqual((clip_config.EvalClips().max_frames, clip_config.EvalClips().flip), (250, False))
    for made in (clips, clip_config.EvalClips()):
      self.assertEqual((made.flow_stack, made.flow_stacking, made.subtract_mean_flow), (1, "plain", False))

  def test_streams_have_one_order(self):
    for kind in (clip_config.TrainClips, clip_config.EvalClips):
      self.assertEqual(kind(streams=["flow", "rgb"]).streams, ("rgb", "flow"))
      self.assertEqual(kind(streams=["flow"]).streams, ("flow",))

  def test_what_records_must_hold(self):
    for kind in (clip_config.TrainClips, clip_config.EvalClips):
      for streams in preprocess.STREAMS_OF.values():
        self.assertEqual(clip_config.stored(kind(streams=streams)), streams)
      both = kind(streams=("rgb", "flow"), flow_stack=4, flow_stacking="bidirectional")
      self.assertEqual(clip_config.stored(both), ("rgb", "flow", "backward_flow"))

  @parameterized.product(
    kind=(clip_config.TrainClips, clip_config.EvalClips),
    refused=(
      ({"flow_stack": 0}, "flow_stack is 0; it must be a whole number, at least 1"),
      ({"flow_stack": 2.0}, "flow_stack is 2.0;"),
      ({"flow_stacking": "both", "flow_stack": 2}, "flow_stacking is 'both'; allowed are plain, trajectory, bidir"),
      ({"flow_stack": 10, "streams": ("rgb",)}, "flow_stack is 10; it is about flow, and there is none"),
      ({"flow_stack": 4, "flow_stacking": "trajectory", "streams": ("rgb",)}, "flow_stack is 4; it is about flow"),
      ({"subtract_mean_flow": True, "streams": ("rgb",)}, "subtract_mean_flow is True; it is about flow"),
      ({"flow_stacking": "trajectory"}, "flow_stacking is trajectory; it needs a flow_stack of more than one"),
      ({"flow_stacking": "bidirectional"}, "flow_stacking is bidirectional; it needs a flow_stack of more than"),
      ({"flow_stacking": "bidirectional", "flow_stack": 5}, "flow_stack is 5; of bi-directional stacks half"),
    ),
  )
  def test_refused_of_flow(self, kind, refused):
    options, message = refused
    with self.assertRaisesRegex(errors.I3dError, f"^{message}"):
      kind(**{"streams": ("rgb", "flow"), **options})

  def test_segments(self):
    with self.assertRaisesRegex(errors.I3dError, "num_frames is 16; with segment_frames of 6 it must be a multiple"):
      clip_config.EvalClips(num_frames=16, segment_frames=6)
    with self.assertRaisesRegex(errors.I3dError, "temporal_jitter is 2; with segment_frames every segment's start"):
      clip_config.TrainClips(num_frames=6, segment_frames=2, temporal_jitter=2)

  def test_what_flow_can_be(self):
    for kind in (clip_config.TrainClips, clip_config.EvalClips):
      kind(streams=("flow",), subtract_mean_flow=True)
      kind(streams=("flow",), flow_stack=2, flow_stacking="bidirectional", subtract_mean_flow=True)
      kind(streams=("rgb", "flow"), flow_stack=3, flow_stacking="trajectory")

  @parameterized.parameters(
    ({"streams": ()}, "streams are none; allowed are rgb, flow, and both"),
    ({"streams": ("rgb", "depth")}, "streams are rgb, depth; allowed"),
    ({"streams": ("rgb", "rgb")}, "streams are rgb, rgb; allowed"),
    ({"num_frames": 0}, "num_frames is 0; it must be a whole number, at least 1"),
    ({"frame_stride": 0}, "frame_stride is 0;"),
    ({"frame_stride": 1.5}, "frame_stride is 1.5;"),
    ({"crop": 0}, "crop is 0;"),
    ({"crop": 257}, "crop is 257; it must be at most short_side, 256"),
    ({"scale_jitter": (1.2, 0.8)}, "scale_jitter is 1.2,0.8; it must be two positive factors, the smaller one first"),
    ({"scale_jitter": (0.0, 1.0)}, "scale_jitter is 0.0,1.0;"),
    ({"scale_jitter": (float("nan"), 1.0)}, "scale_jitter is nan,1.0;"),
    ({"scale_jitter": (1.0, float("inf"))}, "scale_jitter is 1.0,inf;"),
    ({"scale_jitter": (1.0,)}, "scale_jitter is 1.0;"),
    ({"photometric_jitter": 2.1}, "photometric_jitter is 2.1; it must be from 0 to 2"),
    ({"photometric_jitter": 0.5, "streams": ("flow",)}, "photometric_jitter is 0.5; it changes RGB only"),
    ({"temporal_jitter": -1}, "temporal_jitter is -1;"),
    ({"segment_shuffle": 1.01}, "segment_shuffle is 1.01; it must be from 0 to 1"),
    ({"segment_shuffle": 0.1, "num_segments": 1}, "num_segments is 1; it must be a whole number, at least 2"),
    (
      {"segment_shuffle": 0.1, "num_segments": 9, "num_frames": 8},
      "num_segments is 9; to shuffle, it must be at most the 8",
    ),
    ({"frame_dropout": float("nan")}, "frame_dropout is nan;"),
  )
  def test_refused_for_training(self, options, message):
    with self.assertRaisesRegex(errors.I3dError, f"^{message}"):
      clip_config.TrainClips(**options)

  @parameterized.parameters(
    ({"streams": ("flow", "flow")}, "streams are flow, flow;"),
    ({"protocol": "five_crop"}, "protocol is 'five_crop'; allowed are release, clips, ten_crop"),
    ({"num_clips": 0}, "num_clips is 0;"),
    ({"max_frames": 0}, "max_frames is 0;"),
    ({"min_frames": 0}, "min_frames is 0;"),
    ({"max_frames": 8}, "max_frames is 8; it must be at least min_frames, 9"),
    ({"crop": 300}, "crop is 300;"),
    ({"protocol": "ten_crop", "flip": True}, "flip is on;"),
  )
  def test_refused_for_evaluation(self, options, message):
    with self.assertRaisesRegex(errors.I3dError, f"^{message}"):
      clip_config.EvalClips(**options)

  def test_imports_no_tensorflow(self):
    code = "import sys; from i3d_tf.input import clip_config; sys.exit('tensorflow' in sys.modules)"
    self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)


if __name__ == "__main__":
  absltest.main()
