"""Files of weights that others wrote, read within bounds: PyTorch's, and the tables of TensorFlow's checkpoints.

Neither PyTorch nor TensorFlow's reader sees the bytes, so that a file that is damaged, or made to do harm, can at
worst be refused: of PyTorch's pickles only tensors are rebuilt and nothing is called, and every size that a file states
is compared with the file before memory is allocated.
"""

import collections
from collections.abc import Iterator, Mapping
import dataclasses
import io
import math
import os
import pathlib
import pickle
import pickletools
import struct
from typing import Any, BinaryIO
import zipfile

import google_crc32c
import numpy as np

from i3d_tf import errors
from i3d_tf import files
from i3d_tf import workdir
from i3d_tf.weights import manifest as manifests

_WHAT_TORCH = "a file of PyTorch's weights"
_MAX_PICKLE_BYTES = 1 << 26
_PICKLE = "/data.pkl"
# How the older format of before PyTorch 1.6 begins: the pickle of a magic number.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_OLD_BEGINNING = pickle.dumps(_OLD_MAGIC, 2)
# Operations that pickles of tensors and plain values consist of; others allocate as much as they state.
_OPERATIONS = frozenset(
  """PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET NONE NEWTRUE NEWFALSE
  INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
  UNICODE BINUNICODE SHORT_BINUNICODE EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT
  DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD NEWOBJ NEWOBJ_EX BINPERSID
  """.split()
)
# By PyTorch's name of the type, as in torch.FloatStorage and torch.float32.
_DTYPES: Mapping[str, str] = {
    "Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bfloat16", "Long": "i8", "Int": "i4", "Short": "i2",
    "Char": "i1", "Byte": "u1", "Bool": "?", "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bfloat16",
    "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "?",
}  # fmt: skip
_STORAGES = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte", "b1": "Bool"}


@dataclasses.dataclass(frozen=True)
class _Storage:
  """Where a tensor's values are: `count` of a type, or bytes if that is ''."""

  dtype: str
  key: str
  count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor as a file describes it; `problem` says in a few words why it cannot be read."""

  storage: Any = None
  offset: int = 0
  shape: tuple[int, ...] = ()
  strides: tuple[int, ...] = ()
  dtype: str = ""
  problem: str = ""


class _Other:
  """Stands for an object of any other class; it takes whatever the pickle does to it, and does nothing."""

  def __new__(cls, *_: Any, **__: Any) -> Any:
    return object.__new__(cls)

  def _ignore(self, *_: Any) -> None:
    pass

  __init__ = __setstate__ = __setitem__ = append = extend = add = _ignore


@dataclasses.dataclass(frozen=True)
class _Name:
  """A class or a constant of torch: a type of storage or of values."""

  name: str

  def __call__(self, *_: Any) -> "_Name":
    return self


def is_torch(path: str | os.PathLike) -> bool:
  """Returns whether a file begins as PyTorch's do, whatever its name.

  Args:
    path: The file; need not exist.
  """
  try:
    with files.opened(path) as file:
      if file.read(len(_OLD_BEGINNING)) == _OLD_BEGINNING:
        return True
      return zipfile.is_zipfile(file) and any(name.endswith(_PICKLE) for name in zipfile.ZipFile(file).namelist())
  except Exception:  # of a path that is none, or of the module zipfile for damaged archives; see `files.guarded`
    return False


def read_torch(path: str | os.PathLike) -> tuple[Any, "TorchFile"]:
  """Returns the object in a file of PyTorch's, with tensors as `Tensor`, and the file, which reads them.

  Args:
    path: The file, of the format with a ZIP archive or of the older one.

  Raises:
    CheckpointError: If it is no such file, or damaged.
    OSError: If it cannot be read.
  """
  places: Mapping[str, Any]
  with files.opened(path) as file, files.guarded(path, _WHAT_TORCH, errors.CheckpointError):
    if zipfile.is_zipfile(file):
      places, pickled = _open_zip(file)
      content = _unpickle(io.BytesIO(pickled), pickled)
    else:
      content, places = _open_old(file)
  return content, TorchFile(path, places)


@dataclasses.dataclass
class TorchFile:
  """Reads the tensors of a file; the values of each storage are read once.

  Attributes:
    path: The file.
    places: By storage the member of the archive that holds it, or its offset and number of bytes in the file.
  """

  path: str | os.PathLike
  places: Mapping[str, Any]

  def load(self, tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Returns the values of tensors by name; float16 and bfloat16 are converted to float32.

    Args:
      tensors: By name.

    Raises:
      CheckpointError: If one cannot be read; the message names it.
      OSError: If the file cannot be read.
    """
    for name, tensor in tensors.items():
      if problem := tensor.problem or _problem(tensor):
        raise errors.CheckpointError(
          f"{self.path}: the tensor {files.printable(name, 80)} is {problem}; save the state dict of a plain network"
        )
    size = os.path.getsize(self.path)
    if sum(math.prod(tensor.shape) * _width(tensor.dtype) for tensor in tensors.values()) > 2 * size:
      raise errors.CheckpointError(f"{self.path}: its tensors state more values than the file holds")
    storages: dict[tuple[str, str], np.ndarray] = {}
    arrays = {}
    with open(self.path, "rb") as file, files.guarded(self.path, _WHAT_TORCH, errors.CheckpointError):
      for name, tensor in tensors.items():
        key = (tensor.storage.key, tensor.dtype)
        if key not in storages:
          storages[key] = _decode(self._read(file, tensor.storage.key), tensor.dtype)
        arrays[name] = _view(storages[key], tensor, name)
    return arrays

  def _read(self, file: BinaryIO, key: str) -> np.ndarray:
    """Reads the bytes of a storage."""
    place = self.places[key]
    if isinstance(place, tuple):
      file.seek(place[0])
      return files.read_exactly(file, place[1])
    with files.open_archive(file) as archive, archive.open(place) as member:
      return files.read_exactly(member, archive.getinfo(place).file_size)


