"""Clean metrics of every query: rank of the best match, MAP@R's term and R-precision."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.budget import wide
from attacks.retrieval import Embedded, Gallery, Marks, ranks, split
from benchmark.screening import BLOCK, Screen, able


@dataclass(frozen=True)
class CleanMetrics:
    """Per query (Q,): `matches` R_i; `rank` 1 = best; `average_precision` and `r_precision` in [0, 1].

    A query without a match has rank G + 1 and NaN: it is excluded and counted.
    """

    matches: np.ndarray
    rank: np.ndarray
    average_precision: np.ndarray
    r_precision: np.ndarray

    def recall(self, k: int) -> float:
        """Clean recall@k over the queries that have a match."""
        return float((self.rank[self.matches > 0] <= k).mean())


def clean_metrics(
    gallery: Gallery, queries: Embedded, block: int = 512, *, screen: bool = True
) -> CleanMetrics:
    """Rank the gallery for every query; blocked, so memory is `block` x G similarities.

    MAP@R (Musgrave et al. 2020, arXiv 2003.08505) averages (1/R) * sum over t <= R of
    precision@t * relevant@t. Impostors tied with a match stand before it. `screen`: by a product in
    bfloat16 first where that pays, which changes nothing that is found.
    """
    matches = gallery.count_matches(queries.labels, queries.ids)
    rank = np.full(len(queries), len(gallery) + 1)
    average, precision = np.full(len(queries), np.nan), np.full(len(queries), np.nan)
    wanted = np.flatnonzero(matches)
    if screen and able(gallery):
        wanted = _screened(gallery, queries, matches, wanted, (rank, average, precision))
    rank[wanted] = ranks(gallery, queries[wanted], block)
    for start in range(0, len(wanted), block):
        part = wanted[start : start + block]
        average[part], precision[part] = _at_r(gallery, queries[part], matches[part])
    return CleanMetrics(matches, rank, average, precision)


def _screened(
    gallery: Gallery,
    queries: Embedded,
    matches: np.ndarray,
    wanted: np.ndarray,
    into: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Write what screening settles of the queries `wanted` into the metrics; the others are returned."""
    screen, left = Screen(gallery), []
    for start in range(0, len(wanted), BLOCK):
        part = wanted[start : start + BLOCK]
        found = screen(queries, part, matches[part])
        for target, values in zip(into, (found.rank, found.average, found.precision), strict=True):
            target[part[found.sure]] = values[found.sure]
        left.append(part[~found.sure])
    return np.concatenate(left) if left else wanted


def _at_r(gallery: Gallery, queries: Embedded, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both metrics at R; queries with an impostor within float32 noise of a match are settled in float64."""
    raw = queries.vectors.float()
    marks = gallery.marks(queries.labels, queries.ids)
    size = torch.from_numpy(matches).to(raw.device)
    similarity = gallery.similarity(gallery.prepare(raw))
    average, precision, doubt = _placed(gallery, similarity, marks, size, gallery.noise)
    # Where the device has no float64, impostors in doubt stand before the match.
    if doubt.any() and raw.device.type != "mps":
        similarity = gallery.precise(raw[doubt])
        exact, precise, _ = _placed(gallery, similarity, marks[doubt], size[doubt], gallery.tie)
        average[doubt], precision[doubt] = exact, precise
    return average.numpy(), precision.numpy()


def _placed(
    gallery: Gallery, similarity: Tensor, marks: Marks, size: Tensor, noise: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Both metrics from two short sorted lists: only the R nearest impostors can stand before R.

    Impostors less than `noise` behind a match stand before it. Also tells the queries for which `noise`
    makes a difference. All on the CPU, (rows,).
    """
    similarity, near, members = split(gallery, similarity, marks)
    near = near.masked_fill(_repeats(members), -torch.inf).sort(1, descending=True).values
    near = near[:, : int(size.max())].contiguous()
    impostors = similarity.topk(min(near.shape[1], similarity.shape[1]), dim=1).values
    size = size[:, None]
    nth = torch.arange(1, near.shape[1] + 1, device=near.device)
    # Ascending order of the negatives: how many impostors are at least as similar as each match.
    ahead, least = (torch.searchsorted(-impostors, off - near, right=True) for off in (noise, -noise))
    place = nth + ahead
    known = (nth <= size) & torch.isfinite(near)
    doubt = (known & (nth + least <= size) & (ahead != least)).any(1)
    counted = known & (place <= size)
    terms = wide(torch.where(counted, nth / place, 0.0)).sum(1).cpu() / size[:, 0].cpu()
    return terms, counted.sum(1).cpu().double() / size[:, 0].cpu(), doubt.cpu()


def _repeats(members: Tensor) -> Tensor:
    """Where a short row of the member table repeats its first entry."""
    repeats = members == members[:, :1]
    repeats[:, 0] = False
    return repeats
