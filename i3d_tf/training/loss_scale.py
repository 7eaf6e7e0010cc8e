"""The factor on the loss that keeps float16 gradients within their range (Micikevicius et al., arXiv 1710.03740)."""

_START = 2.0**15
_GROWTH_INTERVAL = 2000  # steps; as in tf.keras and NVIDIA's Apex
_LOWEST = 1.0


class LossScale:
  """Halved after a step whose gradients overflowed, doubled after 2000 that did not; 1 and fixed without float16."""

  def __init__(self, *, is_used: bool):
    self._is_used = is_used
    self.value = _START if is_used else 1.0
    self._good_steps = 0

  def update(self, is_finite: bool) -> bool:
    """Takes a step's outcome; says whether one can go on: not if gradients overflow without any scaling."""
    if is_finite:
      self._good_steps += 1
      if self._is_used and self._good_steps == _GROWTH_INTERVAL:
        self.value, self._good_steps = 2 * self.value, 0
      return True
    if not self._is_used or self.value <= _LOWEST:
      return False
    self.value, self._good_steps = self.value / 2, 0
    return True

  def state(self) -> list:
    return [self.value, self._good_steps]

  def restore(self, state: list) -> None:
    self.value, self._good_steps = state