def _open_zip(file: BinaryIO) -> tuple[dict[str, str], bytes]:
  """Returns the members of the storages by key, and the pickle."""
  with files.open_archive(file) as archive:
    (name,) = (name for name in archive.namelist() if name.endswith(_PICKLE) and name.count("/") == 1)
    root = name.removesuffix(_PICKLE)
    if archive.getinfo(name).file_size > _MAX_PICKLE_BYTES:
      raise ValueError("its pickle is too large")
    order = f"{root}/byteorder"
    if order in archive.namelist() and archive.getinfo(order).file_size < 100 and archive.read(order) != b"little":
      raise ValueError("its values are not in the byte order little-endian")
    folder = f"{root}/data/"
    places = {member.removeprefix(folder): member for member in archive.namelist() if member.startswith(folder)}
    return places, archive.read(name)


def _open_old(file: BinaryIO) -> tuple[Any, dict[str, tuple[int, int]]]:
  """Returns the object and the places of the storages in a file of the format before PyTorch 1.6."""
  size = file.seek(0, os.SEEK_END)
  file.seek(0)
  content = files.read_bounded(file, _MAX_PICKLE_BYTES)
  stream = io.BytesIO(content)
  if _unpickle(stream, content) != _OLD_MAGIC:
    raise ValueError("it begins otherwise")
  _, _ = _unpickle(stream, content), _unpickle(stream, content)  # the protocol, and what wrote the file
  storages: dict[str, _Storage] = {}
  value = _unpickle(stream, content, storages)
  keys = _unpickle(stream, content)
  if not isinstance(keys, list) or set(keys) != set(storages) or len(keys) != len(storages):
    raise ValueError("its storages are not those that it lists")
  places, offset = {}, stream.tell()
  for key in keys:
    width = _width(storages[key].dtype)
    file.seek(offset)
    (count,) = struct.unpack("<q", file.read(8))
    if count != storages[key].count or not 0 <= count * width <= size - offset - 8:
      raise ValueError("it ends within a storage")
    places[key] = (offset + 8, count * width)
    offset += 8 + count * width
  return value, places


