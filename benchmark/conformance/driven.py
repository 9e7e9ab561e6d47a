"""Laws of the search itself, driven by hand (a `Whole` search is watched under the engine instead)."""

import torch
from torch import Tensor

from attacks.searches import Look, Search, State, join, keep
from benchmark.conformance.case import Case, Seen, stirred
from benchmark.conformance.drive import IDS, Slope, Trace, images, misfit
from benchmark.conformance.report import Verdict, exempt, failed, noted, passed

FIXED = "a Whole search gets fixed batches and is declared exempt"
# A share of the radius; sums of other batches may differ in their last bits.
_CLOSE = 1e-3
_OTHERS = tuple(own + 5000 for own in IDS)


def contract(case: Case) -> Verdict:
    """`start` and `step` keep one entry per row in every field; `run` returns one image per row."""
    if case.stepped is None:
        return _returned(case.whole)
    for moment, state in _moments(case.stepped, case):
        rows = len(IDS) if "half" not in moment else len(IDS) // 2
        if wrong := misfit(state, rows, images(IDS)):
            return failed(f"{wrong}, {moment}")
    return passed("it so after start, step, dropping half the rows and joining them again")


def _returned(seen: Seen) -> Verdict:
    for given, _, found, _ in seen.calls:
        if found.shape != given.shape:
            return failed(f"run returned {tuple(found.shape)} for {tuple(given.shape)}")
    return passed(f"it so in {len(seen.calls)} batches")


def _moments(search: Search, case: Case) -> list[tuple[str, State]]:
    budget, ids = case.budget(), list(IDS)
    slope = Slope(budget)
    state = search.start(images(ids), budget, ids, 0)
    moments = [("after start", state)]
    if misfit(state, len(ids), images(ids)):
        return moments
    still = torch.zeros(len(ids), dtype=torch.bool)
    loss, gradient = slope(state.x, ids, still)
    zero = torch.zeros(len(ids), dtype=torch.int64)
    stepped = search.step(state, budget, Look(loss, gradient if search.needs_gradient else None, zero, still))
    moments.append(("after a step", stepped))
    if misfit(stepped, len(ids), images(ids)):
        return moments
    half = torch.arange(len(ids)) < len(ids) // 2
    kept = keep(stepped, half)
    return [*moments, ("after dropping half the rows", kept), ("after joining", join(kept, kept))]


def ball(case: Case) -> Verdict:
    """Every iterate lies in the ball and in the box, up to the tolerance of the audit."""
    if case.stepped is None:
        return _returned_ball(case)
    budget, trace = case.budget(), case.trace()
    over, out = 0.0, 0.0
    for own, iterates in trace.iterates.items():
        origin = images([own])
        for x in torch.cat(iterates):
            over = max(over, float(budget.size(x[None], origin)[0]))
            out = max(out, float(-x.min()), float(x.max() - 1))
    if not over <= budget.limit:
        return failed(f"a perturbation of size {over:.6g} under the radius {budget.radius}")
    if out > 0:
        return failed(f"a pixel {out:.3g} outside [0, 1]")
    return passed(f"the largest of size {over:.6g} under the radius {budget.radius}")


def _returned_ball(case: Case) -> Verdict:
    if case.attack.min_norm:
        return exempt(
            "a min-norm Whole search is not bound to the radius; the engine projects what it returns"
        )
    over = max(
        float((budget.size(found.nan_to_num(), given) / budget.eps).max())
        for given, _, found, budget in case.whole.calls
    )
    if over > 1 + 1e-4:
        return noted(
            f"images at {over:.3g} times the radius; the engine projects what a Whole search returns"
        )
    return passed(f"images at {over:.3g} times the radius at most")


def untouched(case: Case) -> Verdict:
    """Neither the clean images nor `state.origin` are written to."""
    if case.stepped is None:
        touched = {
            "the clean images given to run" for given, left, *_ in case.whole.calls if not given.equal(left)
        }
    else:
        touched = case.trace().touched
    return (
        failed(f"{' and '.join(sorted(touched))} changed in place")
        if touched
        else passed("them as they were")
    )


def finite(case: Case) -> Verdict:
    """No NaN and no infinity."""
    if case.stepped is None:
        found = [found for _, _, found, _ in case.whole.calls]
    else:
        found = [x for some in case.trace().iterates.values() for x in some]
    bad = sum(int((~torch.isfinite(x)).sum()) for x in found)
    return failed(f"{bad} pixels that are NaN or infinite") if bad else passed("none")


