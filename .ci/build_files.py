"""Derives each package's BUILD file from its Python files, then checks or writes it.

A package is one library, one test for each test file, and one suite of them; the dependencies follow from the imports.
The folder i3d_tf itself has two libraries, `core`, on which all packages build, and `testing`, and a program for each
main. So nobody edits the packages' BUILD files by hand:

  python3 .ci/build_files.py --check   names what differs; the exit status is 1 if anything does
  python3 .ci/build_files.py --write   brings the files up to date

Packages may not depend on each other in a circle. Beside imports, at any depth, a string that is exactly the dotted
name of one of our modules makes a dependency: lazy imports, and programs that a test starts.
"""

import argparse
import ast
from collections.abc import Collection, Iterator, Mapping
import dataclasses
import difflib
import graphlib
import json
import pathlib
import re
import sys

PACKAGE = "i3d_tf"
CORE, TESTING = f"//{PACKAGE}:core", f"//{PACKAGE}:testing"
DATA = ("//checkpoints", "//data")  # what `resources.path` finds
TEST_ONLY = ("conftest", "testing")
DISTRIBUTIONS = {  # by import name, where it is another
  "PIL": "pillow",
  "absl": "absl-py",
  "ai_edge_litert": "ai-edge-litert",
  "apache_beam": "apache-beam",
  "cv2": "opencv-contrib-python-headless",
  "google_crc32c": "google-crc32c",
  "grpc": "grpcio",
  "prometheus_client": "prometheus-client",
  "python_multipart": "python-multipart",
  "sklearn": "scikit-learn",
  "sonnet": "dm-sonnet",
  "tensorflow_datasets": "tensorflow-datasets",
  "tensorflow_serving": "tensorflow-serving-api",
}
SAME_NAME = (
  "av dask distributed fastapi filelock fsspec h5py jinja2 llvmlite matplotlib nncf numba numpy onnx"
  " onnxruntime openvino pooch pydantic s3fs scipy selenium starlette tensorflow tf2onnx threadpoolctl torch"
  " torchvision tqdm uvicorn yaml"
).split()
HEADER = """# Derived from the Python files: after adding a file or an import, run .ci/build_files.py --write.

load("@pypi//:requirements.bzl", "requirement")
load("@rules_python//python:defs.bzl", {rules})

package(default_visibility = ["//visibility:public"])
"""
PROGRAMS = """[
    py_binary(
        name = main,
        srcs = [main + ".py"],
        deps = [
{deps}        ],
    )
    for main in [
{mains}    ]
]
"""
TESTS = """[
    py_test(
        name = test[:-3],
        srcs = [test],
        deps = [
{deps}        ],
    )
    for test in glob(["*_test.py"])
]

test_suite(name = "tests")
"""


class BuildError(ValueError):
  """A Python file, or a circle of packages, from which no target can be derived."""


@dataclasses.dataclass(frozen=True)
class Module:
  """One Python file, and what it uses.

  Attributes:
    path: below the root.
    is_main: whether it can be started.
    modules: the modules of ours that it imports, by dotted name.
    distributions: the packages of the registry that it imports.
  """

  path: pathlib.Path
  is_main: bool
  modules: frozenset[str]
  distributions: frozenset[str]

  @property
  def is_test(self) -> bool:
    return self.path.stem.endswith("_test")

  @property
  def label(self) -> str:
    """The library or program that the file is in."""
    folder = self.path.parent.as_posix()
    if folder != PACKAGE:
      return f"//{folder}"
    if self.path.stem in TEST_ONLY:
      return TESTING
    return f"//{PACKAGE}:{self.path.stem}" if self.is_main else CORE


def read_modules(root: pathlib.Path) -> dict[str, Module]:
  """Reads all Python files of the package below `root`, by dotted name; BuildError if one makes no sense."""
  paths = sorted(path.relative_to(root) for path in (root / PACKAGE).rglob("*.py"))
  names = [".".join((path.parent if path.name == "__init__.py" else path.with_suffix("")).parts) for path in paths]
  return {name: _read_module(root, path, names) for name, path in zip(names, paths, strict=True)}


