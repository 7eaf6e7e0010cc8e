"""Derives each package's BUILD file from its Python files, then checks or writes it.

A target is a fact of its module: the rule follows from the file (library, main or test), the dependencies
from its imports. So nobody edits the packages' BUILD files by hand:

  python3 .ci/build_files.py --check   names what differs; the exit status is 1 if anything does
  python3 .ci/build_files.py --write   brings the files up to date

Two things beside imports, at any depth, make a dependency: a string that is exactly the dotted name of one of
our modules (lazy imports, programs that a test starts), and `path("data", ...)`, the one way to the data folders.
"""

import argparse
import ast
from collections.abc import Collection, Iterator
import dataclasses
import pathlib
import re
import sys

PACKAGE = "i3d_tf"
DATA_FOLDERS = ("checkpoints", "data")
DISTRIBUTIONS = {  # by import name
  "PIL": "pillow",
  "absl": "absl-py",
  "ai_edge_litert": "ai-edge-litert",
  "apache_beam": "apache-beam",
  "av": "av",
  "cv2": "opencv-contrib-python-headless",
  "filelock": "filelock",
  "google_crc32c": "google-crc32c",
  "grpc": "grpcio",
  "jinja2": "jinja2",
  "llvmlite": "llvmlite",
  "matplotlib": "matplotlib",
  "numba": "numba",
  "numpy": "numpy",
  "onnx": "onnx",
  "onnxruntime": "onnxruntime",
  "openvino": "openvino",
  "pooch": "pooch",
  "scipy": "scipy",
  "sklearn": "scikit-learn",
  "sonnet": "dm-sonnet",
  "tensorflow": "tensorflow",
  "tensorflow_datasets": "tensorflow-datasets",
  "tensorflow_serving": "tensorflow-serving-api",
  "tf2onnx": "tf2onnx",
  "torch": "torch",
  "tqdm": "tqdm",
}
SLOW = {"dm-sonnet", "numba", "tensorflow", "tensorflow-datasets"}  # to import or compile; a test without them is small
HEADER = """# Derived from the Python files: after adding a file or an import, run .ci/build_files.py --write.

{loads}

package(default_visibility = ["//visibility:public"])
"""


class BuildError(ValueError):
  """A Python file from which no target can be derived."""


@dataclasses.dataclass(frozen=True)
class Module:
  """One Python file, what it is and what it uses."""

  path: pathlib.Path  # below the root
  rule: str
  modules: frozenset[str]  # of ours, by dotted name
  distributions: frozenset[str]
  data: frozenset[str]

  @property
  def target(self) -> str:
    return self.path.parent.name if self.path.name == "__init__.py" else self.path.stem

  def label(self, package: pathlib.Path) -> str:
    """The shortest label of this module's target in the BUILD file of `package`."""
    here = self.path.parent
    if here == package:
      return f":{self.target}"
    return f"//{here.as_posix()}" if here.name == self.target else f"//{here.as_posix()}:{self.target}"


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
  modules, distributions, data = set(), set(), set()
  for node in nodes:
    data.update(_data_folders(node))
    for name in _imports(node, known):
      top = name.partition(".")[0]
      if name in known:
        modules.add(name)
      elif top in DISTRIBUTIONS:
        distributions.add(DISTRIBUTIONS[top])
      elif top not in sys.stdlib_module_names:
        raise BuildError(
          f"{path}:{node.lineno}: imports {name}, which is no module of this tree or of the standard library; "
          "a third-party one belongs in DISTRIBUTIONS of .ci/build_files.py"
        )
  is_main = re.search(r"^if __name__ == .__main__.:", source, re.MULTILINE)
  rule = "py_test" if path.stem.endswith("_test") else "py_binary" if is_main else "py_library"
  return Module(path, rule, frozenset(modules), frozenset(distributions), frozenset(data))


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


def _data_folders(node: ast.AST) -> Iterator[str]:
  match node:
    case ast.Call(ast.Name("path") | ast.Attribute(attr="path"), [ast.Constant(folder), *_]) if folder in DATA_FOLDERS:
      yield folder


