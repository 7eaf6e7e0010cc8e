"""The page in a real browser; skipped where there is no Chromium with its driver."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import unittest
from unittest import mock

from absl.testing import absltest
import cv2
import numpy as np

from i3d_tf import testing
from i3d_tf.serving import models
from i3d_tf.serving import testing as serving_testing

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_DRIVER = shutil.which("chromedriver")
_OPTIONS = (
  "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
  " --disable-component-update --disable-sync --disable-dev-shm-usage --use-fake-ui-for-media-stream"
  " --use-fake-device-for-media-stream --window-size=1200,1000"
).split()
_SECONDS = 120  # for one step, on a busy machine


@contextlib.contextmanager
def browser(folder: str):
  """Yields a browser whose downloads and profile are in a folder.

  Args:
    folder: The folder.
  """
  from selenium import webdriver
  from selenium.webdriver.chrome import service

  options = webdriver.ChromeOptions()
  options.binary_location = _CHROMIUM
  for option in (*_OPTIONS, f"--user-data-dir={folder}/profile"):
    options.add_argument(option)
  options.add_experimental_option("prefs", {"download.default_directory": os.path.join(folder, "downloads")})
  driver = webdriver.Chrome(options=options, service=service.Service(_DRIVER))
  try:
    yield driver
  finally:
    driver.quit()


class Page:
  """The page in one tab."""

  def __init__(self, driver, address: str):
    self.driver = driver
    driver.get(address)
    self.tab = driver.current_window_handle
    self.wait(lambda: self.text("limits"))

  def text(self, name: str) -> str:
    """Returns the text of an element, '' if it is not shown."""
    return self.driver.find_element("id", name).text

  def wait(self, is_so) -> None:
    """Waits until something is so."""
    from selenium.webdriver.support import wait

    wait.WebDriverWait(self.driver, _SECONDS, poll_frequency=0.2).until(lambda _: is_so())

  def give(self, path: str | os.PathLike) -> None:
    """Chooses a file."""
    self.driver.find_element("id", "file").send_keys(os.fspath(path))

  def outcome(self) -> str:
    """Returns what the page says of the last file when it is done with it."""
    is_done = lambda: not self.driver.find_element("id", "cancel").is_displayed()
    self.wait(lambda: is_done() and (self.text("error") or self.text("status")))
    return self.text("error") or self.text("status")


@unittest.skipUnless(_CHROMIUM and _DRIVER, "there is no Chromium with chromedriver")
class BrowserTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    testing.write_network(cls.folder / "tiny", model="c3d", num_frames=16, short_side=36, crop=32)
    repository = models.Repository([models.parse_source(str(cls.folder / "tiny"))])
    cls.running = cls.enterClassContext(serving_testing.Running(repository, max_seconds=20.0))
    cls.address = f"http://127.0.0.1:{cls.running.port}/"
    cls.driver = cls.enterClassContext(browser(str(cls.folder)))
    cls.video = cls.folder / "moving.avi"
    testing.write_moving_video(cls.video, seed=1, num_frames=30)

  def test_a_video_ends_in_a_timeline(self):
    self._errors()  # those of tests before
    page = Page(self.driver, self.address)
    page.give(self.video)
    self.assertRegex(page.outcome(), r"^moving\.avi: (down|right|still), \d+\.\d %\.$")
    self.assertEqual(page.text("name"), "moving.avi")
    count = lambda selector: len(self.driver.find_elements("css selector", selector))
    self.assertEqual((count("#whole li"), count("#top li"), count("#chart polyline")), (3, 3, 3))
    self.assertEqual(count("#strip img"), 2 * 9)  # the last one of ten has no next frame
    # By keyboard: the moment moves, and screen readers are told what is seen there.
    slider = self.driver.find_element("id", "time")
    slider.send_keys("\ue010")  # End
    self.assertRegex(slider.get_attribute("aria-valuetext"), r"^1\.20 s: (down|right|still), ")
    self.driver.find_element("css selector", "[data-output=features]").click()
    saved = self.folder / "downloads" / "moving.npy"
    page.wait(saved.exists)
    self.assertEqual(np.load(saved).shape[0], count("#table tbody tr"))
    self.assertEqual(self._errors(), [])

  def test_what_cannot_be_used_ends_in_a_sentence(self):
    text = self.folder / "notes.mp4"
    text.write_text("This is no video.\n" * 100)
    long = self.folder / "long.avi"
    writer = cv2.VideoWriter(os.fspath(long), cv2.VideoWriter.fourcc(*"MJPG"), 25, (32, 32))
    for _ in range(25 * 21):
      writer.write(np.zeros((32, 32, 3), np.uint8))
    writer.release()
    page = Page(self.driver, self.address)
    page.give(text)
    said = page.outcome()
    self.assertRegex(said, r"^notes\.mp4: this is not a video.*\.$")
    page.give(long)
    page.wait(lambda: page.text("error") not in ("", said))
    self.assertEqual(page.outcome(), "long.avi: the video has 21 seconds; at most 20 are taken.")

  def test_a_lost_connection_ends_in_a_sentence(self):
    page = Page(self.driver, self.address)
    with mock.patch.object(self.running.service, "analyse", side_effect=self._hang_up):
      page.give(self.video)
      self.assertEqual(page.outcome(), "The connection to the service was lost. Is it still running? Try again.")

  def _hang_up(self, *arguments):
    for connection in list(self.running.server.server_state.connections):
      connection.transport.abort()
    raise ConnectionError

  def test_two_tabs_at_once(self):
    first = Page(self.driver, self.address)
    self.driver.switch_to.new_window("tab")
    second = Page(self.driver, self.address)
    second.give(self.video)
    self.driver.switch_to.window(first.tab)
    first.give(self.video)
    for page in (first, second):
      self.driver.switch_to.window(page.tab)
      self.assertRegex(page.outcome(), r"^moving\.avi: ")
    self.driver.close()
    self.driver.switch_to.window(first.tab)

  def test_the_camera(self):
    page = Page(self.driver, self.address)
    button = self.driver.find_element("id", "camera")
    button.click()
    page.wait(lambda: len(self.driver.find_elements("css selector", "#whole li")) == 3)
    button.click()
    self.assertEqual(page.text("status"), "The camera is off.")
    self.assertEqual(page.text("name"), "Camera")
    self.assertEqual(page.text("error"), "")

  def _errors(self) -> list[str]:
    return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]


if __name__ == "__main__":
  absltest.main()
