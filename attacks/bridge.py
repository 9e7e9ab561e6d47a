"""Any foolbox attack by name, with its parameters: "foolbox:LinfPGD:steps=100,rel_stepsize=0.1".

foolbox (Rauber et al. 2017, arXiv 1707.04131) attacks classifiers, so it is shown the
nearest-neighbour classifier over the gallery's classes (`attacks.metered`), which is wrong exactly
where recall@1 fails: these attacks aim at k = 1. foolbox is imported when a name asks for it.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attacks import foolbox_names, noise
from attacks.attack import Attack, Metered
from attacks.budget import Budget
from attacks.errors import UserError
from attacks.foolbox_names import PREFIX
from attacks.metered import NearestNeighbour
from attacks.objectives import Margin

_log = logging.getLogger(__name__)

# Candidates for a starting point that a row tries, the nearest first.
_TRIES = 16


def find(name: str) -> Attack:
    """The attack of a full name such as "foolbox:LInfFMNAttack", with foolbox's own parameters.

    Raises UserError for a name that foolbox lacks, an attack that cannot keep rows aligned, and
    where foolbox is not installed.
    """
    kind = name.removeprefix(PREFIX)
    search = Bridge(name, foolbox_names.defaults(kind))
    declares = foolbox_names.declares(kind)
    return Attack(name, Margin(), search, declares=declares, about=f"foolbox's {kind} on k = 1")


@dataclass(frozen=True)
class Bridge:
    """A `Whole` search that hands batches to a foolbox attack; `options` are its parameters.

    It aims at k = 1. What foolbox draws from the global generators of torch and numpy follows from
    (seed, ids, budget), and the caller's generators stay as they were.
    """

    name: str
    options: Mapping[str, Any]
    paper: str = "arXiv 1707.04131"

    @property
    def kind(self) -> str:
        """The class name in foolbox.attacks."""
        return self.name.removeprefix(PREFIX)

    @property
    def min_norm(self) -> bool:
        """Whether foolbox looks for the smallest perturbation."""
        return foolbox_names.is_min_norm(self.kind)

    @property
    def passes(self) -> int:
        """About how many forward passes a query gets at most in one run."""
        return foolbox_names.passes(self.kind, self.options)

    def change(self, option: str, text: str) -> "Bridge":
        """The same attack with another parameter, given as text; a wrong one raises UserError."""
        value = foolbox_names.read(self.kind, option, text)
        return replace(self, options={**self.options, option: value})

    def require_norm(self, norm: str) -> None:
        """Raise UserError if the attack is for another norm, or cannot be built."""
        foolbox_names.build(self.kind, self.options, norm)

    def run(self, model: Metered, x: Tensor, ids: list[int], budget: Budget, seed: int) -> Tensor:
        """What foolbox finds for clean images (rows, C, H, W); rows it cannot start stay clean."""
        batch = _Batch(self.name, foolbox_names.build(self.kind, self.options, budget.norm), model, x, budget)
        own = noise.key(seed, budget.norm, budget.radius, *ids)
        with noise.seeded(own, range(torch.cuda.device_count())), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return batch.run(foolbox_names.needs_start(self.kind))


class _Batch:
    """One batch in front of one foolbox attack."""

    def __init__(self, name: str, attack: Any, model: Metered, x: Tensor, budget: Budget) -> None:
        self.name, self.attack, self.model, self.x, self.budget = name, attack, model, x, budget
        self.found, self.lost = x.clone(), 0
        self.fixed = {} if foolbox_names.is_min_norm(type(attack).__name__) else {"epsilon": budget.eps}

    def run(self, needs_start: bool) -> Tensor:
        """Attack all rows; those that find no start among clean images get foolbox's own."""
        rows = torch.arange(len(self.x), device=self.x.device)
        if needs_start:
            starts, without = find_starts(self.model, self.x, self.budget)
            started = rows[~torch.isin(rows, without)]
            self._attempt(started, starts[started])
            rows = without
        self._attempt(rows, None)
        if self.lost:
            _log.warning(
                "%s cannot start on %d of %d queries; they count as clean.", self.name, self.lost, len(self.x)
            )
        return self.found

    def _attempt(self, rows: Tensor, starts: Tensor | None) -> None:
        """Run some rows; where foolbox gives up on all for the sake of one, each half by itself."""
        if not len(rows):
            return
        try:
            self.found[rows] = self._call(rows, starts)
        except _NoStartError:
            if len(rows) == 1:
                self.lost += 1
                return
            half = len(rows) // 2
            for part in (slice(None, half), slice(half, None)):
                self._attempt(rows[part], None if starts is None else starts[part])

    def _call(self, rows: Tensor, starts: Tensor | None) -> Tensor:
        import foolbox

        model, x = self.model[rows], self.x[rows]
        classifier = foolbox.PyTorchModel(NearestNeighbour(model), bounds=(0, 1), device=x.device)
        criterion = foolbox.Misclassification(model.labels)
        more = self.fixed if starts is None else {**self.fixed, "starting_points": starts}
        try:
            found: Tensor = self.attack.run(classifier, x, criterion, **more)
        except UserError as error:
            raise UserError(f"{self.name} is refused: {error}") from error
        # foolbox may raise anything: its own sentence goes to the user, unless it is about a start.
        except Exception as error:
            raise self._explain(error) from error
        if found.shape != x.shape:
            raise UserError(
                f"{self.name} is refused: for images {tuple(x.shape)} it returns {tuple(found.shape)}, "
                "so its rows are not aligned with the queries."
            )
        return found

    def _explain(self, error: Exception) -> Exception:
        text = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, AssertionError) or any(sign in text for sign in _START_FAILURES):
            return _NoStartError()
        # Out of memory: whoever chose the batch tries a smaller one.
        if isinstance(error, RuntimeError) and "memory" in text:
            return error
        return UserError(f"{self.name} fails ({type(error).__name__}: {text}).")


class _NoStartError(Exception):
    """foolbox has no adversarial point for one of the rows, and raises for all."""


# What foolbox says where a row has no adversarial starting point, or (by a bare assertion) where one
# slips back over the boundary by rounding.
_START_FAILURES = ("init_attack failed for", "starting_points are not adversarial")


def find_starts(model: Metered, x: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
    """The nearest clean image of the task that breaks each row: (rows, C, H, W), and rows without one.

    foolbox's own start is uniform noise, which most embeddings put beside the same few classes.
    """
    others, starts = model.others(), x.clone()
    rows = torch.arange(len(x), device=x.device)
    if not len(others):
        return starts, rows
    far = torch.stack([budget.size(others, image.expand_as(others)) for image in x])
    order = far.argsort(1).to(x.device)
    for turn in range(min(_TRIES, len(others))):
        some = model[rows]
        images = others[order[rows, turn]]
        with torch.no_grad():
            breaks = some.logits(images).argmax(1) != some.labels
        starts[rows[breaks]] = images[breaks]
        rows = rows[~breaks]
        if not len(rows):
            break
    return starts, rows