def _read_module(root: pathlib.Path, path: pathlib.Path, known: Collection[str]) -> Module:
  source = (root / path).read_text(encoding="utf-8")
  try:
    nodes = list(ast.walk(ast.parse(source)))
  except SyntaxError as error:
    raise BuildError(f"{path}:{error.lineno}: {error.msg}") from None
  modules, distributions = set(), set()
  for node in nodes:
    for name in _imports(node, known):
      top = name.partition(".")[0]
      if name in known:
        modules.add(name)
      elif top in DISTRIBUTIONS or top in SAME_NAME:
        distributions.add(DISTRIBUTIONS.get(top, top))
      elif top not in sys.stdlib_module_names:
        raise BuildError(
          f"{path}:{node.lineno}: imports {name}, which is no module of this tree or of the standard library; "
          "a third-party one belongs in DISTRIBUTIONS of .ci/build_files.py"
        )
  is_main = re.search(r"^if __name__ == .__main__.:", source, re.MULTILINE) is not None
  return Module(path, is_main, frozenset(modules), frozenset(distributions))


def _imports(node: ast.AST, known: Collection[str]) -> Iterator[str]:
  match node:
    case ast.Import():
      yield from (alias.name for alias in node.names)
    case ast.ImportFrom():
      source = "." * node.level + (node.module or "")
      for alias in node.names:
        yield full if (full := f"{source}.{alias.name}") in known else source
    case ast.Constant(str(text)) if "." in text and text in known:
      yield text


def build_files(root: pathlib.Path) -> dict[str, str]:
  """Returns the content of every package's BUILD file, by path below `root`; BuildError for a circle of packages."""
  modules = read_modules(root)
  _check_circles(modules)
  files = {}
  for folder in sorted({module.path.parent for module in modules.values()}):
    here = [module for module in modules.values() if module.path.parent == folder]
    blocks = (
      _root_blocks(here, modules) if folder.as_posix() == PACKAGE else _package_blocks(here, modules, root / folder)
    )
    rules = sorted(set(re.findall(r"^\s*(py_\w+)\(", "\n".join(blocks), re.MULTILINE)))
    header = HEADER.format(rules=", ".join(f'"{rule}"' for rule in rules))
    if not any("requirement(" in block for block in blocks):
      header = re.sub(r"load\(.@pypi.*\n", "", header)
    files[f"{folder.as_posix()}/BUILD"] = "\n".join([header, *blocks])
  return files


def _package_blocks(here: list[Module], modules: Mapping[str, Module], folder: pathlib.Path) -> list[str]:
  sources = [module for module in here if not module.is_test]
  files = 'glob(["*.py"], exclude = ["*_test.py"])'
  data = [pattern for pattern in ("*.jinja", "page/*") if list(folder.glob(pattern))]
  templates = f"glob({json.dumps(data)})" if data else ""
  library = _library(folder.name, _deps(sources, modules), files, templates)
  return [library, *_tests(here, modules)]


def _root_blocks(here: list[Module], modules: Mapping[str, Module]) -> list[str]:
  of = lambda label: [module for module in here if module.label == label and not module.is_test]
  names = lambda files: "[\n" + "".join(f'        "{module.path.name}",\n' for module in files) + "    ]"
  core, testing = of(CORE), of(TESTING)
  mains = [module for module in here if module.is_main and not module.is_test]
  blocks = (
    [
      _library(
        "core", _deps(core, modules), names(core), "[\n" + "".join(f'        "{label}",\n' for label in DATA) + "    ]"
      )
    ]
    if core
    else []
  )
  if homes := modules[PACKAGE].modules:  # all of them together are the library
    labels = ['":core"', *sorted({f'"{modules[name].label}"' for name in homes})]
    blocks.append(_library(PACKAGE, labels, "[]"))
  if testing:
    blocks.append(_library("testing", _deps(testing, modules), names(testing)))
  if mains:
    deps = "".join(f"            {dep},\n" for dep in _deps(mains, modules, without={each.label for each in mains}))
    listed = "".join(f'        "{module.path.stem}",\n' for module in mains)
    blocks.append(PROGRAMS.format(deps=deps, mains=listed))
  return blocks + _tests(here, modules)


def _library(name: str, deps: list[str], sources: str, data: str = "") -> str:
  lines = [f'name = "{name}"', f"srcs = {sources}"]
  if data:
    lines.append(f"data = {data}")
  if len(deps) == 1:
    lines.append(f"deps = [{deps[0]}]")
  elif deps:
    lines.append("deps = [\n" + "".join(f"        {item},\n" for item in deps) + "    ]")
  return "py_library(\n" + "".join(f"    {line},\n" for line in lines) + ")\n"


