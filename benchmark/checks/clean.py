"""Signs that the clean embeddings cannot be trusted."""

import hashlib
from collections import Counter
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from attacks.budget import wide
from attacks.errors import UserError
from attacks.retrieval import Gallery, Standing
from attacks.victim import Victim
from benchmark.checks.verdict import not_run, verdict
from benchmark.scoring import Scorer, halving
from benchmark.tasks import RetrievalTask
from leaderboard.records import Check
from models.averaged import Averaged

_SAMPLE = 64
_MOST_TWINS = 2000
_DECIDED = 512


# One scorer serves many shards; what was found goes when the scorer does.
_FOUND: WeakKeyDictionary[Scorer, list[Check]] = WeakKeyDictionary()


def clean_checks(scorer: Scorer) -> list[Check]:
    """Checks of the clean embeddings: repeatability, the collapse gate and the resolution."""
    if scorer not in _FOUND:
        _FOUND[scorer] = _checked(scorer)
    return _FOUND[scorer]


def _checked(scorer: Scorer) -> list[Check]:
    vectors = scorer.gallery.vectors
    return [
        repeats(scorer),
        *_expectation(scorer),
        independence(scorer),
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
    passes = [*(embed(scorer, x) for _ in range(4)), embed(scorer, x, gradient=True)]
    apart = max(_apart(one, passes[0]) for one in passes) / scale
    message = f"5 passes over {len(x)} images differ by {apart:.1e} of the median distance (limit 1e-4)"
    if apart > 1e-4 and not isinstance(scorer.model, Averaged):
        message += "; --eot 10 attacks the mean of 10 passes instead (a preliminary row)"
    return verdict("repeatability", apart > 1e-4, "block", message, apart, 1e-4)


def _expectation(scorer: Scorer) -> list[Check]:
    """A row that scores a mean of passes scores another model than the one handed in."""
    if not isinstance(scorer.model, Averaged):
        return []
    passes = scorer.model.passes
    message = f"each embedding is the mean of {passes} passes of a random model: preliminary by protocol"
    return [verdict("expectation over passes", True, "block", message, passes, 1)]


def require_independence(scorer: Scorer) -> None:
    """Refuse a model whose embedding of an image depends on the other images of its batch.

    A model that differs between two equal passes as well is random instead, which `repeats` blocks.
    """
    apart, random = _alone(scorer)
    if apart > 1e-4 and apart > 10 * random:
        raise UserError(
            f"The model's embedding of an image depends on the other images of its batch (by {apart:.1e} of "
            "the median gallery distance, limit 1e-4); make each image's embedding its own."
        )


def independence(scorer: Scorer) -> Check:
    """One image alone embeds as it does among 63 others (`require_independence` as a check)."""
    apart, random = _alone(scorer)
    if apart <= 10 * random and apart > 1e-4:
        return not_run("batch independence", "the model is random, which hides what its batches do")
    message = f"an image alone and among others differ by {apart:.1e} of the median distance (limit 1e-4)"
    return verdict("batch independence", apart > 1e-4, "block", message, apart, 1e-4)


def _alone(scorer: Scorer) -> tuple[float, float]:
    """How far images alone lie from themselves among 63 others, and from a second such pass."""
    x, scale = _sample(scorer)
    among = embed(scorer, x)[:4]
    again = embed(scorer, x)[:4]
    alone = torch.cat([embed(scorer, x[i : i + 1]) for i in range(min(4, len(x)))])
    return _apart(alone, among) / scale, _apart(again, among) / scale


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest distance between rows; an embedding that is no number equals itself alone."""
    same = (one == other) | (one.isnan() & other.isnan())
    gap = torch.where(same, 0.0, one - other).nan_to_num(torch.inf)
    return float(gap.norm(dim=1).max())


def _sample(scorer: Scorer) -> tuple[Tensor, float]:
    step = max(1, len(scorer.positions) // _SAMPLE)
    scale = max(scorer.gallery.spread() ** 0.5, 1e-6)
    return scorer.task.load(scorer.positions[::step][:_SAMPLE]).to(scorer.device), scale


def embed(scorer: Scorer, x: Tensor, gradient: bool = False) -> Tensor:
    """Embed all images in one batch; in halves of it where that does not fit into memory."""
    victim = Victim(scorer.model, scorer.gallery, scorer.device)

    def go(batch: int) -> Tensor:
        # Not `probe`, which refuses a model without gradient: one may be shown to noise.
        with torch.set_grad_enabled(gradient):
            parts = [part.clone().requires_grad_(gradient) for part in x.split(batch)]
            return torch.cat([victim.plain(part).detach() for part in parts])

    vectors = halving(go, len(x))
    return scorer.gallery.prepare(vectors)


def _collapse(scorer: Scorer) -> Check:
    r1, chance = scorer.clean.recall(1), chance_of(scorer.task)
    floor = max(5 * chance, 0.05)
    message = f"clean R@1 {100 * r1:.1f} % (at least {100 * floor:.1f} %: 5 x chance, and 5 %)"
    return verdict("clean R@1", r1 < floor, "block", message, 100 * r1, 100 * floor)


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
    message = f"effective rank of the gallery {rank:.1f} (at least 5)"
    return verdict("effective rank", rank < 5, "block", message, rank, 5)


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
    message = f"{100 * share:.2f} % of the images share an embedding with another (at most 1 %)"
    return verdict("identical embeddings", share > 0.01, "block", message, 100 * share, 1)


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
    return verdict("resolution", share > 0.05, "block", message, 100 * share, 5)


def _cosine(gallery: Gallery) -> Check:
    if gallery.distance != "cosine":
        return not_run("mean cosine", "for cosine models only")
    n, total = len(gallery), wide(gallery.vectors).sum(0)
    mean = float((total.square().sum() - n) / (n * max(1, n - 1)))
    message = f"mean pairwise cosine {mean:.3f} (note above 0.95)"
    return verdict("mean cosine", mean > 0.95, "note", message, mean, 0.95)
