"""From a specification to a module with its weights."""

from pathlib import Path

import torch

from attacks.errors import UserError
from models import adapt, checkpoints, weights
from models.embedder import Embedder, LoadedModel, Trunk, digest_of
from models.families import trunk_of
from models.spec import ModelSpec


def load(
    spec: ModelSpec, path: Path | None, *, allow_partial: bool, code: str = "", trust_code: bool = False
) -> LoadedModel:
    """Build `spec`, read its weights, fit them; see `models.registry.load`."""
    if code or spec.arch == "external":
        return _external(spec, path, code, trust_code)
    path = path or weights.fetch(spec.weights, spec.name)
    checkpoint = checkpoints.read(path, spec.weights.layout)
    module = _blank(spec)
    notes = adapt.adapt(checkpoint, module, spec.arch, allow_partial=allow_partial)
    return _loaded(spec, module, (f"layout {checkpoint.layout}", *notes))


def _blank(spec: ModelSpec) -> Embedder:
    # What a partial checkpoint lacks keeps these numbers, so they must be the same every time.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Embedder(spec, trunk_of(spec))


def _loaded(spec: ModelSpec, module: Embedder, notes: tuple[str, ...], code: str = "") -> LoadedModel:
    module.eval().requires_grad_(False)
    return LoadedModel(spec, module, digest_of(spec, module, code), notes)


def _external(spec: ModelSpec, path: Path | None, code: str, trust_code: bool) -> LoadedModel:
    from models.trusted import load_trusted

    if not code and path is None:
        raise UserError(f"{spec.name}: arch external needs --code FILE.py:build or a .pt2 file.")
    if spec.head != "none":
        raise UserError(f"{spec.name}: head: trusted code brings its own: pass --head none.")
    source = code or str(path)
    module = Embedder(spec, Trunk(load_trusted(source, trust_code=trust_code), spec.dim), source)
    notes: tuple[str, ...] = (f"code from {source}",)
    if code and path is not None:
        checkpoint = checkpoints.read(path, spec.weights.layout)
        notes += adapt.adapt(checkpoint, module, source, by_code=True)
    # Part of what such a model computes is its code, so the file belongs to the digest.
    file = Path(source.rpartition(":")[0]) if code else Path(source)
    return _loaded(spec, module, notes, weights.sha256_of(file))
