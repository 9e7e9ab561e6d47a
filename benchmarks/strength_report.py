"""What the referee of strength found: the limits, the arithmetic, and what is printed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from attacks.errors import UserError
from benchmarks.shelf import About, Found
from leaderboard.contributions import own_table
from leaderboard.entries import Entry

POINTS = 0.3
"""How far the suite's R@k may lie above a rival's, in points."""

SHARE = 0.5
"""How many queries a rival alone may break, in percent."""

CURVES = 1.5
"""How far R@1 of min-norm and of per-budget search may differ at each budget but the largest, in points."""

THOROUGH = 1.0
"""By how many points `thorough` may lower R@1 at the headline budget."""


@dataclass(frozen=True)
class Line:
    """Suite and rival at one budget and k: R@k of both in percent, and who breaks what alone.

    `difference` = suite's R@k - rival's, in points (positive: the suite is weaker); `only`: percent
    of the queries that the rival breaks and the suite does not.
    """

    budget: str
    k: int
    suite: float
    rival: float
    difference: float
    only: float

    @property
    def holds(self) -> bool:
        """Whether the suite is within the limits here."""
        return self.difference <= POINTS + 1e-9 and self.only <= SHARE + 1e-9


def compare(suite: np.ndarray, rival: np.ndarray, budgets: Sequence[str], ks: Sequence[int]) -> list[Line]:
    """Adversarial ranks (budgets, queries) of both into one line per budget and k."""
    lines = []
    for budget, ours, theirs in zip(budgets, suite, rival, strict=True):
        for k in ks:
            held, kept = ours <= k, theirs <= k
            mine, other = 100 * held.mean(), 100 * kept.mean()
            only = 100 * (held & ~kept).mean()
            lines.append(Line(budget, k, float(mine), float(other), float(mine - other), float(only)))
    return lines


@dataclass(frozen=True)
class Curves:
    """R@1 in percent per budget: of one min-norm search, and of one search per budget."""

    model: str
    norm: str
    once: Sequence[float]
    each: Sequence[float]

    @property
    def apart(self) -> float:
        """Their largest difference in points over all budgets but the largest."""
        return max(abs(a - b) for a, b in list(zip(self.once, self.each, strict=True))[:-1])

    @property
    def holds(self) -> bool:
        """Whether they agree."""
        return self.apart <= CURVES + 1e-9


@dataclass(frozen=True)
class Gain:
    """R@1 in percent at the headline budget: under the suite, and with what `thorough` finds as well."""

    model: str
    norm: str
    suite: float
    more: float

    @property
    def apart(self) -> float:
        """By how many points `thorough` lowers it."""
        return self.suite - self.more

    @property
    def holds(self) -> bool:
        """Whether it is little enough."""
        return self.apart <= THOROUGH + 1e-9


@dataclass(frozen=True)
class Judged:
    """One rival against the suite on one model in one norm; forward passes per query of both."""

    model: str
    dataset: str
    norm: str
    rival: str
    lines: Sequence[Line]
    suite_passes: float
    rival_passes: float
    queries: int

    @property
    def difference(self) -> float:
        """By how many points the suite's R@k lies above the rival's where that is worst."""
        return max(line.difference for line in self.lines)

    @property
    def only(self) -> float:
        """The largest share of queries, in percent, that the rival alone breaks."""
        return max(line.only for line in self.lines)

    @property
    def holds(self) -> bool:
        """Whether the suite is within the limits everywhere."""
        return all(line.holds for line in self.lines)


@dataclass
class Findings:
    """All that one run found."""

    suite: str
    digests: list[str]
    dataset: str
    judged: list[Judged] = field(default_factory=list)
    curves: list[Curves] = field(default_factory=list)
    gains: list[Gain] = field(default_factory=list)

    def ending(self) -> str:
        """How it ended, in a few sentences."""
        beaten = sum(not one.holds for one in self.judged)
        name = self.suite
        said = [f"Limits: {POINTS} points and {SHARE} % of queries."]
        said.append(
            f"{name} is beaten by {beaten} of {len(self.judged)}." if beaten else f"{name} holds against all."
        )
        for title, limit, some in (
            ("fmn and pgd differ", CURVES, self.curves),
            ("thorough gains", THOROUGH, self.gains),
        ):
            if some:
                most = max(one.apart for one in some)
                said.append(f"{title} by at most {most:.2f} points (limit {limit}).")
        return " ".join(said)

    def add(self, other: "Findings") -> None:
        """Take over what another model's or norm's run found."""
        self.judged += other.judged
        self.curves += other.curves
        self.gains += other.gains

    @property
    def hold(self) -> bool:
        """Whether no limit is passed."""
        return all(one.holds for some in (self.judged, self.curves, self.gains) for one in some)


def of_row(entry: Entry, queries: Sequence[int]) -> Found:
    """What a published row's suite found on some of its queries.

    A row knows per query and k the smallest budget that breaks it; the rank is therefore the smallest k
    that still holds, and one beyond the largest where none does: all that `compare` asks for.
    """
    place = {query: i for i, query in enumerate(entry.broken["query"])}
    missing = sum(query not in place for query in queries)
    if missing:
        raise UserError(
            f"The row of {entry.model.name} ({entry.norm}) lacks {missing} of {len(queries)} queries."
        )
    own = own_table(entry.broken, entry.ks)[[place[query] for query in queries]]
    rank = np.full((len(entry.budgets), len(queries)), max(entry.ks) + 1)
    for k, broken in sorted(zip(entry.ks, own.T, strict=True), reverse=True, key=lambda one: one[0]):
        for i in range(len(entry.budgets)):
            rank[i, broken > i + 1] = k
    return Found(entry.suite.name, entry.suite.digest, rank, entry.forward_per_query)


def judged(about: About, ours: Found, rival: Found) -> Judged:
    """What one rival found against what the suite did."""
    lines = compare(ours.rank, rival.rank, about.budgets, about.ks)
    passes = ours.forward, rival.forward
    return Judged(about.model, about.dataset, about.norm, rival.suite, lines, *passes, len(about.queries))


def curves(about: About, found: Iterable[Found]) -> Iterator[Curves]:
    """R@1 of `fmn` and of `pgd` alone, where both are among the findings."""
    named = {one.suite: one for one in found}
    if {"fmn", "pgd"} <= named.keys():
        shares = [tuple((100 * (named[name].rank <= 1).mean(1)).tolist()) for name in ("fmn", "pgd")]
        yield Curves(about.model, about.norm, *shares)


def gains(about: About, headline: str, ours: Found, found: Iterable[Found]) -> Iterator[Gain]:
    """R@1 at the headline budget under a suite, and under it and `thorough` together."""
    at = list(about.budgets).index(headline)
    for one in found:
        if one.suite == "thorough":
            ranks = ours.rank[at], np.maximum(ours.rank[at], one.rank[at])
            yield Gain(about.model, about.norm, *(float(100 * (rank <= 1).mean()) for rank in ranks))


def show(one: Judged) -> None:
    """Print the lines of one rival, those beyond a limit marked."""
    print(f"\n{one.model} {one.norm}: {one.rival} ({one.queries} queries)")
    print(f"{'budget':>8} {'k':>5} {'suite':>7} {'rival':>7} {'diff':>7} {'only rival %':>13}")
    for line in one.lines:
        mark = "" if line.holds else "  beyond"
        print(
            f"{line.budget:>8} {line.k:>5} {line.suite:7.2f} {line.rival:7.2f} {line.difference:+7.2f}"
            f" {line.only:13.2f}{mark}"
        )


def verdict(found: Findings) -> int:
    """Print the worst line of each rival and the end of it; 0 where all hold."""
    print(f"\n{'model':24} {'norm':5} {'rival':44} {'worst diff':>10} {'only rival %':>13}")
    for one in found.judged:
        mark = "" if one.holds else "  beyond"
        print(f"{one.model:24} {one.norm:5} {one.rival:44} {one.difference:+10.2f} {one.only:13.2f}{mark}")
    print(f"\n{found.ending()}")
    return int(not found.hold)
