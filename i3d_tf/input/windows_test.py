"""Windows of images against decoding, resizing and cutting the whole image."""

from absl.testing import absltest
from absl.testing import parameterized
import cv2
import numpy as np
import tensorflow as tf

from i3d_tf.flow import codec
from i3d_tf.input import ops
from i3d_tf.video import decode

_BLUR = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8), (5, 5), 0)
_IMAGES = np.stack([_BLUR, _BLUR[::-1], 255 - _BLUR])  # [3, 50, 70, 3]


def _encode(suffix: str, images: np.ndarray, quality: int = 95) -> tf.Tensor:
  options = [cv2.IMWRITE_JPEG_QUALITY, quality]  # 4:2:0, as prepare_dataset's
  return tf.constant([cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes() for image in images])


def _place(resized, offset, window, size=(50, 70)):
  names = ("size", "resized", "offset", "window")
  return {name: tf.constant(value) for name, value in zip(names, (size, resized, offset, window))}


def _cut(images, offset, window):
  return np.asarray(images)[:, offset[0] : offset[0] + window[0], offset[1] : offset[1] + window[1]]


class SizeTest(parameterized.TestCase):
  @parameterized.parameters(".jpg", ".png")
  def test_image_size(self, suffix):
    self.assertEqual(ops.image_size(_encode(suffix, _IMAGES)[0]).numpy().tolist(), [50, 70])
    wide = np.zeros((3, 700, 3), np.uint8)
    self.assertEqual(ops.image_size(_encode(suffix, wide[np.newaxis])[0]).numpy().tolist(), [3, 700])

  @parameterized.parameters(b"", b"\xff\xd8", b"\x89PNG" + b"0" * 14, b"text that is no image at all")
  def test_no_image(self, content):
    with self.assertRaisesRegex(tf.errors.InvalidArgumentError, "neither JPEG nor PNG"):
      ops.image_size(tf.constant(content))

  @parameterized.parameters((240, 320), (320, 240), (480, 853), (1080, 1920), (100, 100), (7, 11), (256, 341))
  def test_resized_as_prepared_frames_are(self, height, width):
    for short_side in (256, 205, 307, 8):
      expected = decode.resize(np.zeros((height, width, 1), np.uint8), short_side).shape[:2]
      self.assertEqual(tuple(ops.resized_size(tf.constant([height, width]), short_side).numpy()), expected)


class DecodeTest(parameterized.TestCase):
  @parameterized.parameters(
    (".png", (0, 0), (50, 70)),
    (".png", (3, 5), (32, 20)),
    (".jpg", (0, 0), (50, 70)),
    (".jpg", (0, 0), (32, 32)),
    (".jpg", (3, 5), (32, 20)),
    (".jpg", (16, 16), (16, 16)),
    (".jpg", (17, 31), (33, 39)),
  )
  def test_without_resizing_the_bytes_are_opencvs(self, suffix, offset, window):
    images = _encode(suffix, _IMAGES)
    whole = [cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for image in images.numpy()]
    got = ops.decode_rgb(images, **_place((50, 70), offset, window))
    self.assertEqual(got.dtype, tf.uint8)
    np.testing.assert_array_equal(got, _cut(whole, offset, window))

  @parameterized.product(
    suffix=(".png", ".jpg"),
    resized=((40, 56), (75, 105), (43, 60), (51, 71)),
    corner=((0, 0), (1, 1), (0.3, 0.7)),
  )
  def test_resized_is_the_window_of_the_whole_resized(self, suffix, resized, corner):
    images = _encode(suffix, _IMAGES)
    whole = (
      np.stack([tf.io.decode_image(i, channels=3).numpy() for i in images])
      if suffix == ".png"
      else np.stack([tf.io.decode_jpeg(i, dct_method="INTEGER_ACCURATE").numpy() for i in images])
    )
    whole = tf.image.resize(whole, resized, method="bilinear", antialias=False)
    window = (32, 30)
    offset = tuple(int(part * (all_ - some)) for part, all_, some in zip(corner, resized, window))
    got = ops.decode_rgb(images, **_place(resized, offset, window))
    np.testing.assert_allclose(got, _cut(whole, offset, window), rtol=0, atol=0.502)

  @parameterized.parameters(((43, 60), (5, 9)), ((75, 105), (43, 75)), ((50, 70), (11, 3)))
  def test_flow(self, resized, offset):
    flow = np.random.default_rng(1).uniform(-15, 15, (2, 50, 70, 2)).astype(np.float32)
    encoded = codec.encode(flow, bound=16)
    images = _encode(".png", codec.to_image(encoded))
    got = ops.decode_flow(images, bound=tf.constant(16.0), **_place(resized, offset, (32, 30)))
    whole = [codec.scale(codec.resize(f, *resized)) for f in codec.decode(encoded, bound=16)]
    self.assertEqual(got.shape, (2, 32, 30, 2))
    np.testing.assert_allclose(got, _cut(whole, offset, (32, 30)), rtol=0, atol=2e-5)

  def test_only_the_window_of_a_jpeg_is_decoded(self):
    image = _encode(".jpg", _IMAGES)[0].numpy()
    torn = image[: len(image) // 2]  # what is left are the upper rows
    whole = tf.io.decode_jpeg(image, dct_method="INTEGER_ACCURATE")
    with self.assertRaises(tf.errors.InvalidArgumentError):
      tf.io.decode_jpeg(torn)
    got = ops.decode_rgb(tf.constant([torn]), **_place((50, 70), (0, 10), (8, 20)))
    np.testing.assert_array_equal(got[0], whole[:8, 10:30])

  @parameterized.parameters(".jpg", ".png")
  def test_damaged_image_fails(self, suffix):
    images = [image.numpy() for image in _encode(suffix, _IMAGES)]
    images[1] = images[1][: len(images[1]) // 2]
    with self.assertRaises(tf.errors.InvalidArgumentError):
      ops.decode_rgb(tf.constant(images), **_place((50, 70), (20, 20), (30, 30)))

  def test_image_of_another_size_fails(self):
    images = tf.concat([_encode(".png", _IMAGES), _encode(".png", _IMAGES[:1, :-1])], axis=0)
    with self.assertRaises(tf.errors.InvalidArgumentError):
      ops.decode_rgb(images, **_place((50, 70), (3, 3), (30, 30)))


if __name__ == "__main__":
  absltest.main()
