"""Signs that an answer is wrong: what can be told from embeddings and stored images alone.

Levels as in protocol.md, section "Trust checks": "note", "flag" (a badge), "block" (no rank), and
"not run". The ones that need further attacks are listed as not run, never left out in silence.
"""

import hashlib
from collections import Counter
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from attacks.budget import Budget, wide
from attacks.errors import UserError
from attacks.retrieval import Gallery, Standing
from attacks.victim import Victim
from benchmark.scoring import Outcome, Scorer, out_of_memory
from benchmark.tasks import RetrievalTask
from leaderboard.records import Check

_SAMPLE = 64
_MOST_TWINS = 2000
_DECIDED = 512
NOT_RUN = (
    "gradient at a random start",
    "R@1 at L-inf 0.5",
    "one step against iterative",
    "twice the steps",
    "black-box against white-box",
    "8-bit rounding",
)


@lru_cache(maxsize=1)  # one scorer serves many shards
def clean_checks(scorer: Scorer) -> list[Check]:
    """Checks of the clean embeddings: repeatability, the collapse gate and the resolution."""
    vectors = scorer.gallery.vectors
    return [
        repeats(scorer),
        _collapse(scorer),
        _rank_check(effective_rank(vectors)),
        _twins(scorer),
        resolution(scorer),
        _cosine(scorer.gallery),
    ]


def repeats(scorer: Scorer) -> Check:
    """Five forward passes over the same images must agree to 1e-4 of the median gallery distance.

    One of them carries a gradient, as in an attack: a model that then embeds in another way is
    attacked where it is not measured.
    """
    x, scale = _sample(scorer)
    passes = [*(_embed(scorer, x) for _ in range(4)), _embed(scorer, x, gradient=True)]
    apart = max(_apart(one, passes[0]) for one in passes) / scale
    message = f"5 passes over {len(x)} images differ by {apart:.1e} of the median distance (limit 1e-4)"
    return _check("repeatability", apart > 1e-4, "block", message)


def require_independence(scorer: Scorer) -> None:
    """Refuse a model whose embedding of an image depends on the other images of its batch.

    One image alone is compared with itself among 63 others; a model that differs between two equal
    passes as well is random instead, which `repeats` blocks.
    """
    x, scale = _sample(scorer)
    among = _embed(scorer, x)[:4]
    again = _embed(scorer, x)[:4]
    alone = torch.cat([_embed(scorer, x[i : i + 1]) for i in range(min(4, len(x)))])
    apart, random = (_apart(other, among) / scale for other in (alone, again))
    if apart > 1e-4 and apart > 10 * random:
        raise UserError(
            f"The model's embedding of an image depends on the other images of its batch (by {apart:.1e} of "
            "the median gallery distance, limit 1e-4); make each image's embedding its own."
        )


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest distance between rows; an embedding that is no number equals itself alone."""
    same = (one == other) | (one.isnan() & other.isnan())
    gap = torch.where(same, 0.0, one - other).nan_to_num(torch.inf)
    return float(gap.norm(dim=1).max())


def _sample(scorer: Scorer) -> tuple[Tensor, float]:
    step = max(1, len(scorer.positions) // _SAMPLE)
    scale = max(scorer.gallery.spread() ** 0.5, 1e-6)
    return scorer.task.load(scorer.positions[::step][:_SAMPLE]).to(scorer.device), scale


def _embed(scorer: Scorer, x: Tensor, gradient: bool = False) -> Tensor:
    """Embed all images in one batch; where that does not fit into memory, in the run's batches."""
    victim = Victim(scorer.model, scorer.gallery, scorer.device)

    def go(batch: int) -> Tensor:
        # Not `probe`, which refuses a model without gradient: one may be shown to noise.
        with torch.set_grad_enabled(gradient):
            parts = [part.clone().requires_grad_(gradient) for part in x.split(batch)]
            return torch.cat([victim.plain(part).detach() for part in parts])

    try:
        vectors = go(len(x))
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        vectors = go(scorer.batch)
    return scorer.gallery.prepare(vectors)


def _collapse(scorer: Scorer) -> Check:
    r1, chance = scorer.clean.recall(1), chance_of(scorer.task)
    floor = max(5 * chance, 0.05)
    message = f"clean R@1 {100 * r1:.1f} % (at least {100 * floor:.1f} %: 5 x chance, and 5 %)"
    return _check("clean R@1", r1 < floor, "block", message)


def chance_of(task: RetrievalTask) -> float:
    """R@1 of a random ranking: the mean share of matches among a query's candidates."""
    inside = np.isin(task.ids[task.query], task.ids[task.gallery])
    counted = task.matches > 0
    return float((task.matches[counted] / (len(task.gallery) - inside[counted])).mean())


