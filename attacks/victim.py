"""The model under attack: how it is run in the search, and how a claim about it is verified."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attacks.errors import UserError
from attacks.layout import arranged, channels_last
from attacks.memory import give_back_memory, keep_memory
from attacks.padding import cut, padded
from attacks.precision import full_float32
from attacks.retrieval import Gallery


@dataclass
class Meter:
    """Images sent through the model, padding not counted: forward and backward passes."""

    forward: int = 0
    backward: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def count(self, forward: int = 0, backward: int = 0) -> None:
        """Add passes; several threads may."""
        with self._lock:
            self.forward += forward
            self.backward += backward


class Victim:
    """A model in evaluation mode, with the gallery that it embedded.

    It is given copies, because many a model normalises its images in place.

    `model`: (B,C,H,W) float32 in [0,1] -> (B,D). `lean`, if given, is a faster stand-in for the
    search only (folded BatchNorm, compiled), and `amp` runs the search in bfloat16: what they find
    is embedded again in float32 by the plain model before it counts. `fresh`, for a model that answers at
    random: of how many more answers a finding must be true in the mean.
    """

    def __init__(
        self,
        model: nn.Module,
        gallery: Gallery,
        device: torch.device | str = "cpu",
        *,
        lean: Callable[[Tensor], Tensor] | None = None,
        amp: bool = False,
        fresh: int = 0,
    ) -> None:
        self.model, self.gallery = model, gallery
        self.device = torch.device(device)
        # Not `lean or model`: a compiled module has no truth.
        self.lean = model if lean is None else lean
        self.amp, self.fresh = amp, fresh
        self.exact = lean is None and not amp
        self.meter = Meter()

    def embed(self, x: Tensor) -> Tensor:
        """Embed in float32 by the plain model, without gradient: (rows, D) raw vectors."""
        self.meter.count(len(x))
        with torch.no_grad():
            return self.plain(x)

    def plain(self, x: Tensor) -> Tensor:
        """Embed in float32 by the plain model, unmetered, in the caller's gradient mode."""
        return self.model(channels_last(padded(x)).clone())[: len(x)].float()

    def probe(self, x: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
        """Embed in the search's precision; returns (the leaf that carries the gradient, vectors)."""
        self.meter.count(len(x), len(x) * gradient)
        leaf = channels_last(padded(x)).detach().requires_grad_(gradient)
        with torch.set_grad_enabled(gradient), self._precision():
            vectors = cut(self.lean(leaf.clone()), len(x)).float()
        if gradient and not vectors.requires_grad:
            raise UserError(
                "The model gives no gradient with respect to its images (it detaches them, or leaves torch); "
                "only attacks that need none, such as noise, can be run on it."
            )
        return leaf, vectors

    def _precision(self) -> AbstractContextManager[object]:
        if not self.amp:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode with frozen parameters, as it was before once the block ends.

    It is moved back to its device as well. Frozen parameters save the weight gradients, a third of a
    pass; `arranged` says what else is faster inside. Products are full float32, for every number that is
    reported.
    """
    modes = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    homes = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    keep_memory()
    try:
        model.eval().requires_grad_(False)
        # A caller's inference mode would forbid gradients.
        with torch.inference_mode(False), full_float32(), arranged(model):
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, gradient in wanted.items():
            parameter.requires_grad_(gradient)
        if len(homes) == 1:
            model.to(homes.pop())
        give_back_memory()


def embed_all(
    model: Callable[[Tensor], object],
    load: Callable[[int, int], Tensor],
    count: int,
    device: torch.device | str = "cpu",
    batch: int = 32,
    tick: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Embed `count` images, `load(start, stop)` giving (B,C,H,W): (count, D) float32 on `device`."""
    parts: list[Tensor] = []
    for start in range(0, count, batch):
        x = load(start, min(start + batch, count)).to(device)
        with torch.no_grad():
            many = channels_last(padded(x))
            parts.append(check_output(model(many), len(many))[: len(x)])
        tick(start + len(x))
    return torch.cat(parts)


def check_output(vectors: object, rows: int) -> Tensor:
    """One float vector per image, or UserError."""
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        shape = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise UserError(
            f"The model must return one vector per image, (B, D); for B = {rows} it returned {shape}."
        )
    return vectors.float()
