"""Hostile files by the thousand: whole ones damaged, and ones that are hostile by design."""

import copy
import json
import pickle
import random
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 1 << 20

# ---- damage to the bytes of a whole file

NUMBERS = [
    *(struct.pack(kind, value) for kind in ("<I", ">I", "<Q", ">Q") for value in (0, 1, 2**31, 2**32 - 1)),
    *(struct.pack(kind, value) for kind in ("<q", ">q") for value in (-1, 2**62, 2**40, -(2**63))),
    *(b"9" * 5000, b"1e999999", b"-0", b"nan", b"inf", b"0x7fffffffffffffff", b"1" * 20),
]
TOKENS = [
    *(b"[", b"]", b"{", b"}", b'"', b"'", b"\\", b"\n", b"\r", b"\0", b",", b";", b"=", b"..", b"/"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"null", b"true", b"\\ud800", b"[[", b"]]", b"1=1\n"),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"(", b"t", b"R", b".", b"\x80\x04", b"\x8c", b"\x93", b"b"),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"(" * 3000,
        b"a=" + b"[" * 3000,
        b"a." * 3000 + b"b=1\n",
        b"\x85" * 3000,
    ),
]


def damaged(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the whole files, cut, flipped, spliced, repeated, or with something put in."""
    content = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        content = rng.choice(_DAMAGES)(rng, content, seeds)[: 4 * MIB]
    return content


def _places(rng: random.Random, content: bytes) -> tuple[int, int]:
    """Two places, more often near the ends, where headers are."""
    n = len(content)
    near = rng.choice((n, min(n, 64), min(n, 600)))
    first = rng.randint(0, near) if rng.random() < 0.7 else n - rng.randint(0, near)
    return first, min(n, first + rng.choice((1, 2, 4, 8, 30, 200, n)))


def _cut(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    return content[: _places(rng, content)[0]]


def _flip(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        if changed:
            changed[min(len(changed) - 1, _places(rng, content)[0])] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _drop(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    first, last = _places(rng, content)
    return content[:first] + content[last:]


def _repeat(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    first, last = _places(rng, content)
    return content[:last] + content[first:last] * rng.choice((1, 2, 50)) + content[last:]


def _splice(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    other = rng.choice(seeds)
    (first, last), (begin, end) = _places(rng, content), _places(rng, other)
    return content[:first] + other[begin:end] + content[last:]


def _put(rng: random.Random, content: bytes, seeds: list[bytes]) -> bytes:
    first, _ = _places(rng, content)
    given = rng.choice(rng.choice((NUMBERS, TOKENS)))
    over = rng.choice((0, len(given)))
    return content[:first] + given + content[first + over :]


_DAMAGES = (_cut, _flip, _flip, _drop, _repeat, _splice, _put, _put)

# ---- values that no field expects

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, "", "\0", "x" * 10_000),
    *(float("nan"), float("inf"), "8/0", "1/255", "nan", "../../etc/passwd", "/etc/passwd", "a/b", "\n"),
    *("\N{RIGHT-TO-LEFT OVERRIDE}", "\N{SNOWMAN}", "<script>", "[red]", [], {}, [[]], [None], {"": {}}),
    *({"a": 1}, [1, "a"], ["x"] * 300, [2**64], list(range(300)), {"k1": [0]}, [{}], {"a": {"b": {"c": []}}}),
]


def deep(rng: random.Random) -> Any:
    """Something that is nested without end, as far as a reader can tell."""
    value: Any = copy.deepcopy(rng.choice(HOSTILE))
    for _ in range(rng.choice((5, 100, 900))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def changed(rng: random.Random, tree: Any) -> Any:
    """A tree of JSON with a few of its values exchanged, taken out, renamed or added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 4))):
        owner, key = _somewhere(rng, tree)
        if owner is None:
            return rng.choice((rng.choice(HOSTILE), deep(rng)))
        act = rng.random()
        if act < 0.6:
            owner[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif act < 0.7:
            owner[key] = deep(rng)
        elif act < 0.85:
            del owner[key]
        elif isinstance(owner, dict):
            owner[rng.choice(("", "x", "__class__", "\0", "k1", "model"))] = owner.pop(key)
        else:
            owner.append(owner[key])
    return tree


def _somewhere(rng: random.Random, tree: Any) -> tuple[Any, Any]:
    """A container in the tree and a key of it; None where the tree is no container."""
    owner, key = None, None
    inner = tree
    while isinstance(inner, dict | list) and inner and (owner is None or rng.random() < 0.7):
        owner, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = owner[key]
    return owner, key


def as_json(tree: Any) -> bytes:
    """JSON text, deep trees and lone surrogates included."""
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * 5000
    finally:
        sys.set_int_max_str_digits(4300)


def as_toml(tree: Any) -> bytes:
    """A TOML text of a tree, or nearly so: what TOML cannot say is said as JSON would."""
    if not isinstance(tree, dict):
        return as_json(tree)
    lines = [json.dumps(str(name)).encode() + b" = " + _toml(value) for name, value in tree.items()]
    return b"\n".join(lines) + b"\n"


def _toml(value: Any) -> bytes:
    return as_json(value).replace(b'": ', b'" = ').replace(b"NaN", b"nan").replace(b"Infinity", b"inf")


# ---- pickles by design

WORDS = ["os", "system", "builtins", "eval", "exec", "torch", "FloatStorage", "collections", "OrderedDict"]
WORDS += [
    "torch._utils",
    "_rebuild_tensor_v2",
    "state_dict",
    "a.weight",
    "posix",
    "cpu",
    "0",
    "storage",
    "io.open",
]


def opcodes(rng: random.Random, marker: Path) -> bytes:
    """A pickle of opcodes in any order, some of which would write `marker` if they were obeyed."""
    parts = [b"\x80" + bytes([rng.choice((2, 4, 5, 9))])]
    simple = [
        b"(",
        b"]",
        b"}",
        b")",
        b"\x8f",
        b"N",
        b"\x88",
        b"\x89",
        b"0",
        b"2",
        b"1",
        b"\x94",
        b"t",
        b"l",
        b"d",
    ]
    simple += [
        b"a",
        b"e",
        b"s",
        b"u",
        b"\x90",
        b"\x91",
        b"\x85",
        b"\x86",
        b"\x87",
        b"R",
        b"\x81",
        b"\x92",
        b"b",
    ]
    simple += [b"o", b"Q", b"\x93", b"\x97", b"\x98", b"q\x00", b"h\x00", b"r\xff\xff\xff\x7f", b"j\0\0\0\0"]
    for _ in range(rng.choice((3, 10, 40, 200))):
        kind = rng.random()
        if kind < 0.5:
            parts.append(rng.choice(simple))
        elif kind < 0.7:
            word = rng.choice([*WORDS, str(marker)]).encode()
            parts.append(b"\x8c" + bytes([len(word) % 256]) + word)
        elif kind < 0.8:
            parts.append(b"c" + f"{rng.choice(WORDS)}\n{rng.choice(WORDS)}\n".encode())
        elif kind < 0.9:
            number = rng.choice(NUMBERS)
            parts.append(rng.choice((b"J", b"\x8a", b"\x8b", b"B", b"\x8d", b"\x8e", b"X", b"I")) + number)
        else:
            parts.append(pickle.dumps(rng.choice(HOSTILE), rng.choice((0, 2, 4)))[2:-1])
    return b"".join(parts) + b"."


# ---- what a reader may do

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "subprocess.Popen", "pty.spawn")
FORBIDDEN += (
    "socket.connect",
    "socket.bind",
    "os.remove",
    "os.rmdir",
    "os.putenv",
    "ctypes.dlopen",
    "os.chmod",
)
FORBIDDEN += (
    "builtins.input",
    "os.kill",
    "webbrowser.open",
    "shutil.rmtree",
    "urllib.Request",
    "code.__new__",
)