def build_files(root: pathlib.Path) -> dict[str, str]:
  """Returns the content of every package's BUILD file, by path below `root`."""
  modules = read_modules(root)
  files = {}
  for package in sorted({module.path.parent for module in modules.values()}):
    here = [module for module in modules.values() if module.path.parent == package]
    here.sort(key=lambda module: (module.target.removesuffix("_test"), module.target))
    rules = ", ".join(f'"{rule}"' for rule in sorted({module.rule for module in here}))
    loads = f'load("@rules_python//python:defs.bzl", {rules})'
    if any(module.distributions for module in here):
      loads = f'load("@pypi//:requirements.bzl", "requirement")\n{loads}'
    blocks = [HEADER.format(loads=loads), *(_target_text(module, modules) for module in here)]
    files[f"{package.as_posix()}/BUILD"] = "\n".join(blocks)
  return files


def _target_text(module: Module, modules: dict[str, Module]) -> str:
  """The target of one module, laid out as buildifier does."""
  labels = {modules[name].label(module.path.parent) for name in module.modules} - {f":{module.target}"}
  deps = [f'"{label}"' for label in sorted(labels, key=lambda s: (s[0] != ":", s.replace(":", ".").split(".")))]
  deps += [f'requirement("{distribution}")' for distribution in sorted(module.distributions)]
  lines = [f'name = "{module.target}"']
  if module.rule == "py_test":
    lines.append(f'size = "{_test_size(module, modules)}"')
  lines.append(f'srcs = ["{module.path.name}"]')
  for attribute, items in (("data", [f'"//{folder}"' for folder in sorted(module.data)]), ("deps", deps)):
    if len(items) == 1:
      lines.append(f"{attribute} = [{items[0]}]")
    elif items:
      lines.append(f"{attribute} = [\n" + "".join(f"        {item},\n" for item in items) + "    ]")
  return f"{module.rule}(\n" + "".join(f"    {line},\n" for line in lines) + ")\n"


def _test_size(test: Module, modules: dict[str, Module]) -> str:
  """Large tests run a whole program, medium ones need TensorFlow, small ones neither."""
  needed = [test]
  for module in needed:  # grows as we go
    needed += [modules[name] for name in module.modules if modules[name] not in needed]
  if any(modules[name].rule == "py_binary" for name in test.modules):
    return "large"
  return "medium" if any(module.distributions & SLOW for module in needed) else "small"


def differences(root: pathlib.Path) -> Iterator[str]:
  """Yields a line for each BUILD file and target below `root` that is not as derived."""
  wanted = build_files(root)
  present = {path.relative_to(root).as_posix(): path for path in (root / PACKAGE).rglob("BUILD")}
  for path in sorted(wanted | present):
    if path not in wanted:
      yield f"{path}: no Python file is beside it; delete it"
    elif path not in present:
      yield f"{path}: missing"
    elif (text := present[path].read_text(encoding="utf-8")) != wanted[path]:
      changes = list(_changes(_targets(text), _targets(wanted[path])))
      yield from (f"{path}: {change}" for change in changes or ["order or blank lines differ"])


def _targets(text: str) -> dict[str, str]:
  """The blocks of a BUILD file by the target's name, or else by their first line."""
  blocks = [block.strip() for block in text.split("\n\n")]
  return {(re.findall(r'name = "(.*)"', block) or [block.partition("\n")[0]])[0]: block for block in blocks}


def _changes(present: dict[str, str], wanted: dict[str, str]) -> Iterator[str]:
  for name in sorted(wanted | present):
    if name not in wanted:
      yield f"{name}: no Python file calls for it"
    elif name not in present:
      yield f"{name}: missing"
    elif present[name] != wanted[name]:
      is_, should = (set(re.findall(r'\w+\("[^"]*"\)|"[^"]*"', side[name])) for side in (present, wanted))
      details = {"lacks": should - is_, "has needless": is_ - should}
      parts = [f"{verb} {', '.join(sorted(items))}" for verb, items in details.items() if items]
      yield f"{name}: " + ("; ".join(parts) or "differs")


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
