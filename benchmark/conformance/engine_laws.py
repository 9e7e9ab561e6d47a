"""Laws of the whole attack, run by the engine on a small world of noisy images."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks.objectives import Scene
from attacks.retrieval import Standing
from attacks.victim import frozen
from benchmark.conformance.case import Case, stirred
from benchmark.conformance.driven import FIXED
from benchmark.conformance.report import Verdict, exempt, failed, passed


def never_helps(case: Case) -> Verdict:
    """Ranks never fall below the clean ones and never fall from one budget to the next."""
    record = case.record
    clean = np.minimum(record.clean, record.top)
    helped, fell = int((record.rank < clean).sum()), int((np.diff(record.rank, axis=0) < 0).sum())
    limits = np.array([budget.limit for budget in record.budgets])[:, None]
    if helped or fell:
        return failed(f"{helped} ranks better than clean and {fell} that fall as the budget grows")
    if not (record.size <= limits).all():
        return failed("a recorded perturbation larger than its budget")
    broken = int((record.rank[-1] > 1).sum())
    return passed(f"so for {record.rank.shape[1]} queries ({broken} broken at the largest budget)")


def schedule(case: Case) -> Verdict:
    """Ranks do not depend on batch size, order or shards, nor on which budgets share a pool."""
    if case.stepped is None:
        return exempt(FIXED)
    rows, rank = np.arange(len(case.world.query)), case.record.rank
    for batch, some in ((1, rows[::6]), (7, rows), (64, rows)):
        if not np.array_equal(case.run(batch=batch, rows=some).rank, rank[:, some]):
            return failed(f"other ranks in batches of {batch} than of 32")
    if not np.array_equal(case.run(rows=rows[::-1]).rank[:, ::-1], rank):
        return failed("other ranks when the queries come in reverse order")
    shards = [case.run(rows=part).rank for part in np.array_split(rows, 3)]
    if not np.array_equal(np.concatenate(shards, 1), rank):
        return failed("other ranks in three shards than in one")
    if case.stepped.own_radii and not np.array_equal(_one_by_one(case).run().rank, rank):
        return failed(
            "other ranks with several budgets in a pool than one by one, though it declares own_radii = True"
        )
    return passed("the same ranks in batches of 1, 7, 32 and 64, in reverse order and in three shards")


def _one_by_one(case: Case) -> Case:
    """The same case, with rows of one budget at a time in a pool."""
    search: Any = copy.copy(case.short.search)
    vars(search)["own_radii"] = False
    return Case(replace(case.short, search=search), case.norm)


def vanishing(case: Case) -> Verdict:
    """An invisible budget breaks nothing."""
    record = case.run(radii=["1e-12"], keep_at=0)
    broken = int((record.rank[0] != np.minimum(record.clean, record.top)).sum())
    return failed(f"{broken} queries broken under a radius of 1e-12") if broken else passed("none broken")


def claims(case: Case) -> Verdict:
    """The kept image reaches the recorded rank by brute force, at half the margin that was asked."""
    record, world = case.record, case.world
    kept = {row: image for row, image in record.kept.items() if image is not None}
    gallery = world.build_gallery()
    for row, image in kept.items():
        with torch.no_grad():
            similarity = gallery.similarity(gallery.prepare(world.model(image[None])))[0].numpy()
        at = world.query[row]
        same, other = world.labels == world.labels[at], world.ids != world.ids[at]
        rank = 1 + int((similarity[~same] >= similarity[same & other].max() + gallery.tau / 2).sum())
        if min(rank, record.top) < record.rank[-1, row]:
            return failed(f"query {row} recorded at rank {record.rank[-1, row]}, embedded again at {rank}")
    return passed(f"{len(kept)} images that reach what was recorded")


def generators(case: Case) -> Verdict:
    """The caller's generators are neither moved nor listened to."""
    with stirred(1):
        before, numbers = torch.get_rng_state(), _numbers()
        case.run(radii=case.radii[-1:], keep_at=0)
        moved = not torch.equal(torch.get_rng_state(), before)
        moved |= not np.array_equal(_numbers(), numbers)
    return failed("the caller's generator moved on") if moved else passed("them where they were")


def _numbers() -> np.ndarray:
    state: Any = np.random.get_state()
    return np.append(state[1], state[2])