def _unpickle(stream: io.BytesIO, content: bytes, storages: dict[str, _Storage] | None = None) -> Any:
  """Returns the object of the pickle that the stream is at, after looking at its operations; calls nothing."""
  start = stream.tell()
  for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
    if operation.name not in _OPERATIONS:
      raise ValueError(f"its pickle has the operation {operation.name}")
    # The memo is a list as long as the largest number.
    if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count + 256:
      raise ValueError("its pickle numbers more values than it has")
  end = stream.tell()
  value = _Unpickler(io.BytesIO(content[start:end]), storages).load()
  stream.seek(end)
  return value


class _Unpickler(pickle.Unpickler):
  """Rebuilds tensors and plain values; every other class becomes one that does nothing."""

  def __init__(self, stream: BinaryIO, storages: dict[str, _Storage] | None):
    super().__init__(stream, encoding="utf-8")
    self._storages = {} if storages is None else storages

  def find_class(self, module: str, name: str) -> Any:
    """Returns what stands for a class or function of the pickle; imports nothing."""
    if (module, name) in _REBUILD:
      return _REBUILD[module, name]
    if module == "torch._utils" and name.startswith("_rebuild_"):
      kind = name.removeprefix("_rebuild_").removesuffix("_tensor").replace("_", " ")
      return lambda *_: Tensor(problem=f"of a kind that is not dense ({files.printable(kind, 40)})")
    if module in ("torch", "torch.storage"):
      return _Name(name)
    return type("_Other", (_Other,), {"__slots__": ()})

  def persistent_load(self, pid: Any) -> _Storage:
    """Returns the storage that a tensor refers to."""
    word, kind, key, _, count, *view = pid
    if word != "storage" or not isinstance(kind, _Name) or not isinstance(key, str) or type(count) is not int:
      raise pickle.UnpicklingError("it refers to something that is no storage")
    if any(each is not None for each in view):
      raise pickle.UnpicklingError("it has views of storages, of PyTorch before 0.4")
    dtype = "" if kind.name == "UntypedStorage" else kind.name.removesuffix("Storage")
    return self._storages.setdefault(key, _Storage(dtype, key, count))


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any, dtype: Any = None) -> Tensor:
  """Describes a tensor; its hooks and whether it requires a gradient are left out."""
  metadata = others[2] if len(others) > 2 else None
  if metadata:
    return Tensor(problem="conjugated or negated")
  is_plain = isinstance(storage, _Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
  if not is_plain or len(shape) != len(strides) or len(shape) > 32:
    raise pickle.UnpicklingError("a tensor is not described as PyTorch does")
  if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *shape, *strides)):
    raise pickle.UnpicklingError("a tensor has an impossible shape")
  name = dtype.name if isinstance(dtype, _Name) else storage.dtype
  return Tensor(storage, offset, shape, strides, name)


_REBUILD = {
  ("torch._utils", "_rebuild_tensor"): _rebuild,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
  # Others: whether it requires a gradient, hooks, the type, metadata.
  ("torch._utils", "_rebuild_tensor_v3"): lambda storage, offset, shape, strides, grad, hooks, dtype, *metadata: (
    _rebuild(storage, offset, shape, strides, grad, hooks, *metadata, dtype=dtype)
  ),
  ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
  ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
  ("torch._utils", "_rebuild_meta_tensor_no_storage"): lambda *_: Tensor(problem="without values (device meta)"),
  ("torch._utils", "_rebuild_qtensor"): lambda *_: Tensor(problem="quantized"),
  ("torch._utils", "_rebuild_sparse_tensor"): lambda *_: Tensor(problem="sparse"),
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch", "Size"): tuple,
}


def _problem(tensor: Tensor) -> str:
  """Why the values of a tensor cannot be read, in a few words; '' if they can."""
  if tensor.dtype not in _DTYPES:
    return f"of type {files.printable(tensor.dtype, 40)}"
  count = tensor.storage.count if tensor.storage.dtype else tensor.storage.count // _width(tensor.dtype)
  last = tensor.offset + sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.strides))
  if math.prod(tensor.shape) > max(count, 0) or (0 not in tensor.shape and last >= count):
    return "larger than its storage"
  return ""


