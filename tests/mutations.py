"""Planted bugs: each trap of protocol.md (and a few of our own), and the tests that must notice it.

`find` must occur exactly once in the file; it is replaced in a copy of the tree, and the named tests
are run there. A mutation that they survive is a hole in the tests.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One bug: what it is, where it is planted, and who must catch it."""

    name: str
    file: str
    find: str
    replace: str
    tests: str


RETRIEVAL, ENGINE, LAWS = "tests/test_retrieval.py", "tests/test_engine.py", "tests/test_attacks_laws.py"
ORACLE, SEARCHES = "tests/test_attacks_oracle.py", "tests/test_searches.py"
ROBRANK = "tests/test_robrank.py"

MUTATIONS = (
    Mutation(
        "trap 1: the own item is taken to be the first of the list, not the one with its id",
        "attacks/retrieval.py",
        "    own = marks.own[:, None]\n",
        "    own = similarity.argmax(1, keepdim=True)\n",
        RETRIEVAL,
    ),
    Mutation(
        "trap 2: the nearest positive may be the query's own clean copy",
        "attacks/retrieval.py",
        "hidden = torch.where(marks.inside[:, None], -torch.inf, similarity.gather(1, own))",
        "hidden = similarity.gather(1, own)",
        RETRIEVAL,
    ),
    Mutation(
        "trap 3: an L2 step written as a sign step",
        "attacks/budget.py",
        "return scaled / spread(scaled.flatten(1).norm(dim=1).clamp_min(1e-12), gradient)",
        "return gradient.sign() / gradient[0].numel() ** 0.5",
        ORACLE,
    ),
    Mutation(
        "trap 4: the last iterate instead of the best",
        "attacks/pool.py",
        "        if not self.last:\n",
        "        if False:\n",
        ENGINE,
    ),
    Mutation(
        "trap 5: targets chosen once and never again",
        "attacks/pool.py",
        "        standing = self.of.stand(rows, prepared.detach())\n",
        "        self._once = getattr(self, '_once', None) or self.of.stand(rows, prepared.detach())\n"
        "        standing = self._once\n",
        ENGINE,
    ),
    Mutation(
        "trap 6: unseeded randomness",
        "attacks/noise.py",
        "return torch.Generator().manual_seed(key(seed, row, stream))",
        "return torch.default_generator",
        LAWS,
    ),
    Mutation(
        "trap 7: an index into a masked vector used as a place in the gallery",
        "attacks/retrieval.py",
        "            return self._similarity.max(1, keepdim=True)\n",
        "            some = self._similarity[:, torch.isfinite(self._similarity[0])]\n"
        "            return some.max(1, keepdim=True)\n",
        RETRIEVAL,
    ),
    Mutation(
        "trap 8: a mean of batch means with a short last batch",
        "leaderboard/statistics.py",
        "    return Resampled(sums.sum(1) / sizes.sum(), samples, len(sizes))",
        "    return Resampled((sums / sizes).mean(1), samples, len(sizes))",
        "tests/test_statistics.py",
    ),
    Mutation(
        "trap 9: a cache keyed by a name instead of the weights' content",
        "benchmark/cells.py",
        'f"{candidate.digest[:20]}-{dataset_digest[:20]}-{device}.safetensors"',
        'f"{candidate.card.name}-{dataset_digest[:20]}-{device}.safetensors"',
        "tests/test_grid.py tests/test_cells.py",
    ),
    Mutation(
        "trap 10: queries that fail clean count as held",
        "attacks/record.py",
        "self.rank = np.tile(np.minimum(clean, self.top), (len(budgets), 1))",
        "self.rank = np.ones((len(budgets), len(clean)), np.int64)",
        ENGINE,
    ),
    Mutation(
        "trap 11: a NaN match ranks first",
        "attacks/retrieval.py",
        "        self.rank[~torch.isfinite(self.match)] = len(gallery) + 1\n",
        "",
        RETRIEVAL,
    ),
    Mutation(
        "trap 12: a random start used for the gradient and then dropped",
        "attacks/searches/base.py",
        "    state.point.add_(spread(length, slope) * budget.ascent(slope))\n",
        "    state.point.copy_(state.origin + spread(length, slope) * budget.ascent(slope))\n",
        ENGINE,
    ),
    Mutation(
        "trap 13: the clean twin of a perturbed query left in the gallery",
        "attacks/retrieval.py",
        "hidden = torch.where(marks.inside[:, None], -torch.inf, similarity.gather(1, own))",
        "twin = similarity.gather(1, own)\n    hidden = torch.where(twin > 0.99999, -torch.inf, twin)",
        RETRIEVAL,
    ),
    Mutation(
        "trap 14: a collapsed model passes the gate",
        "benchmark/checks/clean.py",
        'return verdict("clean R@1", r1 < floor, "block", message, 100 * r1, 100 * floor)',
        'return verdict("clean R@1", False, "block", message, 100 * r1, 100 * floor)',
        "tests/test_checks.py",
    ),
    Mutation(
        "ties count for the model",
        "attacks/retrieval.py",
        "gallery.exact(vectors[rows], items) >= best[rows.to(best.device)]",
        "gallery.exact(vectors[rows], items) > best[rows.to(best.device)]",
        RETRIEVAL,
    ),
    Mutation(
        "claims are made without the margin tau",
        "attacks/engine.py",
        "return Standing(gallery, prepared, self.queries.marks[rows], gallery.tau)",
        "return Standing(gallery, prepared, self.queries.marks[rows], 0.0)",
        ENGINE,
    ),
    Mutation(
        "what bfloat16 finds is claimed without a look in float32",
        "attacks/victim.py",
        "        self.exact = lean is None and not amp\n",
        "        self.exact = True\n",
        LAWS,
    ),
    Mutation(
        "a smaller budget is tried on what the larger one held",
        "attacks/record.py",
        "        return np.where((aim < beyond) & (aim <= self.reach[rows]), aim, 0)\n",
        "        return np.where(aim <= self.reach[rows], aim, 0)\n",
        ENGINE,
    ),
    Mutation(
        "an objective without a goal stops early",
        "attacks/pool.py",
        "        if self.objective.crosses and self.surrogate is None:\n",
        "        if True:\n",
        ENGINE,
    ),
    Mutation(
        "the margin at k > 1 is the mean even when all but one lead",
        "attacks/objectives.py",
        "        trails = counted & (lead < 0)\n",
        "        trails = counted\n",
        ENGINE,
    ),
    Mutation(
        "a probe picks queries by place",
        "attacks/engine.py",
        'noise.key("share", int(own)) < share * 2**63 for own in ids]\n',
        'noise.key("share", place) < share * 2**63 for place in range(len(ids))]\n',
        ENGINE,
    ),
    Mutation(
        "a min-norm search stops as soon as something broke",
        "attacks/searches/min_norm.py",
        "        return known & (state.best > limit)\n",
        "        return state.best.isfinite()\n",
        ENGINE,
    ),
    Mutation(
        "the aim never moves past k = 1",
        "attacks/record.py",
        "        return np.where((aim < beyond) & (aim <= self.reach[rows]), aim, 0)\n",
        "        return np.where((aim < beyond) & (aim <= self.reach[rows]) & (aim == self.ks[0]), aim, 0)\n",
        ENGINE,
    ),
    Mutation(
        "a finding counts for smaller budgets than the one that holds it",
        "attacks/record.py",
        "        return np.searchsorted(self._limits, size)\n",
        "        return np.searchsorted(self._limits, size) * 0\n",
        ENGINE,
    ),
    Mutation(
        "the projection forgets the box",
        "attacks/budget.py",
        "return self._into_ball(x, origin, radii).clamp_(0, 1)",
        "return self._into_ball(x, origin, radii)",
        LAWS,
    ),
    Mutation(
        "noise keyed by the place in the batch",
        "attacks/noise.py",
        "    draws = [torch.randn(like.shape[1:], generator=_generator(seed, i, stream)) for i in ids]\n",
        "    ids = range(len(like))\n"
        "    draws = [torch.randn(like.shape[1:], generator=_generator(seed, i, stream)) for i in ids]\n",
        LAWS,
    ),
    Mutation(
        "the min-norm search stops short of the boundary",
        "attacks/searches/min_norm.py",
        "(size - loss / budget.dual(slope).clamp_min(1e-12)) * (1 + shrink)",
        "(size - loss / budget.dual(slope).clamp_min(1e-12)) * 0.97",
        ORACLE,
    ),
    Mutation(
        "APGD never halves its step",
        "attacks/searches/apgd.py",
        "        state.rate = torch.where(back, state.rate / 2, state.rate)\n",
        "",
        SEARCHES,
    ),
    Mutation(
        "APGD keeps the best point of the aim before",
        "attacks/searches/apgd.py",
        "    better = fresh | (loss > state.best_loss)\n",
        "    better = loss > state.best_loss\n",
        SEARCHES,
    ),
    Mutation(
        "FMN keeps the best norm of the aim before",
        "attacks/searches/min_norm.py",
        "best = torch.where(look.changed, torch.inf, state.best)",
        "best = state.best",
        SEARCHES,
    ),
    Mutation(
        "C&W keeps the best norm of the aim before",
        "attacks/searches/cw.py",
        '("best", state.best, torch.inf)',
        '("best", state.best, state.best)',
        SEARCHES,
    ),
    Mutation(
        "Square forgets its best point",
        "attacks/searches/square.py",
        "better = look.changed | (loss > state.best_loss)",
        "better = loss > -torch.inf",
        SEARCHES,
    ),
    Mutation(
        "Square compares with the best loss of the aim before",
        "attacks/searches/square.py",
        "better = look.changed | (loss > state.best_loss)",
        "better = loss > state.best_loss",
        SEARCHES,
    ),
    Mutation(
        "the draws of a search keyed by the place in the pool",
        "attacks/searches/base.py",
        "[kind(one, seed, [own], turn) for seed, own, turn in every]",
        "[kind(one, s, [row], turn) for row, (s, _, turn) in enumerate(every)]",
        SEARCHES,
    ),
    Mutation(
        "the last look at the last iterate is left out",
        "attacks/pool.py",
        "        self.of.check(self.stage, np.repeat(rows, probes), x, origin)\n",
        "",
        ENGINE,
    ),
    Mutation(
        "precision@t at the wrong t",
        "benchmark/metrics.py",
        "torch.where(counted, nth / place, 0.0)",
        "torch.where(counted, nth / (place + 1), 0.0)",
        RETRIEVAL,
    ),
    Mutation(
        "embeddings squeezed below the margin of a claim pass the gate",
        "benchmark/checks/clean.py",
        'return verdict("resolution", share > 0.05, "block", message, 100 * share, 5)',
        'return verdict("resolution", False, "block", message, 100 * share, 5)',
        "tests/test_checks.py",
    ),
    Mutation(
        "embeddings of some queries pass for those of all",
        "benchmark/cells.py",
        "return vectors[at] if torch.equal(positions[at], wanted) else None",
        "return vectors",
        "tests/test_cells.py",
    ),
    Mutation(
        "a damaged result passes for a finished one",
        "benchmark/cells.py",
        "    return found.key == record.key and found.shard == record.shard\n",
        "    return True\n",
        "tests/test_cells.py",
    ),
    Mutation(
        "what the user's module was set to is forgotten",
        "attacks/victim.py",
        "            module.training = mode\n",
        "            pass\n",
        "tests/test_evaluation.py",
    ),
    Mutation(
        "the batch is halved without taking back what the first try found",
        "benchmark/scoring.py",
        "            outcome.record.restore(before)\n",
        "",
        "tests/test_grid.py",
    ),
    Mutation(
        "the success matrix divides by the other attack's successes",
        "leaderboard/ensemble.py",
        "return np.asarray(1 - both / np.diag(both)[:, None])",
        "return np.asarray(1 - both / np.diag(both)[None, :])",
        "tests/test_leaderboard_compare.py",
    ),
    Mutation(
        "a query that was never broken counts as broken after no passes",
        "leaderboard/anytime.py",
        "held = [float(((spent < 0) | (spent > n)).mean()) for n in at]",
        "held = [float((spent > n).mean()) for n in at]",
        "tests/test_leaderboard_compare.py",
    ),
    Mutation(
        "the conformance kit lets rows go where they want",
        "benchmark/conformance/driven.py",
        "    moved = [own for own, value in apart.items() if not value <= limit]\n",
        "    moved: list[int] = []\n",
        "tests/test_conformance.py",
    ),
    Mutation(
        "the conformance kit is content with a hole that nobody found",
        "benchmark/conformance/holes.py",
        "    if share >= _MOST:\n",
        "    if share >= 0:\n",
        "tests/test_conformance.py",
    ),
    Mutation(
        "the conformance kit's oracle asks for a budget of twice the radius",
        "benchmark/conformance/oracle.py",
        "        shares = (within, 2 * within) if attack.min_norm else (within,)\n",
        "        shares = (2 * within,)\n",
        "tests/test_conformance.py",
    ),
    Mutation(
        "trap 2, RobRank: the query's own copy is a candidate like any other",
        "attacks/robrank/bout.py",
        "    return every.scatter_(1, marks.own[:, None], ~marks.inside[:, None])\n",
        "    return every\n",
        ROBRANK,
    ),
    Mutation(
        "trap 5, RobRank: the match of the clean query at every step",
        "attacks/robrank/threats.py",
        "        near = Standing(bout.gallery, vectors, bout.marks).match_at\n",
        "        near = Standing(bout.gallery, bout.queries, bout.marks).match_at\n",
        ROBRANK,
    ),
    Mutation(
        "trap 6, RobRank: targets drawn by the place in the batch",
        "attacks/robrank/bout.py",
        "[noise.key(seed, i, pool) for i in ids]",
        "[noise.key(seed, i, pool) for i in range(len(ids))]",
        ROBRANK,
    ),
    Mutation(
        "trap 7, RobRank: a place among the others used as a place in the gallery",
        "attacks/robrank/bout.py",
        "    return place + (marks.inside & (place >= marks.own))\n",
        "    return place\n",
        ROBRANK,
    ),
    Mutation(
        "trap 7, RobRank: an index among the impostors used as a place in the gallery",
        "attacks/robrank/threats.py",
        "        _, at = Standing(bout.gallery, vectors, bout.marks).impostors(1)\n",
        "        _, at = Standing(bout.gallery, vectors, bout.marks).impostors(1)\n        at = at - 1\n",
        ROBRANK,
    ),
    Mutation(
        "trap 11, RobRank: an embedding that is no number cannot be overtaken",
        "attacks/robrank/threats.py",
        "    return ~(others < target[:, None] - NOISE) & bout.rivals\n",
        "    return (others >= target[:, None] - NOISE) & bout.rivals\n",
        ROBRANK,
    ),
    Mutation(
        "trap 14, ERS: the score of a collapsed model without its verdict",
        "leaderboard/ers.py",
        'if check.level == "block"]',
        'if check.level == "blocked"]',
        ROBRANK,
    ),
    Mutation(
        "CA moves the query instead of the candidate",
        "benchmark/robrank.py",
        'if threat.moves == "candidate" else',
        'if threat.moves == "nobody" else',
        ROBRANK,
    ),
)
