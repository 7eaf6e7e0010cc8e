"""Lists the programs. See `--help`."""

import ast
from collections.abc import Iterator
import pathlib

from i3d_tf import cli

USAGE = """Lists the programs of this package.

  python -m i3d_tf

`python -m i3d_tf.NAME --help` shows the flags of a program."""

_PACKAGE = pathlib.Path(__file__).parent


def main(arguments: list[str]) -> None:
  """Prints a line for each program."""
  del arguments
  programs = dict(_programs())
  width = max(map(len, programs))
  for name, summary in programs.items():
    print(f"python -m i3d_tf.{name:{width}}  {summary}")
  print("\n--help after any of them shows its flags.")


def _programs() -> Iterator[tuple[str, str]]:
  """The name and the first sentence of the usage of every program; the modules are read, not imported."""
  for path in sorted([*_PACKAGE.glob("*.py"), *_PACKAGE.glob("*/__main__.py")]):
    if path == pathlib.Path(__file__):
      continue
    for statement in ast.parse(path.read_bytes()).body:
      if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "USAGE":
        texts = [
          node.value for node in ast.walk(statement.value) if isinstance(node, ast.Constant)
        ]  # of f"..." several
        first = " ".join(str(texts[0]).partition("\n\n")[0].split())
        name = path.parent.name if path.stem == "__main__" else path.stem
        yield name, first.partition(". ")[0].removesuffix(".") + "."


def run() -> None:
  """The console script."""
  cli.run(main, usage=USAGE)


if __name__ == "__main__":
  run()
