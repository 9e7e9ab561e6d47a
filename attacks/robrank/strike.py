"""The search that the family prescribes, and the loop that runs it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.budget import Budget, Linf, parse_radius
from attacks.robrank.bout import NUDGE, TOP, Bout
from attacks.robrank.threats import THREATS, Threat
from attacks.searches import Look, Search, State, begin, climb
from attacks.victim import Victim

VERSION = 1
"""Raised when a definition changes, so that old rows are told apart."""

_SMALL = 64


@dataclass(frozen=True)
class Steady(Search):
    """Steps of one fixed length along the steepest ascent, from the clean image; the last iterate counts."""

    steps: int = 32
    length: str = "3/255"
    name = "steady"
    paper = "arXiv 2002.11293"

    def start(self, x: Tensor, budget: Budget, ids: list[int], seed: int) -> State:
        return begin(x, budget)

    def step(self, state: State, budget: Budget, look: Look) -> State:
        climb(state, budget, look.slope, torch.full_like(state.radii, parse_radius(self.length)))
        return state


def budget_for(shape: Sequence[int]) -> Budget:
    """L-inf 8/255, or 77/255 for images (C, H, W) of a side under 64 pixels."""
    return Linf("77/255" if max(shape[-2:]) < _SMALL else "8/255")


def suite_digest(search: Steady, budget: Budget) -> str:
    """Sixteen hex digits over everything that determines what is found."""
    facts = [VERSION, [t.name for t in THREATS], vars(search), budget.radius, TOP, NUDGE]
    text = json.dumps([*facts, torch.__version__.split("+")[0]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def strike(victim: Victim, threat: Threat, bout: Bout, x: Tensor, search: Steady, budget: Budget) -> Tensor:
    """The last iterate of one threat from clean images (rows, C, H, W)."""
    state = search.start(x, budget, [], 0)
    still = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for t in range(search.steps):
        leaf, raw = victim.probe(state.point, True)
        loss = threat.loss(bout.gallery.prepare(raw), bout)
        (padded,) = torch.autograd.grad(loss.sum(), leaf)
        gradient = padded[: len(x)].nan_to_num(0.0)[:, None]
        clock = torch.full((len(x),), t, device=x.device)
        state = search.step(state, budget, Look(loss.detach()[:, None], gradient, clock, still))
    return state.point


def measure(victim: Victim, threat: Threat, bout: Bout, x: Tensor) -> dict[str, Tensor]:
    """What a threat reports of images (rows, C, H, W), in float32 by the plain model: each (rows,)."""
    vectors = bout.gallery.prepare(victim.embed(x))
    return {name: judge(vectors, bout).float() for name, judge in threat.values.items()}
