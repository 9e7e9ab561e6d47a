"""A pickle reader that runs nothing: names stay names, calls are written down and never made.

Only `pickletools` reads the bytes, and every opcode has its own few lines here, so no class or
function that a file names is ever looked up, let alone called. What a file can build is bounded by
its own size: nothing is allocated from a length that it merely claims.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from attacks.errors import UserError

# A state dict of a thousand tensors takes about 60,000 opcodes.
OPCODES = 5_000_000
GLOBALS = 10_000


@dataclass(frozen=True)
class Name:
    """A class or function that the file refers to, as `module.qualified_name`."""

    path: str


@dataclass(eq=False)
class Call:
    """What would have been the result of calling `function` with `args`."""

    function: Any
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(eq=False)
class Pairs:
    """A dictionary, kept as pairs: no key of an untrusted file is ever hashed."""

    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(eq=False)
class Persistent:
    """A reference that the file's container resolves; torch uses it for storages."""

    identity: Any


class MalformedError(UserError):
    """The bytes are not a pickle that this reader can follow."""


class _Mark:
    pass


class Machine:
    """The stack machine of pickle, protocols 0 to 5. `names` collects every Name it met."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[str, Name] = {}

    def load(self, stream: BinaryIO) -> Any:
        """Read one pickle from `stream`, leaving it behind its STOP; MalformedError if it is malformed."""
        self.stack, self.memo = [], {}
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count > OPCODES:
                    raise MalformedError(f"The pickle has more than {OPCODES:,} instructions.")
                _STEPS[opcode.name](self, argument)
            return self.stack[-1]
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise MalformedError(f"The pickle is damaged ({error or type(error).__name__}).") from error

    def push(self, value: Any) -> None:
        """Put `value` on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top of the stack, which must not be a mark."""
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a mark where a value belongs")
        return value

    def marked(self) -> list[Any]:
        """Take everything above the topmost mark, and the mark."""
        for position in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[position], _Mark):
                values = self.stack[position + 1 :]
                del self.stack[position:]
                return values
        raise ValueError("no mark")

    def name(self, path: str) -> Name:
        """The Name for `path`, one object per path."""
        if path not in self.names and len(self.names) >= GLOBALS:
            raise MalformedError(f"The pickle names more than {GLOBALS:,} classes.")
        return self.names.setdefault(path, Name(path))


def _extend(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, Call):
        target.items.extend(values)
    elif isinstance(target, list):
        target.extend(values)
    else:
        raise ValueError("an item added to what is not a list")


def _assign(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, Call | Pairs) or len(values) % 2:
        raise ValueError("a pair added to what is not a dictionary")
    target.pairs.extend(zip(values[::2], values[1::2], strict=True))


def _pair(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    _assign(machine, [key, value])


def _item(machine: Machine, _: Any) -> None:
    value = machine.pop()
    _extend(machine, [value])


def _call(machine: Machine, _: Any) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push(Call(function, args))


def _call_with_keywords(machine: Machine, _: Any) -> None:
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    machine.push(Call(function, args, items=[keywords]))


def _instance(machine: Machine, argument: str) -> None:
    args = tuple(machine.marked())
    machine.push(Call(machine.name(_dotted(argument)), args))


def _object(machine: Machine, _: Any) -> None:
    function, *args = machine.marked()
    machine.push(Call(function, tuple(args)))


def _build(machine: Machine, _: Any) -> None:
    state = machine.pop()
    if isinstance(machine.stack[-1], Call):
        machine.stack[-1].state = state


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a class name that is not text")
    machine.push(machine.name(f"{module}.{name}"))


def _dictionary(machine: Machine, _: Any) -> None:
    values = machine.marked()
    machine.push(Pairs())
    _assign(machine, values)


def _put(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _dotted(argument: str) -> str:
    # GLOBAL and INST carry "module name", separated by one space.
    return ".".join(argument.split(" ", 1))


def _take(count: int) -> Callable[[Machine, Any], None]:
    def step(machine: Machine, _: Any) -> None:
        values = tuple(machine.pop() for _ in range(count))
        machine.push(values[::-1])

    return step


def _nothing(machine: Machine, argument: Any) -> None:
    pass


_Step = Callable[[Machine, Any], Any]
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    "MARK": lambda machine, _: machine.push(_Mark()),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.marked(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, i: machine.push(machine.memo[i])),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
            *("BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        ),
        lambda machine, value: machine.push(value),
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda machine, _: machine.push([])),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda machine, _: machine.push(machine.marked())),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "TUPLE1": _take(1),
    "TUPLE2": _take(2),
    "TUPLE3": _take(3),
    "EMPTY_DICT": lambda machine, _: machine.push(Pairs()),
    "DICT": _dictionary,
    "APPEND": _item,
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: _extend(machine, machine.marked())),
    "SETITEM": _pair,
    "SETITEMS": lambda machine, _: _assign(machine, machine.marked()),
    "GLOBAL": lambda machine, argument: machine.push(machine.name(_dotted(argument))),
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "NEWOBJ_EX": _call_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": _build,
    "PERSID": lambda machine, argument: machine.push(Persistent(argument)),
    "BINPERSID": lambda machine, _: machine.push(Persistent(machine.pop())),
    **dict.fromkeys(
        ("EXT1", "EXT2", "EXT4"), lambda machine, code: machine.push(machine.name(f"copyreg.{code}"))
    ),
    **dict.fromkeys(("NEXT_BUFFER", "READONLY_BUFFER"), _nothing),
}
