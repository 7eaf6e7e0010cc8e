"""How trained networks are run, as frozen data. The fields are flags of programs; nothing here imports TensorFlow."""

import dataclasses

from i3d_tf import errors
from i3d_tf import fields

PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")
ENGINES = ("tensorflow", "openvino")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceConfig:
  """How networks are run.

  Attributes:
    precision: Type of convolutions and activations. bfloat16 is up to three times as fast where the processor has
      matrix units (AMX), and moves logits by about 1 %; auto measures once on each machine which of float32 and
      bfloat16 is faster; float16 is for GPUs, int8 for networks that were exported so to OpenVINO.
    engine: What computes: tensorflow, or openvino for what was exported to it.
  """

  precision: str = fields.option("float32", choices=PRECISIONS)
  engine: str = fields.option("tensorflow", choices=ENGINES)

  def __post_init__(self):
    fields.check(self)
    if self.engine == "openvino" and self.precision == "float16":
      raise errors.I3dError("precision float16 is for the engine tensorflow on a GPU, not for openvino")

  def changes(self) -> dict[str, str]:
    """Returns these options where they are not the defaults, which what older versions made does not state."""
    return fields.changes(self, FIELDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamConfig:
  """How a live source is classified.

  Attributes:
    window: Frames of a prediction, at the network's frame rate.
    hop: Frames from one prediction to the next.
    flow_budget: Milliseconds that the flow of a frame may take on average, by the clock and divided by the pairs of
      frames that are computed at once (--threads, up to 4); where it takes more, or frames pile up, it is computed at
      three quarters of the resolution, then also with 2 warps, then at half, then at half with 2 warps, then at a
      quarter. 0: always in full.
    buffer: Frames that wait for the flow, at most; older ones are dropped.
    stall: Seconds without a frame after which the source is given up.
  """

  window: int = fields.option(64, least=1)
  hop: int = fields.option(32, least=1)
  flow_budget: float = fields.option(0.0, least=0)
  buffer: int = fields.option(50, least=1)
  stall: float = fields.option(10.0, above=0)

  def __post_init__(self):
    fields.check(self)


FIELDS = tuple(field.name for field in dataclasses.fields(InferenceConfig))
