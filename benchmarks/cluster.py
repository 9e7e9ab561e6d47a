"""Two Ray workers of one thread against one, and the same while workers are killed.

A grid of a bundled model is run three times on one Ray session whose workers have started already: with one
task at a time, with two, and with two while a worker is killed every so many seconds. Ranks must be equal.

    python -m benchmarks.cluster [--queries 192] [--shard-size 8] [--kill-every 20]
"""

import argparse
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from benchmark.cluster import Needs, connected, home_of, run_on_cluster
from benchmark.grid import GridSpec, make_plan
from benchmark.scoring import Settings
from benchmark.sources import find_model, find_task
from benchmarks.protocol import facts, median, store
from leaderboard.records import scan

CPU = Settings("cpu")


def timed(results: Path, workers: int, model: str, queries: int, shard_size: int) -> float:
    """Seconds of the whole grid, L-inf, without the trust checks."""
    spec = GridSpec(
        models=[model], norms=["linf"], limit_queries=queries, shard_size=shard_size, checks="basic"
    )
    home = home_of(str(results))
    with home.mirrored() as here:
        plan = make_plan(spec, [(model, find_model(model, here))], [find_task("glyphs", None)], here, CPU)
        start = time.perf_counter()
        summary = run_on_cluster(plan, CPU, home, Needs(workers=workers))
        seconds = time.perf_counter() - start
    assert not summary.failures, summary.failures
    return seconds


@contextmanager
def killing(every: float) -> Iterator[list[int]]:
    """Kill one of our workers every so many seconds while the block runs; the list counts them."""
    killed: list[int] = []
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(every):
            for pid in _workers()[len(killed) % 2 :][:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def _workers() -> list[int]:
    """Processes of this session that do a step: children of the raylet that is our child."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if "ray::do_step" in (place / "cmdline").read_text() and _parent(_parent(place)).name == str(
                os.getpid()
            ):
                found.append(int(place.name))
        except OSError:
            continue
    return sorted(found)


def _parent(place: Path) -> Path:
    return place.parent / (place / "stat").read_text().rpartition(")")[2].split()[1]


def ranks(results: Path) -> pd.DataFrame:
    """All rows that the grid wrote."""
    (cell,) = scan(results)
    return cell.frame


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="glyphs-natural")
    parser.add_argument("--queries", type=int, default=192)
    parser.add_argument("--shard-size", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    args = parser.parse_args()
    one, two, hurt, kills = [], [], [], 0
    with tempfile.TemporaryDirectory() as folder, connected("local", 2):
        timed(Path(folder, "warm"), 2, args.model, 16, 4)
        for number in range(args.rounds):
            places = [Path(folder, f"{name}-{number}") for name in ("one", "two", "hurt")]
            one.append(timed(places[0], 1, args.model, args.queries, args.shard_size))
            two.append(timed(places[1], 2, args.model, args.queries, args.shard_size))
            with killing(args.kill_every) as killed:
                hurt.append(timed(places[2], 2, args.model, args.queries, args.shard_size))
            kills += len(killed)
            for place in places[1:]:
                pd.testing.assert_frame_equal(ranks(place), ranks(places[0]), check_exact=True)
    lone, both, with_kills = map(median, (one, two, hurt))
    print(f"one worker {lone:.1f} s, two {both:.1f} s: {lone / both:.2f} x (at least 1.7)")
    print(
        f"{kills} killed, one every {args.kill_every:g} s: {with_kills:.1f} s, "
        f"{with_kills / both:.2f} x (at most 1.5)"
    )
    print(f"Ranks are identical. Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")
    told = facts(kills=kills, kill_every=args.kill_every, queries=args.queries)
    store(args.out / "cluster.json", {"facts": told, "one": one, "two": two, "killing": hurt})


if __name__ == "__main__":
    main()
