"""A second device made of the CPU: what a GPU would refuse is refused, and every wait for it is counted.

`install()` registers the device `elsewhere` with torch (once in a process, and for good: so tests run it
in a process of their own). Its tensors hold a CPU tensor that no CPU operation reaches; each operation is
computed by the CPU's kernels, so results agree with the CPU's, while every tensor that lies on the wrong
side raises as it would with CUDA: mixed operands, a mask of one side for a tensor of the other, `numpy()`.

What it cannot show: kernels of CUDA and their rounding, streams, memory, speed.
"""

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"

WAITS: Counter[str] = Counter()
"""How often the CPU had to wait for the device, by operation: a GPU's queue runs empty each time."""

OPERATIONS: Counter[str] = Counter()
"""Everything that was run on the device."""

aten = torch.ops.aten

# Their result has a size that the device alone knows, or is a number for Python.
_WAIT = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}

# CUDA takes indices from the CPU, too; masks among them are looked through, which waits.
_INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}


class There(Tensor):
    """A tensor on the device; `raw` is the CPU tensor that it stands for."""

    raw: Tensor
    __module__ = "torch"  # eagerpy, and so foolbox, tells a library's tensors by this
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def of(raw: Tensor) -> "There":
        """The CPU tensor, put on the device as it is."""
        made = torch.Tensor._make_wrapper_subclass(
            There,
            raw.shape,
            raw.stride(),
            raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert a tensor on {NAME} to numpy; use Tensor.cpu() first")
        return self.detach().cpu().numpy()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.cpu().__reduce_ex__(protocol)  # files hold it as a tensor of the CPU

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, *args, **(kwargs or {}))


class _Module:
    """What torch asks of a device's module."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def _lazy_init(self) -> None:
        return None

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.set_rng_state(state)

    def manual_seed_all(self, seed: int) -> None:
        return None


# torch would make these of nothing and let them grow, which a stand-in cannot.
_GROWN = ("arange", "arange.start", "arange.start_step", "eye", "eye.m")


def install() -> list[torch.library.Library]:
    """Register the device; whoever calls keeps what is returned."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(_run, "PrivateUse1")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")  # amp changes nothing here
    own = torch.library.Library("aten", "IMPL")
    for name in _GROWN:
        op = getattr(aten, name.split(".")[0])
        own.impl(name, partial(_run, getattr(op, [*name.split("."), "default"][1])), "PrivateUse1")
    # torch.tensor(..., device=) then makes its values on the CPU and sends them over.
    torch._C._set_only_lift_cpu_tensors(True)
    return [library, own]


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """One operation, by the CPU's kernel, once it is sure that CUDA would take it."""
    OPERATIONS[str(op)] += 1
    if op is aten.copy_.default:
        return _copy(*args, **kwargs)
    if op is aten._to_copy.default:
        return _to_copy(*args, **kwargs)
    _refuse_mixed(op, args, kwargs)
    if op in _WAIT:
        WAITS[str(op)] += 1
    if op in _INDEXED and any(_is_mask(one) for one in tree_leaves(args[1])):
        WAITS[f"{op} of a mask"] += 1
    given, named = tree_map(_unwrap, (args, kwargs))
    with torch._C._DisableAutocast():
        out = op(*given, **named)
    held = {id(one.raw): one for one in tree_leaves((args, kwargs)) if isinstance(one, There)}
    grown = [one for one in held.values() if one.shape != one.raw.shape]
    if grown:
        raise AssertionError(f"{op} changes the shape of what it is given; make a rule for it in {__name__}")
    return tree_map(lambda one: _wrap(one, held), out)


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    _count(isinstance(source, There), isinstance(target, There), non_blocking)
    _unwrap(target).copy_(_unwrap(source))
    return target


def _to_copy(x: Tensor, *, device: torch.device | None = None, **options: Any) -> Tensor:
    there = (x.device if device is None else torch.device(device)).type == NAME
    _count(isinstance(x, There), there, options.get("non_blocking", False))
    copy = aten._to_copy.default(_unwrap(x), **options)
    return There.of(copy) if there else copy


def _count(source: bool, target: bool, free: bool) -> None:
    """A copy from there has to wait for its values, one to there for the memory it is read from."""
    if source and not target:
        WAITS["copy from the device"] += 1
    if target and not source and not free:
        WAITS["copy to the device"] += 1


def _refuse_mixed(op: Any, args: Any, kwargs: Any) -> None:
    """RuntimeError for operands that CUDA would refuse: only numbers and indices may come from the CPU."""
    checked = (args[0], *args[2:]) if op in _INDEXED else args
    strangers = [one for one in tree_leaves((checked, kwargs)) if _is_stranger(one)]
    if strangers:
        shapes = ", ".join(str(tuple(one.shape)) for one in strangers)
        raise RuntimeError(f"{op}: expected all tensors on the device {NAME}, got some on the CPU: {shapes}")


def _is_stranger(one: object) -> bool:
    return isinstance(one, Tensor) and not isinstance(one, There) and one.dim() > 0


def _is_mask(one: object) -> bool:
    return isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8)


def _unwrap(one: Any) -> Any:
    if isinstance(one, There):
        return one.raw
    return torch.device("cpu") if isinstance(one, torch.device) else one


def _wrap(one: Any, held: dict[int, There]) -> Any:
    if not isinstance(one, Tensor):
        return one
    same = held.get(id(one))  # in place, or out=
    if same is not None:
        return same
    return There.of(one)