def repeatable(case: Case) -> Verdict:
    """The seed and the query ids decide everything; the global generators decide nothing."""
    with stirred(1):
        one = _images_found(case, 0)
    with stirred(2):
        two = _images_found(case, 0)
    if len(one) != len(two) or any(not torch.equal(a, b) for a, b in zip(one, two, strict=True)):
        return failed(
            "other images from the same seed, so something draws from a global generator or a clock"
        )
    other = _images_found(case, 1)
    same = len(other) == len(one) and all(map(torch.equal, one, other))
    if case.stepped is not None and case.stepped.random and same:
        return noted(
            "the same images from another seed too, though it declares random = True: restarts add nothing"
        )
    return passed("the same images from the same seed" + ("" if same else ", others from another seed"))


def _images_found(case: Case, seed: int) -> list[Tensor]:
    if case.stepped is None:
        return [found for _, _, found, _ in case.watch(seed).calls]
    # Not the cached trace: what is asked is whether a second run agrees.
    case.cached.clear()
    trace = case.trace(seed=seed)
    return [x for own in IDS for x in trace.iterates[own]]


def order(case: Case) -> Verdict:
    """Rows in reverse order: each ends where it ended before."""
    if case.stepped is None:
        return exempt(FIXED)
    return _same(case, case.trace(), case.trace((IDS[::-1],)), IDS, "the batch is reversed")


def alone(case: Case) -> Verdict:
    """Every other row replaced by a stranger: those that stay move as before."""
    if case.stepped is None:
        return _aligned(case)
    mixed = tuple(own if i % 2 else _OTHERS[i] for i, own in enumerate(IDS))
    return _same(case, case.trace(), case.trace((mixed,)), IDS[1::2], "its neighbours are other images")


def _aligned(case: Case) -> Verdict:
    for given, _, found, _ in case.whole.calls:
        apart = torch.cdist(found.nan_to_num().flatten(1), given.flatten(1))
        lost = int((apart.argmin(1) != torch.arange(len(given))).sum())
        if lost:
            return failed(f"{lost} of {len(given)} images nearer to another query than to their own")
    return passed("each image nearest to its own query (a Whole search is not held to more)")


def batches(case: Case) -> Verdict:
    """One row at a time, and rows that join and leave in mid-run: each moves as in one batch."""
    if case.stepped is None:
        return exempt(FIXED)
    staggered = (IDS[5:], IDS[2:4], (), IDS[:2], IDS[4:5])
    verdict = _same(case, case.trace(), case.trace(staggered), IDS, "rows join and leave in mid-run")
    if verdict.outcome == "fail":
        return verdict
    singles = Trace()
    for own in IDS[:3]:
        singles.iterates |= case.trace(((own,),)).iterates
    return _same(case, case.trace(), singles, IDS[:3], "each is alone in its batch")


def _same(case: Case, one: Trace, two: Trace, ids: tuple[int, ...], when: str) -> Verdict:
    limit = _CLOSE * case.budget().eps
    apart = {own: _apart(one.iterates[own], two.iterates[own]) for own in ids}
    moved = [own for own, value in apart.items() if not value <= limit]
    if moved:
        return failed(
            f"{len(moved)} of {len(ids)} rows elsewhere (by up to {max(apart.values()):.2g}) when {when}"
        )
    return passed(f"all {len(ids)} rows where they were when {when}")


def _apart(one: list[Tensor], two: list[Tensor]) -> float:
    if len(one) != len(two):
        return float("inf")
    return max(float((a - b).abs().max()) for a, b in zip(one, two, strict=True))


def vanishing(case: Case) -> Verdict:
    """Under a radius of 1e-12 (a radius must be positive) the images stay what they are."""
    if case.stepped is None:
        return exempt("the engine projects what a Whole search returns; see invisible budget")
    trace = case.trace(radius="1e-12")
    moved = max(_apart([images([own])] * len(some), some) for own, some in trace.iterates.items())
    if not moved <= 1e-6:
        return failed(f"a pixel moved by {moved:.3g} under a radius of 1e-12")
    return passed(f"pixels moved by {moved:.2g} at most under a radius of 1e-12")


def climbs(case: Case) -> Verdict:
    """A search that is given gradients goes up: its best iterate beats the clean image, row by row."""
    search = case.stepped
    if search is None or not search.needs_gradient:
        return exempt("only a stepped search that follows gradients can be told to have gone up or down")
    trace, ids = case.trace(), list(IDS)
    clean, _ = Slope(case.budget())(images(ids)[:, None], ids, torch.ones(len(ids), dtype=torch.bool))
    which = "last" if case.attack.last else "best"
    worse = 0
    for row, own in enumerate(ids):
        losses = torch.stack([loss.max() for loss in trace.losses[own]][-1 if case.attack.last else 1 :])
        worse += not bool(losses.max() > clean[row, 0])
    if worse:
        return failed(
            f"{worse} of {len(ids)} rows whose {which} iterate is no worse for the model than the clean image"
        )
    return passed(f"all {len(ids)} rows above it at their {which} iterate")