def effective_rank(vectors: Tensor) -> float:
    """Exp of the entropy of the centred covariance spectrum (Roy & Vetterli 2007); D at most."""
    centred = wide(vectors - vectors.mean(0))
    energy = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    share = energy / energy.sum().clamp_min(1e-300)
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))


def _rank_check(rank: float) -> Check:
    return _check(
        "effective rank", rank < 5, "block", f"effective rank of the gallery {rank:.1f} (at least 5)"
    )


def _twins(scorer: Scorer) -> Check:
    """Images that share an embedding with a different image; equal images are not counted."""
    _, group, counts = np.unique(
        scorer.vectors.cpu().numpy(), axis=0, return_inverse=True, return_counts=True
    )
    group = group.reshape(-1)
    suspects = np.flatnonzero(counts[group] > 1)
    some = suspects[np.argsort(group[suspects], kind="stable")][:_MOST_TWINS]
    images = [scorer.task.load([place])[0].numpy().tobytes() for place in scorer.positions[some]]
    distinct = {
        (int(g), hashlib.sha256(image).digest()) for g, image in zip(group[some], images, strict=True)
    }
    crowd = Counter(g for g, _ in distinct)
    twins = sum(n for n in crowd.values() if n > 1) * len(suspects) / max(1, len(some))
    share = twins / len(scorer.vectors)
    return _check(
        "identical embeddings",
        share > 0.01,
        "block",
        f"{100 * share:.2f} % of the images share an embedding with another (at most 1 %)",
    )


def resolution(scorer: Scorer) -> Check:
    """Few clean queries may be decided by less than ten times tau, the lead that a claim needs.

    Embeddings squeezed together (a large constant added to all of them is enough) leave every lead
    below tau: nothing could be claimed, and the model would seem robust at every budget.
    """
    able = np.flatnonzero(scorer.clean.matches)
    rows = able[:: max(1, len(able) // _DECIDED)]
    gallery, queries = scorer.gallery, scorer.queries
    places = torch.from_numpy(rows).to(scorer.device)
    marks = gallery.marks(queries.labels[rows], queries.ids[rows])
    standing = Standing(gallery, gallery.prepare(queries.vectors[places]), marks)
    lead = (standing.impostors(1)[0][:, 0] - standing.match).abs()
    share = float((lead <= 10 * gallery.tau).float().mean())
    message = f"{100 * share:.1f} % of the queries are decided by less than 10 tau (at most 5 %)"
    return _check("resolution", share > 0.05, "block", message)


def _cosine(gallery: Gallery) -> Check:
    if gallery.distance != "cosine":
        return Check(name="mean cosine", level="not run", message="for cosine models only")
    n, total = len(gallery), wide(gallery.vectors).sum(0)
    mean = float((total.square().sum() - n) / (n * max(1, n - 1)))
    return _check("mean cosine", mean > 0.95, "note", f"mean pairwise cosine {mean:.3f} (note above 0.95)")


def rescore(scorer: Scorer, outcome: Outcome) -> Check:
    """Score the kept images again in another batch: each must break the same k at half the margin."""
    record = outcome.record
    kept = {place: image for place, image in record.kept.items() if image is not None}
    if not kept:
        return Check(name="re-scoring", level="not run", message="no perturbed image was kept")
    rows = outcome.rows[list(kept)]
    x = torch.stack(list(kept.values())).to(scorer.device)
    origin = scorer.task.load(scorer.task.query[rows]).to(scorer.device)
    inside = within(record.budgets[record.keep_at], x, origin)
    marks = scorer.gallery.marks(scorer.queries.labels[rows], scorer.queries.ids[rows])
    rank = Standing(scorer.gallery, _embed(scorer, x), marks, scorer.gallery.tau / 2).rank.cpu().numpy()
    claimed = record.rank[record.keep_at, list(kept)]
    held = int((record.level(rank) >= record.level(claimed)).sum())
    held_in = "all" if inside else "not all"
    message = f"{held} of {len(kept)} kept images hold at half the margin, {held_in} within the budget"
    return _check("re-scoring", held < len(kept) or not inside, "block", message)


def within(budget: Budget, x: Tensor, origin: Tensor) -> bool:
    """The budget audit: every perturbation within the limit in float64, every pixel in [0, 1]."""
    small = bool((budget.size(x, origin) <= budget.limit).all())
    return small and bool((x >= 0).all() and (x <= 1).all())


def _check(name: str, bad: bool, level: Literal["note", "flag", "block"], message: str) -> Check:
    return Check(name=name, level=level if bad else "ok", message=message)
