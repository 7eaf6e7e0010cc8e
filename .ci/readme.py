"""Runs the commands of README.md and compares what they print with what it says.

Each fenced block marked `sh` or `python` is run in the project's root; one marked `not-run`, too, is not. Where a
`text` block follows, each of its lines must be what a printed line ends with or begins with, in that order; numbers
may differ by 1 %. A line `...` says that something is left out.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The quickstart, which comes first, fetches this clip; it stands for the user's in Python examples.
CLIP = pathlib.Path(os.environ.get("I3D_CACHE") or "~/.cache/i3d_tf").expanduser() / "bigbuckbunny.mp4"
# The quickstart trains for minutes; a few steps show that its commands work.
_ENVIRONMENT = os.environ | {"QUICKSTART_CLIPS": "4", "QUICKSTART_FLAGS": "--num_steps=4"}
_COMMANDS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d+\.\d+")


def main() -> int:
  blocks = [(kind, info.strip(), body) for kind, info, body in _BLOCK.findall((ROOT / "README.md").read_text())]
  failed = 0
  for index, (kind, info, body) in enumerate(blocks):
    if kind not in _COMMANDS or info == "not-run" or "run_tests.sh" in body:  # which is running us
      continue
    following = blocks[index + 1] if index + 1 < len(blocks) else ("", "", "")
    expected = following[2].splitlines() if following[0] == "text" else []
    failed += not _run(body, [*_COMMANDS[kind], body.replace("clip.mp4", str(CLIP))], expected)
  print(f"README.md: {'all commands do as it says' if not failed else f'{failed} command blocks do not'}")
  return int(failed > 0)


def _run(script: str, command: list[str], expected: list[str]) -> bool:
  print(f"README.md: running {script.strip()}", flush=True)
  done = subprocess.run(command, cwd=ROOT, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
  if done.returncode:
    print(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return False
  printed = iter(done.stdout.splitlines())
  for line in expected:
    if line.strip() in ("", "..."):
      continue
    if not any(_same(line, other) for other in printed):
      print(f"README.md says {line!r}; printed was\n{done.stdout}")
      return False
  return True


def _same(line: str, other: str) -> bool:
  """Whether `other` begins or ends with `line`, but for white space and small differences of numbers."""
  wanted, printed = line.split(), other.split()
  size = len(wanted)
  return any(len(part) == size and all(map(_same_word, wanted, part)) for part in (printed[:size], printed[-size:]))


def _same_word(wanted: str, printed: str) -> bool:
  if wanted == printed or printed.endswith(f"/{wanted}"):
    return True
  if not (_NUMBER.fullmatch(wanted) and _NUMBER.fullmatch(printed)):
    return False
  return abs(float(wanted) - float(printed)) <= 0.01 * max(abs(float(wanted)), 1e-3)


if __name__ == "__main__":
  sys.exit(main())
