"""The table of threats: what each moves, from which pool its target comes, its loss, its measure.

A loss and a measure see the prepared embeddings (rows, D) of the moved images and their `Bout`. What is
nearest or furthest is chosen anew at every step. Within float32 noise ties count against the model, and
so does an embedding that is no number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.retrieval import Standing, apart
from attacks.robrank.bout import Bout

NOISE = 1e-6
"""Cosines nearer than this are one and the same in float32."""

RETAIN = 4
"""GTT pushes the first item out of so many."""

Judge = Callable[[Tensor, Bout], Tensor]
Contest = Callable[[Tensor, Bout], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Threat:
    """One attack: which image moves, the pool of its target, the loss that it raises (rows,).

    `values` are what is reported, by name, one number per row (percentiles and hits in percent).
    """

    name: str
    moves: Literal["query", "candidate"]
    pool: str
    loss: Judge
    values: Mapping[str, Judge]


def by_query(vectors: Tensor, bout: Bout) -> tuple[Tensor, Tensor]:
    """The moved query's similarity to its target (rows,) and to all items (rows, G)."""
    return (vectors * bout.aim).sum(1), bout.gallery.similarity(vectors)


def by_candidate(vectors: Tensor, bout: Bout) -> tuple[Tensor, Tensor]:
    """The moved candidate's similarity to the clean query, and those of the clean items."""
    return (vectors * bout.queries).sum(1), bout.clean


def rise(contest: Contest) -> Judge:
    """Raise the target: minus the mean lead of the rivals still before it."""
    return lambda vectors, bout: _behind(contest(vectors, bout), bout, 1)


def fall(contest: Contest) -> Judge:
    """Lower the target: minus its mean lead over the rivals still behind it."""
    return lambda vectors, bout: _behind(contest(vectors, bout), bout, -1)


def _behind(stand: tuple[Tensor, Tensor], bout: Bout, sign: int) -> Tensor:
    target, others = stand
    lead = (sign * (others - target[:, None])).clamp_min(0)
    return -(lead * bout.rivals).sum(1) / bout.rivals.sum(1).clamp_min(1)


def percentile_risen(contest: Contest) -> Judge:
    """Percent of the rivals before the target, 0 = top; ties stand behind it."""

    def judge(vectors: Tensor, bout: Bout) -> Tensor:
        target, others = contest(vectors, bout)
        return _percent((others > target[:, None] + NOISE) & bout.rivals, bout.rivals)

    return judge


def percentile_fallen(contest: Contest) -> Judge:
    """Percent of the rivals before the target, 0 = top; ties stand before it."""

    def judge(vectors: Tensor, bout: Bout) -> Tensor:
        target, others = contest(vectors, bout)
        return _percent(_not_below(target, others, bout), bout.rivals)

    return judge


def _not_below(target: Tensor, others: Tensor, bout: Bout) -> Tensor:
    # Written as a negation, because every comparison with NaN is false.
    return ~(others < target[:, None] - NOISE) & bout.rivals


def _percent(before: Tensor, rivals: Tensor) -> Tensor:
    return 100 * before.sum(1) / rivals.sum(1).clamp_min(1)


def cosine(vectors: Tensor, bout: Bout) -> Tensor:
    """Similarity to the target's embedding."""
    return (vectors * bout.aim).sum(1)


def shift(vectors: Tensor, bout: Bout) -> Tensor:
    """Distance from a point a little beside the clean embedding, where the distance has a gradient."""
    return (vectors - bout.queries + bout.nudge).norm(dim=1)


def shifted(vectors: Tensor, bout: Bout) -> Tensor:
    """Distance from the clean embedding, 0 to 2."""
    return (vectors - bout.queries).norm(dim=1)


def misrank(vectors: Tensor, bout: Bout) -> Tensor:
    """LTM: the nearest match away, the furthest impostor near."""
    with torch.no_grad():
        impostors, _, _ = apart(bout.gallery, vectors, bout.marks)
        far = impostors.masked_fill(impostors == -torch.inf, torch.inf).argmin(1)
        near = Standing(bout.gallery, vectors, bout.marks).match_at
    items = bout.gallery.vectors
    return (vectors - items[near]).norm(dim=1) - (vectors - items[far]).norm(dim=1)


def mismatch(vectors: Tensor, bout: Bout) -> Tensor:
    """GTM as it is meant: toward the impostor that is nearest at this step."""
    with torch.no_grad():
        _, at = Standing(bout.gallery, vectors, bout.marks).impostors(1)
    return (vectors * bout.gallery.vectors[at[:, 0]]).sum(1)


def translocate(vectors: Tensor, bout: Bout) -> Tensor:
    """GTT: the item that was first away, the fourth of the others near."""
    with torch.no_grad():
        others = bout.gallery.similarity(vectors).masked_fill(~bout.rivals, -torch.inf)
        near, at = others.topk(min(RETAIN, others.shape[1]), dim=1)
    fourth = (vectors * bout.gallery.vectors[at[:, -1]]).sum(1)
    return torch.where(near[:, -1] > -torch.inf, fourth, 0.0) - (vectors * bout.aim).sum(1)


def retained(vectors: Tensor, bout: Bout) -> Tensor:
    """100 where the item that was first is still among the first four, else 0."""
    before = _not_below(*by_query(vectors, bout), bout)
    return 100.0 * (before.sum(1) < RETAIN)


def hit(vectors: Tensor, bout: Bout) -> Tensor:
    """100 where the best match still ranks first, else 0."""
    return 100.0 * (Standing(bout.gallery, vectors, bout.marks, -NOISE).rank == 1)


def _or(worst: float, judge: Judge) -> Judge:
    """The measure, or the worst there is where an embedding is no number."""
    return lambda vectors, bout: judge(vectors, bout).nan_to_num(worst)


THREATS = (
    Threat("CA+", "candidate", "any", rise(by_candidate), {"CA+": percentile_risen(by_candidate)}),
    Threat("CA-", "candidate", "top", fall(by_candidate), {"CA-": percentile_fallen(by_candidate)}),
    Threat("QA+", "query", "any", rise(by_query), {"QA+": percentile_risen(by_query)}),
    Threat("QA-", "query", "top", fall(by_query), {"QA-": percentile_fallen(by_query)}),
    Threat("TMA", "query", "any", cosine, {"TMA": _or(1.0, cosine)}),
    Threat("ES", "query", "any", shift, {"ES:D": _or(2.0, shifted), "ES:R": hit}),
    Threat("LTM", "query", "any", misrank, {"LTM": hit}),
    Threat("GTM-near", "query", "any", mismatch, {"GTM-near": hit}),
    Threat("GTT", "query", "first", translocate, {"GTT": retained}),
)