_watching: list[Path] = []
_seen: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event in FORBIDDEN:
        _seen.append(f"{event}{arguments!r:.200}")
    elif event == "open":
        path, mode, flags = arguments
        writes = (flags or 0) & 3 if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
        inside = isinstance(path, str | bytes) and Path(str(path)).is_relative_to(_watching[0])
        if writes and not inside and isinstance(path, str | bytes):
            _seen.append(f"open {path!r} {mode}")


_hooked: list[bool] = []


@contextmanager
def watched(folder: Path, allowed: tuple[str, ...] = ()) -> Iterator[None]:
    """Fail where anything in the block starts a process, connects, deletes, or writes outside `folder`."""
    if not _hooked:
        sys.addaudithook(_hook)  # for good: it cannot be taken away again
        _hooked.append(True)
    _seen.clear()
    _watching.append(folder)
    try:
        yield
    finally:
        _watching.clear()
    done = [said for said in _seen if not said.startswith(allowed or ("\0",))]
    assert not done, done


@contextmanager
def bounded_memory(most: int) -> Iterator[None]:
    """Fail where the block takes more than so many bytes at any time; far beyond them it gets none."""
    import resource

    def status(name: str) -> int:
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
        return int(line.split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, limits = status("VmRSS"), resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + 4 * most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
    took = status("VmHWM") - before
    assert took <= most, f"{took / MIB:.0f} MiB"