def _width(dtype: str) -> int:
  """Bytes of a value of a type by PyTorch's name; of bytes for other names."""
  own = _DTYPES.get(dtype, "u1")
  return 2 if own == "bfloat16" else np.dtype(own).itemsize


def _decode(content: np.ndarray, dtype: str) -> np.ndarray:
  """The values of a storage's bytes; short floating-point numbers as float32."""
  whole = content[: len(content) // _width(dtype) * _width(dtype)]
  if _DTYPES[dtype] == "bfloat16":  # the upper half of a float32
    return (whole.view("<u2").astype(np.uint32) << 16).view(np.float32)
  values = whole.view(np.dtype(_DTYPES[dtype]).newbyteorder("<"))
  return values.astype(np.float32) if values.dtype == np.float16 else values


def _view(values: np.ndarray, tensor: Tensor, name: str) -> np.ndarray:
  """The part of a storage that a tensor is."""
  last = tensor.offset + sum((extent - 1) * stride for extent, stride in zip(tensor.shape, tensor.strides))
  if 0 not in tensor.shape and last >= len(values):
    raise ValueError(f"{files.printable(name, 60)} is larger than its storage")
  if 0 in tensor.shape:
    return np.empty(tensor.shape, values.dtype)
  strides = [stride * values.itemsize for stride in tensor.strides]
  return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)