def _tests(here: list[Module], modules: Mapping[str, Module]) -> list[str]:
  tests = [module for module in here if module.is_test]
  if not tests:
    return []
  deps = "".join(f"            {dep},\n" for dep in _deps(tests, modules, own=True))
  return [TESTS.format(deps=deps)]


def _deps(
  sources: Collection[Module], modules: Mapping[str, Module], *, own: bool = False, without: Collection[str] = ()
) -> list[str]:
  """The labels and requirements that some files need, without what comes with another of them.

  Those of their own library are left out, too, unless `own`.
  """
  graph = _graph(modules)
  labels = {modules[name].label for module in sources for name in _needed(module, modules)}
  library = f"//{next(iter(sources)).path.parent.as_posix()}"
  labels |= {library} & graph.keys() if own else set()
  labels -= set(without) | ({module.label for module in sources} if not own else set())
  below = {label: _reachable(label, graph) for label in labels}
  labels = {label for label in labels if not any(label in below[other] for other in labels - {label})}
  come = labels.union(*(below[label] for label in labels))
  brought = {
    name for module in modules.values() if module.label in come and not module.is_test for name in module.distributions
  }
  here = next(iter(sources)).path.parent.as_posix()
  short = lambda label: label.removeprefix(f"//{here}") if label.startswith(f"//{here}:") else label
  if own and f"//{here}" in labels:
    labels = labels - {f"//{here}"} | {f"//{here}:{here.rpartition('/')[2]}"}
  found = [f'"{label}"' for label in sorted(map(short, labels), key=lambda s: (s[0] != ":", s.replace(":", ".")))]
  requirements = sorted({distribution for module in sources for distribution in module.distributions} - brought)
  return found + [f'requirement("{distribution}")' for distribution in requirements]


def _needed(module: Module, modules: Mapping[str, Module]) -> list[str]:
  """The modules that a file depends on.

  A program that a library starts is none: it builds on that library. Nor are the homes of the public names, which the
  package imports when they are asked for.
  """
  if module.path.as_posix() == f"{PACKAGE}/__init__.py":
    return []
  is_library = not module.is_main and not module.is_test
  return [name for name in module.modules if not modules[name].is_test and not (is_library and modules[name].is_main)]


def _graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
  """The libraries and programs that each library or program needs."""
  graph: dict[str, set[str]] = {}
  for module in modules.values():
    if not module.is_test:
      graph.setdefault(module.label, set()).update(modules[name].label for name in _needed(module, modules))
  return {label: needed - {label} for label, needed in graph.items()}


def _reachable(label: str, graph: Mapping[str, set[str]]) -> set[str]:
  """All that comes with a library or program."""
  found: set[str] = set()
  waiting = [label]
  while waiting:
    new = graph.get(waiting.pop(), set()) - found
    found |= new
    waiting += new
  return found


def _check_circles(modules: Mapping[str, Module]) -> None:
  """Raises BuildError if libraries depend on each other in a circle."""
  try:
    graphlib.TopologicalSorter(_graph(modules)).prepare()
  except graphlib.CycleError as error:
    raise BuildError(f"packages depend on each other in a circle: {' <- '.join(error.args[1])}") from None


def differences(root: pathlib.Path) -> Iterator[str]:
  """Yields a line for each BUILD file below `root` that is not as derived, and for each line that differs."""
  wanted = build_files(root)
  present = {path.relative_to(root).as_posix(): path for path in (root / PACKAGE).rglob("BUILD")}
  for path in sorted(wanted | present):
    if path not in wanted:
      yield f"{path}: no Python file is beside it; delete it"
    elif path not in present:
      yield f"{path}: missing"
    else:
      text = present[path].read_text(encoding="utf-8")
      changes = difflib.ndiff(text.splitlines(), wanted[path].splitlines())
      yield from (f"{path}: {line}" for line in changes if line[0] in "+-")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  mode = parser.add_mutually_exclusive_group()
  mode.add_argument("--check", action="store_true", help="only name what differs (default)")
  mode.add_argument("--write", action="store_true", help="write the BUILD files")
  args = parser.parse_args()
  root = pathlib.Path(__file__).resolve().parents[1]
  try:
    if args.write:
      for path, text in build_files(root).items():
        (root / path).write_text(text, encoding="utf-8")
    found = list(differences(root))
  except BuildError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print("\n".join(found) or "The BUILD files agree with the Python files.")
  if found and not args.write:
    print("To mend this, run: python3 .ci/build_files.py --write")
  return int(bool(found))


if __name__ == "__main__":
  sys.exit(main())
