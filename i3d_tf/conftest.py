"""pytest runs tests without absl's main, which would parse the flags."""

from absl import flags

flags.FLAGS.mark_as_parsed()