def write_torch(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
  """Writes a file that `torch.load` reads; the same arrays give the same bytes.

  Args:
    path: File to write.
    content: Arrays by name; also plain values, and mappings of these.

  Raises:
    OSError: If the file cannot be written.
  """
  arrays: list[np.ndarray] = []
  pickled = b"\x80\x02" + _pickle(content, arrays) + b"."
  with workdir.replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
    members: dict[str, Any] = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    members |= {f"data/{number}": array for number, array in enumerate(arrays)}
    for name, value in members.items():
      with archive.open(zipfile.ZipInfo(f"archive/{name}"), "w", force_zip64=True) as member:
        member.write(value if isinstance(value, bytes) else memoryview(value.reshape(-1)).cast("B"))


def _pickle(value: Any, arrays: list[np.ndarray]) -> bytes:
  """The operations that build a value; the arrays that it refers to are appended to `arrays`."""
  if isinstance(value, Mapping):
    items = (_pickle(each, arrays) for pair in value.items() for each in pair)
    return b"}(" + b"".join(items) + b"u"
  plain = lambda value: pickle.dumps(value, 2)[2:-1]
  if not isinstance(value, np.ndarray):
    return plain(value)
  array = np.array(value, value.dtype.newbyteorder("<"), order="C")
  strides = tuple(stride // array.itemsize for stride in array.strides)
  kind = f"ctorch\n{_STORAGES[array.dtype.str[1:]]}Storage\n".encode()
  storage = b"(" + plain("storage") + kind + plain(str(len(arrays))) + plain("cpu") + plain(array.size) + b"tQ"
  arrays.append(array)
  shape = plain(array.shape) + plain(strides) + plain(False) + b"ccollections\nOrderedDict\n)R"
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + plain(0) + shape + b"tR"


_TABLE_MAGIC = 0xDB4775248B80FB57  # of LevelDB's tables (tensorflow/core/lib/io/format.h)
_FOOTER_BYTES = 48
_MAX_TABLE_BYTES = 1 << 28


def read_table(path: str | os.PathLike) -> dict[bytes, bytes]:
  """Returns the entries of a table of TensorFlow's, such as the index of a checkpoint; every checksum is compared.

  Args:
    path: The file.

  Raises:
    CheckpointError: If it is no such table, compressed, or damaged.
    OSError: If it cannot be read.
  """
  with files.opened(path) as file, files.guarded(path, "the index of a checkpoint", errors.CheckpointError):
    content = files.read_bounded(file, _MAX_TABLE_BYTES + 1)
    footer = content[-_FOOTER_BYTES:]
    if len(content) > _MAX_TABLE_BYTES or footer[40:] != struct.pack("<Q", _TABLE_MAGIC):
      raise ValueError("it does not end as one")
    stream = io.BytesIO(footer)
    _varint(stream), _varint(stream)  # a table of further blocks, which there are none of
    index = dict(_entries(content, _varint(stream), _varint(stream)))
    places = [io.BytesIO(value) for value in index.values()]
    blocks = [(_varint(place), _varint(place)) for place in places]
    if sum(size for _, size in blocks) > len(content):
      raise ValueError("its blocks are larger than it")
    return {key: value for block in blocks for key, value in _entries(content, *block)}


def _varint(stream: io.BytesIO) -> int:
  value = 0
  for shift in range(0, 64, 7):
    (byte,) = stream.read(1)
    value |= (byte & 127) << shift
    if byte < 128:
      return value
  raise ValueError("a number has too many bytes")


def _entries(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
  """Yields keys and values of a block; each key shares its beginning with the one before."""
  block, kind, crc = content[offset : offset + size], *struct.unpack_from("<BI", content, offset + size)
  if manifests.mask(google_crc32c.value(content[offset : offset + size + 1])) != crc:
    raise ValueError("its checksum is wrong")
  if kind:
    raise ValueError("it is compressed")
  (num_restarts,) = struct.unpack("<I", block[-4:])
  end = size - 4 * (num_restarts + 1)
  stream, key = io.BytesIO(block), b""
  total = 0
  while stream.tell() < end:
    shared, own, length = _varint(stream), _varint(stream), _varint(stream)
    key = key[:shared] + stream.read(own)
    value = stream.read(length)
    total += len(key)
    if len(value) < length or total > 64 * len(content) + _MAX_PICKLE_BYTES:
      raise ValueError("a block ends early")
    yield key, value


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a tensor of a checkpoint is: `size` bytes at `offset` of `path`, of a type by TensorFlow's number."""

  path: pathlib.Path
  dtype: int
  shape: tuple[int, ...]
  offset: int
  size: int
  crc: int
  is_sliced: bool = False

  def read(self) -> bytes:
    """Returns the bytes.

    Raises:
      ValueError: If they are not there, or others than were written.
      OSError: If the file cannot be read.
    """
    with open(self.path, "rb") as file:
      if self.offset + self.size > os.fstat(file.fileno()).st_size:
        raise ValueError("the file ends before it")
      file.seek(self.offset)
      content = file.read(self.size)
    if manifests.mask(google_crc32c.value(content)) != self.crc:
      raise ValueError("its checksum is wrong")
    return content


def read_index(prefix: str | os.PathLike) -> dict[str, Place]:
  """Returns where the tensors of a checkpoint are, by name, sorted.

  Args:
    prefix: Path of the checkpoint without '.index'.

  Raises:
    CheckpointError: If the index is damaged, or states impossible sizes.
    OSError: If it cannot be read.
  """
  from tensorflow.core.protobuf import tensor_bundle_pb2  # of a generated module that type checkers do not know

  path = f"{prefix}.index"
  table = read_table(path)
  with files.guarded(path, "the index of a checkpoint", errors.CheckpointError):
    header = tensor_bundle_pb2.BundleHeaderProto.FromString(table.pop(b""))
    if header.endianness != header.LITTLE or not 0 < header.num_shards < 100_000:
      raise ValueError("its values are not in the byte order little-endian, or its shards have no number")
    places = {}
    for key, value in sorted(table.items()):
      entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
      shape = tuple(dim.size for dim in entry.shape.dim)
      if entry.shape.unknown_rank or min((*shape, entry.offset, entry.size, entry.shard_id)) < 0 or len(shape) > 32:
        raise ValueError(f"the shape of {files.printable(key.decode(), 60)} is impossible")
      data = pathlib.Path(f"{prefix}.data-{entry.shard_id:05}-of-{header.num_shards:05}")
      places[key.decode()] = Place(data, entry.dtype, shape, entry.offset, entry.size, entry.crc32c, bool(entry.slices))
    held = sum(place.stat().st_size for place in {each.path for each in places.values()} if place.is_file())
    if held and sum(each.size for each in places.values()) > 2 * held:
      raise ValueError("its tensors are larger than its data")
  return places
