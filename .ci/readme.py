"""Runs the commands of README.md and compares what they print with what it says.

Each fenced block marked `sh` is run as a script in the project's root; a block marked `sh not-run` is not. Where a
`text` block follows, every line of it must be printed, in that order; numbers may differ in the third figure, and a
line `...` stands for anything.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d+\.\d+")


def main() -> int:
  blocks = [(kind, info.strip(), body) for kind, info, body in _BLOCK.findall((ROOT / "README.md").read_text())]
  failed = 0
  for index, (kind, info, body) in enumerate(blocks):
    if kind != "sh" or info == "not-run" or "run_tests.sh" in body:  # which is running us
      continue
    following = blocks[index + 1] if index + 1 < len(blocks) else ("", "", "")
    expected = following[2].splitlines() if following[0] == "text" else []
    failed += not _run(body, expected)
  print(f"README.md: {'all commands do as it says' if not failed else f'{failed} command blocks do not'}")
  return int(failed > 0)


def _run(script: str, expected: list[str]) -> bool:
  print(f"README.md: running {script.strip()}", flush=True)
  done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
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
  """Equal but for numbers, which are equal to 1 %, and for white space."""
  if _NUMBER.sub("#", line).split() != _NUMBER.sub("#", other).split():
    return False
  pairs = zip(_NUMBER.findall(line), _NUMBER.findall(other), strict=True)
  return all(abs(float(a) - float(b)) <= 0.01 * max(abs(float(a)), abs(float(b)), 1e-3) for a, b in pairs)


if __name__ == "__main__":
  sys.exit(main())