def model_untouched(case: Case) -> Verdict:
    """Modes, gradients wanted, parameters and buffers stay as the engine hands them over."""
    model = nn.Sequential(case.world.model, nn.BatchNorm1d(12), nn.Dropout(0.5))
    world = replace(case.world, model=model)
    with frozen(world.model):
        run = world.open(case.norm, case.radii[-1:], batch=case.batch)
        before = _facts(world.model)
        run.attack(case.short)
        after = _facts(world.model)
    changed = [name for name, value in before.items() if not _equal(value, after.get(name))]
    return failed(f"{', '.join(changed)} changed") if changed else passed("it as it was")


def _facts(model: nn.Module) -> dict[str, object]:
    facts: dict[str, object] = {
        f"the mode of {name or 'the model'}": m.training for name, m in model.named_modules()
    }
    facts |= {f"requires_grad of {name}": p.requires_grad for name, p in model.named_parameters()}
    facts |= {f"the gradient of {name}": p.grad is None for name, p in model.named_parameters()}
    return facts | {f"the values of {name}": tensor.clone() for name, tensor in model.state_dict().items()}


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or one == other


def metered(case: Case) -> Verdict:
    """No image goes through the model without the meter having moved first."""
    world, behind, passes = case.world, 0, 0
    with frozen(world.model):
        run = world.open(case.norm, case.radii, batch=case.batch)
        meter = run.victim.meter
        seen = meter.forward

        def look(*_: object) -> None:
            nonlocal seen, behind, passes
            behind, passes, seen = behind + (meter.forward == seen), passes + 1, meter.forward

        hook = world.model.register_forward_pre_hook(look)
        try:
            run.attack(case.short)
        finally:
            hook.remove()
    if behind:
        return failed(f"{behind} of {passes} passes through the model that the meter did not see")
    if case.stepped is not None and not case.stepped.needs_gradient and meter.backward:
        return failed(f"{meter.backward} backward passes of a search that declares needs_gradient = False")
    return passed(f"{meter.forward} forward and {meter.backward} backward on the meter")


def objective(case: Case) -> Verdict:
    """One loss per row that depends on that row only, and crosses zero where it says it does."""
    world, goal = case.world, case.attack.objective
    rows = np.arange(len(world.query))
    with frozen(world.model):
        scene = _scenes(case)
        whole = goal(scene(rows)).detach()
        if whole.shape != (len(rows),):
            return failed(f"a loss of shape {tuple(whole.shape)} for {len(rows)} rows")
        parts = torch.cat([goal(scene(part)).detach() for part in (rows[:1], rows[1:8], rows[8:])])
        backwards = goal(scene(rows[::-1].copy())).detach().flip(0)
        given = scene(rows)
        beyond = given.standing.margin(given.aim) >= given.gallery.tau
    for other, when in ((parts, "of which some are left out"), (backwards, "in reverse order")):
        if not torch.allclose(whole, other, atol=1e-5, equal_nan=True):
            return failed(
                f"other losses for the same rows in a batch {when}, so rows mix or targets are kept"
            )
    if not torch.isfinite(whole).all():
        return failed("a loss that is not finite")
    wrong = int(
        ((whole >= 0) != beyond)[(given.standing.margin(given.aim) - given.gallery.tau).abs() > 1e-6].sum()
    )
    if goal.crosses and wrong:
        return failed(
            f"{wrong} of {len(rows)} rows on the wrong side of zero, though it declares crosses = True"
        )
    return passed(f"so for {len(rows)} rows")


def _scenes(case: Case) -> Callable[[np.ndarray], Scene]:
    """Scenes of some noisy queries, each aiming at one of the ks in turn."""
    world = case.world
    gallery, items = world.build_gallery(), world.embedded(world.query)
    marks = gallery.marks(items.labels, items.ids)
    generator = torch.Generator().manual_seed(0)
    shifted = world.images[torch.from_numpy(world.query)]
    shifted = (shifted + 0.2 * torch.randn(shifted.shape, generator=generator)).clamp(0, 1)
    clean, vectors = gallery.prepare(items.vectors), gallery.prepare(world.model(shifted)).detach()
    ks = torch.tensor(world.ks).repeat(len(world.query))[: len(world.query)]

    def scene(rows: np.ndarray) -> Scene:
        some = torch.from_numpy(rows)
        standing = Standing(gallery, vectors[some], marks[rows])
        return Scene(gallery, vectors[some].clone().requires_grad_(), standing, ks[some], clean[some])

    return scene
