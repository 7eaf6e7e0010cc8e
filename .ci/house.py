"""Counts what keeps the house in order, and fails where a bound is exceeded.

  python3 .ci/house.py            prints the table
  python3 .ci/house.py --check    also exits with status 1 if a figure is beyond its bound
  python3 .ci/house.py --tree=DIR counts another checkout

Modules are all Python files of the package but tests and what only tests use (testing.py, conftest.py). A library is a
module that is no program; a public function has no leading underscore, nor has its class. Its docstring is full if it
has a summary, `Args:` where it takes arguments, and `Returns:` or `Yields:`, or a summary that begins so, where it
returns something; a property needs its summary only.
"""

import argparse
import ast
from collections.abc import Iterator
import pathlib
import re
import subprocess
import sys
from typing import Any

BOUNDS = {
  "modules": 188,
  "lines": 46_500,  # 20,000 is where they should arrive
  "lines of BUILD files": 700,
  "modules that load a checkpoint and compile it": 1,
  "modules that scale frames to a network's input": 1,
  "own lock implementations": 0,
  "declarations of frame_stride": 1,
  "library messages that name flags": 0,
  "public functions without a full docstring": 0,
  "mypy errors": 0,
}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z_]+")
_FACES = ("i3d_tf/cli.py",)  # which parses flags, and may name them
_TESTS = ("_test.py", "testing.py", "conftest.py")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--check", action="store_true", help="fail where a figure is beyond its bound")
  parser.add_argument("--tree", default=pathlib.Path(__file__).resolve().parents[1], type=pathlib.Path)
  parser.add_argument("--show", help="print the places of one figure, by a part of its name")
  args = parser.parse_args()
  found = count(args.tree)
  if args.show:
    print("\n".join(place for name, places in found.items() if args.show in name for place in map(str, places)))
    return 0
  figures = {name: places if isinstance(places, int) else len(places) for name, places in found.items()}
  for name, figure in figures.items():
    print(f"{name:50} {figure:7,}   at most {BOUNDS[name]:,}")
  beyond = [name for name, figure in figures.items() if figure > BOUNDS[name]]
  if beyond and args.check:
    print(f"beyond its bound: {', '.join(beyond)}; .ci/house.py --show=NAME lists the places", file=sys.stderr)
  return int(bool(beyond and args.check))


def count(tree: pathlib.Path) -> dict[str, Any]:
  """Returns the figures, or the places that they count, by name."""
  paths = sorted(path for path in (tree / "i3d_tf").rglob("*.py") if not path.name.endswith(_TESTS))
  sources = {path.relative_to(tree).as_posix(): path.read_text(encoding="utf-8") for path in paths}
  library = {path: text for path, text in sources.items() if not _is_main(text) and not path.endswith(_FACES)}
  has = lambda *patterns: [path for path, text in library.items() if all(re.search(p, text) for p in patterns)]
  builds = [path for path in tree.rglob("BUILD") if not {".venv", ".git"} & set(path.parts)]
  return {
    "modules": len(sources),
    "lines": sum(len(text.splitlines()) for text in sources.values()),
    "lines of BUILD files": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in builds),
    "modules that load a checkpoint and compile it": has(r"\btf\.function\(", r"\b(saved\.load|release\.assign)\("),
    "modules that scale frames to a network's input": has(r"\btf\.quantization\.dequantize\(|/ 255 - 1\b"),
    "own lock implementations": has(r"\bimport fcntl\b|\bflock\("),
    "declarations of frame_stride": [place for item in sources.items() for place in _declarations(*item)],
    "library messages that name flags": [place for item in library.items() for place in _messages(*item)],
    "public functions without a full docstring": [place for item in sources.items() for place in _undocumented(*item)],
    "mypy errors": _mypy(tree),
  }


def _declarations(path: str, text: str) -> Iterator[str]:
  """The fields and flags named frame_stride."""
  for node in ast.walk(ast.parse(text)):
    bodies = node.body if isinstance(node, ast.ClassDef) else []
    fields = [each for each in bodies if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == "frame_stride"]
    yield from (f"{path}:{field.lineno}: a field" for field in fields)
    is_flag = isinstance(node, ast.Call) and _called(node).startswith("DEFINE_")
    if is_flag and any(isinstance(each, ast.Constant) and each.value == "frame_stride" for each in node.args):
      yield f"{path}:{node.lineno}: a flag"


def _is_main(text: str) -> bool:
  return re.search(r"^if __name__ == .__main__.:", text, re.MULTILINE) is not None


def _messages(path: str, text: str) -> Iterator[str]:
  """The strings with a flag's name that are raised, printed or logged: all but docstrings and commands."""
  tree = ast.parse(text)
  docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
  for node in ast.walk(tree):
    if isinstance(node, ast.Raise) or (
      isinstance(node, ast.Call) and _called(node) in ("print", "warning", "info", "_say")
    ):
      for part in ast.walk(node):
        is_text = isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in docs
        if is_text and _FLAG.search(part.value):
          yield f"{path}:{part.lineno}: {part.value.strip()}"


def _called(call: ast.Call) -> str:
  return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _undocumented(path: str, text: str) -> Iterator[str]:
  is_program = _is_main(text)

  def visit(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
      if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        yield from visit(node.body, f"{node.name}.")
      elif isinstance(node, Function) and not (
        node.name.startswith("_") or is_program and node.name == "main" or _is_full(node)
      ):
        yield f"{path}:{node.lineno}: {prefix}{node.name}"

  yield from visit(ast.parse(text).body, "")


def _is_full(function: Function) -> bool:
  doc = ast.get_docstring(function) or ""
  decorators = [ast.unparse(each) for each in function.decorator_list]
  if any("property" in each for each in decorators):
    return bool(doc)
  if any(each.endswith((".setter", "overload")) for each in decorators):
    return True
  arguments = function.args
  names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
  takes = [name for name in names if name not in ("self", "cls")] or arguments.vararg or arguments.kwarg
  returns = function.returns is not None and ast.unparse(function.returns) not in ("None", "'None'")
  returns = returns and not doc.startswith("Returns ") and not doc.startswith("Yields ")
  has_returns = not returns or "Returns:" in doc or "Yields:" in doc
  return bool(doc) and (not takes or "Args:" in doc) and has_returns


def _mypy(tree: pathlib.Path) -> list[str]:
  done = subprocess.run([sys.executable, "-m", "mypy"], cwd=tree, capture_output=True, text=True, check=False)
  return [line for line in done.stdout.splitlines() if ": error:" in line] + done.stderr.splitlines()


if __name__ == "__main__":
  sys.exit(main())
