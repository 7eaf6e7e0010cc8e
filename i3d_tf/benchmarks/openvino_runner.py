"""Runs a frozen graph in OpenVINO once per line on standard input, and prints the seconds that each run took.

`network.py` starts this file with an interpreter that has openvino and numpy and that need not have TensorFlow, so it
imports nothing of this package. Arguments: the file of the graph, then the extents of the clip.
"""

import sys
import time

import numpy as np
import openvino


def _main() -> None:
  graph, *shape = sys.argv[1:]
  core = openvino.Core()
  # Some processors would otherwise compute in bfloat16.
  compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
  request = compiled.create_infer_request()
  clip = np.random.default_rng(0).uniform(-1, 1, list(map(int, shape))).astype(np.float32)
  for _ in sys.stdin:
    start = time.perf_counter()
    request.infer([clip])
    print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
  _main()
