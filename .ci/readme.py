"""Runs the commands of the README and of the manuals, and compares what they print with what the documents say.

Each fenced block marked `sh` or `python` is run; one marked `not-run`, too, is not. The first one, the quickstart, runs
before all others; then sections (`##`) run at the same time, and the blocks of a section one after the other. All run
in one temporary folder, which holds links to the recipes and to quickstart.sh, a `clip.mp4` and, once the
quickstart made them, `my_videos`. So they neither read nor change what a user's own runs made, and several checks can
run at the same time. A block marked `sh train: --num_steps=2; evaluate: --split=train` gets these flags
added to its calls of these programs, which makes long work short.

Where a `text` block follows, each of its lines must be what a printed line ends with or begins with, in that order;
numbers may differ by 1 %. A line `...` says that something is left out.
"""

from collections.abc import Sequence
from concurrent import futures
import contextlib
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The first block of the first one is the quickstart, which makes what the other examples use.
DOCUMENTS = ("README.md", "data/README.md", "checkpoints/README.md", "experiments/README.md")
_LINKED = (".ci", "experiments", "quickstart.sh")  # what commands name by a path relative to the project's folder
_COMMANDS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
_BLOCK = re.compile(r"^( *)```(\w+)([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d+\.\d+")
_TIME_LIMIT = 1800  # seconds for a block
_SECTIONS_AT_A_TIME = 2
_running: set[subprocess.Popen] = set()


class Block(NamedTuple):
  """A block to run, and the lines that a document says it prints."""

  document: str
  kind: str
  script: str
  expected: list[str]


def main() -> int:
  """Runs every block.

  Returns:
    The exit status: 1 if a block failed or printed something else than expected.
  """
  sections = [part for document in DOCUMENTS for part in read(document, (ROOT / document).read_text("utf-8"))]
  (quickstart, *rest), *others = sections
  started = time.monotonic()
  with tempfile.TemporaryDirectory(prefix="i3d_tf_documents_") as name:
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, functools.partial(_end, name))
    environment = prepare(pathlib.Path(name))
    failed = run([quickstart], pathlib.Path(name), environment)
    with futures.ThreadPoolExecutor(_SECTIONS_AT_A_TIME) as pool:
      failed += sum(pool.map(lambda section: run(section, pathlib.Path(name), environment), [rest, *others]))
  total = sum(map(len, sections))
  ending = f"{failed} of {total} command blocks do not" if failed else f"all {total} command blocks do as they say"
  print(f"{', '.join(DOCUMENTS)}: {ending} ({time.monotonic() - started:.0f} s)")
  return int(failed > 0)


def read(document: str, text: str) -> list[list[Block]]:
  """Finds the blocks to run.

  Args:
    document: the name of the document, for messages.
    text: its Markdown.

  Returns:
    For each section (`##`) that has any, the blocks in their order, with flags added as their marks say.
  """
  sections = []
  for section in re.split(r"^## ", text, flags=re.MULTILINE):
    found = [(kind, info.strip(), textwrap.dedent(body)) for _, kind, info, body in _BLOCK.findall(section)]
    blocks = []
    for (kind, info, body), (next_kind, _, output) in zip(found, [*found[1:], ("", "", "")]):
      if kind in _COMMANDS and info != "not-run":
        expected = output.splitlines() if next_kind == "text" else []
        blocks.append(Block(document, kind, _add_flags(body, info), expected))
    if blocks:
      sections.append(blocks)
  return sections


def prepare(folder: pathlib.Path) -> dict[str, str]:
  """Fills the folder that the blocks run in.

  Args:
    folder: an empty folder.

  Returns:
    The environment variables to run them with.
  """
  for name in _LINKED:
    (folder / name).symlink_to(ROOT / name)
  cache = pathlib.Path(os.environ.get("I3D_CACHE") or "~/.cache/i3d_tf").expanduser().resolve()
  # These links dangle until the quickstart has fetched the clip and made the videos, of which two classes will do.
  (folder / "clip.mp4").symlink_to(cache / "bigbuckbunny.mp4")
  for split in ("train", "test"):
    (folder / "my_videos" / split).mkdir(parents=True)
    for label in ("spin", "sway"):
      (folder / "my_videos" / split / label).symlink_to(folder / "quickstart" / "videos" / split / label)
  (folder / "tmp").mkdir()
  return os.environ | {
    "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    "PYTHONPATH": str(ROOT),
    "TMPDIR": str(folder / "tmp"),
    "QUICKSTART_ENVIRONMENT": "active",
    "QUICKSTART_FOLDER": "quickstart",
    "QUICKSTART_CLIPS": "2",
    "QUICKSTART_TEST_CLIPS": "1",
    "QUICKSTART_FLAGS": "--num_steps=2",
  }


def run(blocks: Sequence[Block], folder: pathlib.Path, environment: dict[str, str]) -> int:
  """Runs blocks one after the other, and prints each with its time, or what is wrong with it.

  Args:
    blocks: the blocks.
    folder: the folder to run them in.
    environment: their environment variables.

  Returns:
    How many failed or printed something else than expected.
  """
  failed = 0
  for block in blocks:
    started = time.monotonic()
    problem = _find_problem(block, folder, environment)
    seconds = time.monotonic() - started
    ending = f"FAILED\n{problem}" if problem else "passed"
    print(f"{block.document}, {seconds:.0f} s: {block.script.strip()}\n{ending}", flush=True)
    failed += problem is not None
  return failed


def _find_problem(block: Block, folder: pathlib.Path, environment: dict[str, str]) -> str | None:
  command = [*_COMMANDS[block.kind], block.script]
  process = subprocess.Popen(
    command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    start_new_session=True,  # so that what the block starts can be ended with it
  )  # fmt: skip
  _running.add(process)
  try:
    output, messages = process.communicate(timeout=_TIME_LIMIT)
  except subprocess.TimeoutExpired:
    _kill(process)
    process.communicate()
    return f"not done in {_TIME_LIMIT} s"
  finally:
    _running.discard(process)
  if process.returncode:
    return f"exit status {process.returncode}\n{output}{messages}"
  printed = iter(output.splitlines())
  for line in block.expected:
    if line.strip() in ("", "..."):
      continue
    if not any(_same(line, other) for other in printed):
      return f"the document says {line!r}; printed was\n{output}"
  return None


def _kill(process: subprocess.Popen) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)


def _end(folder: str, signal_number: int, frame: types.FrameType | None) -> None:
  """Ends what is running, removes the folder and exits; a signal handler."""
  del frame
  for process in list(_running):
    _kill(process)
  shutil.rmtree(folder, ignore_errors=True)
  os._exit(128 + signal_number)


def _add_flags(script: str, info: str) -> str:
  """Adds `FLAGS` to each call of `PROGRAM` for every `PROGRAM: FLAGS` of the mark `info`."""
  for part in filter(None, info.split(";")):
    program, _, flags = part.partition(":")
    call = rf"(python -m i3d_tf\.{re.escape(program.strip())}\b(?:\\\n|[^\n])*)"
    script, count = re.subn(call, rf"\g<1> {flags.strip()}", script)
    if not count:
      raise ValueError(f"a block is marked {info!r}, but does not call {program.strip()}:\n{script}")
  return script


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
