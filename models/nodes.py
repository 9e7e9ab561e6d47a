"""From inert nodes to plain dictionaries of tensors: the few torch calls we understand, ourselves."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from attacks.errors import UserError
from models.inert import Call, Name, Pairs, Persistent

STORAGES: dict[str, torch.dtype] = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
DICTIONARIES = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict")
DEPTH = 64
TENSORS = 100_000


def plain(root: Any, storages: Mapping[str, memoryview], name: str) -> Any:
    """`root` with its dictionaries, tensors and modules made real, and all else left as None.

    Tensors are views of `storages`, so nothing is copied. A pickled nn.Module becomes its state
    dict. `name` is the file's, for messages; UserError for a tensor outside its storage.
    """
    return _Plain(storages, name).of(root, 0)


class _Plain:
    def __init__(self, storages: Mapping[str, memoryview], name: str) -> None:
        self.storages, self.name = storages, name
        self.done: dict[int, Any] = {}

    def of(self, node: Any, depth: int) -> Any:
        if isinstance(node, str | int | float | bool):
            return node
        if depth > DEPTH or not isinstance(node, Pairs | Call):
            return None
        if id(node) not in self.done:
            self.done[id(node)] = None  # a cycle ends here
            self.done[id(node)] = self._made(node, depth)
        return self.done[id(node)]

    def _made(self, node: Pairs | Call, depth: int) -> Any:
        if isinstance(node, Pairs):
            return self._dictionary(node.pairs, depth)
        path = _path(node.function)
        if path in REBUILD:
            return self._tensor(node, depth)
        if path in DICTIONARIES or (node.pairs and node.state is None):
            return self._dictionary(node.pairs, depth)
        fields = self.of(node.state, depth + 1)
        if isinstance(fields, dict) and "_modules" in fields and "_parameters" in fields:
            return dict(self._module(fields))
        return fields if path == "argparse.Namespace" else None

    def _dictionary(self, pairs: list[tuple[Any, Any]], depth: int) -> dict[str, Any]:
        return {key: self.of(value, depth + 1) for key, value in pairs if isinstance(key, str)}

    def _module(self, fields: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
        count = 0
        for kind in ("_parameters", "_buffers"):
            for name, value in (fields.get(kind) or {}).items():
                if isinstance(value, Tensor):
                    yield name, value
        for name, child in (fields["_modules"] or {}).items():
            for inner, value in (child if isinstance(child, dict) else {}).items():
                count += 1
                if count > TENSORS:
                    raise UserError(f"{self.name}: holds a module of more than {TENSORS:,} tensors.")
                yield f"{name}.{inner}", value

    def _tensor(self, node: Call, depth: int) -> Tensor | None:
        function, args = node.function, node.args
        for _ in range(4):  # parameters and subclasses wrap a tensor's call
            path, args = _path(function), args if isinstance(args, tuple) else ()
            if path in PARAMETERS and args and isinstance(args[0], Call):
                function, args = args[0].function, args[0].args
            elif path == SUBCLASS and len(args) >= 3:
                function, args = args[0], args[2]
            else:
                break
        return self._rebuilt(_path(function), args) if _path(function) in TENSOR_CALLS else None

    def _rebuilt(self, path: str, args: tuple[Any, ...]) -> Tensor:
        try:
            storage, offset, size, stride = args[:4]
            dtype = _named_dtype(args[6]) if path.endswith("_v3") else storage_dtype(storage)
            key = str(storage.identity[2])
            return _view(self.storages[key], dtype, offset, size, stride)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{self.name}: holds a tensor that is damaged or of an unknown type ({error})."
            ) from error


PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
TENSOR_CALLS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)
REBUILD = (*PARAMETERS, SUBCLASS, *TENSOR_CALLS)


def _path(function: Any) -> str:
    return function.path if isinstance(function, Name) else ""


def storage_dtype(storage: Persistent) -> torch.dtype | None:
    """The element type of a torch storage reference; None if it has none that we know."""
    try:
        path = _path(storage.identity[1])
    except (TypeError, IndexError):
        return None
    return STORAGES.get(path.removeprefix("torch.").removesuffix("Storage"))


def _named_dtype(node: Any) -> torch.dtype:
    known = {str(dtype): dtype for dtype in STORAGES.values()}
    return known[_path(node)]


def _view(data: memoryview, dtype: torch.dtype | None, offset: int, size: Any, stride: Any) -> Tensor:
    if dtype is None:
        raise ValueError("unknown number type")
    size, stride = tuple(size), tuple(stride)
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
        raise ValueError("a negative size")
    if len(size) != len(stride) or len(size) > 16:
        raise ValueError("size and stride differ")
    if 0 in size:
        return torch.empty(0, dtype=dtype).reshape(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if (last + 1) * dtype.itemsize > len(data):
        raise ValueError("it reaches beyond its storage")
    usable = len(data) // dtype.itemsize * dtype.itemsize
    whole = torch.frombuffer(data[:usable], dtype=dtype)
    return whole.as_strided(size, stride, offset)


def everything(root: Any) -> Iterator[Any]:
    """Every node below `root`, each once."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, list | tuple):
            waiting.extend(node)
        elif isinstance(node, Pairs):
            waiting.extend(value for pair in node.pairs for value in pair)
        elif isinstance(node, Call):
            waiting.extend((node.function, node.args, node.state, *node.items))
            waiting.extend(value for pair in node.pairs for value in pair)
        elif isinstance(node, Persistent):
            waiting.append(node.identity)
