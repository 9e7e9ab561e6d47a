"""The page of what the engine costs and how it compares with its peers (docs/speed.md).

It is written from what the benchmarks stored in one session (benchmarks/kept/speed), never by hand:

    make bench                                     # or one of its three parts
    cp results/bench/*.json benchmarks/kept/speed
    python -m benchmarks.speed [--check]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.grid import ALL_KS
from benchmarks.overhead import LIMIT
from benchmarks.protocol import ROUNDS, median
from leaderboard.table import markdown_table

KEPT = Path(__file__).parent / "kept" / "speed"
DOCUMENT = Path(__file__).parent.parent / "docs" / "speed.md"

Story = dict[str, Any]


def page(folder: Path = KEPT) -> str:
    """The whole page; a part that was not measured is left out."""
    parts = [
        "# Speed",
        "Written by `python -m benchmarks.speed` from what `make bench` stored: contestants take turns on "
        "the same model, queries and threads, and the median of the rounds counts. A figure is a ratio "
        "within one run; seconds are of one machine and say little elsewhere.",
    ]
    for path in sorted(folder.glob("*.json")):
        story = json.loads(path.read_text(encoding="utf-8"))
        parts += [*PARTS[path.stem.split("-")[0]](story), _facts(story["facts"])]
    return "\n\n".join(parts) + "\n"


def _overhead(story: Story) -> Iterator[str]:
    worlds = {line["world"] for line in story["lines"]}
    where = f": {worlds.pop()}" if len(worlds) == 1 else ""
    yield f"## What the engine adds to the model's own passes{where}"
    yield (
        "Time of the attack over that of a bare loop of forward and backward passes over the same batches, "
        f"in as many threads, taken in turns; the median counts, by the clock at most {LIMIT:.2f} is wanted. "
        f"Full: over as many images in full batches, {ROUNDS} rounds."
    )
    heads = ("Threads", "By the clock", "Rounds", "Processor", "Full", "Backward passes")
    yield markdown_table(
        [("World", True), ("Attack", True), *((head, False) for head in heads)],
        (
            (
                *(line["world"], line["attack"], str(line["threads"]), _marked(line["overhead"], LIMIT)),
                "{:.3f} to {:.3f}".format(*line["overhead_range"]),
                *(f"{line[f'overhead_{kind}']:.3f}" for kind in ("processor", "full")),
                f"{line['backward']:,}",
            )
            for line in story["lines"]
        ),
    )


def _grid(story: Story) -> Iterator[str]:
    yield f"## The whole L∞ grid, recall@1: {story['facts']['world']}"
    first = median(story["contestants"][0]["seconds"])
    heads = ("Seconds", "Ratio", "Backward passes per query")
    yield markdown_table(
        [
            ("Contestant", True),
            *((head, False) for head in heads),
            *((f"R@1 at {budget}", False) for budget in story["facts"]["budgets"]),
        ],
        (
            (
                *(one["contestant"], f"{(seconds := median(one['seconds'])):.2f}", f"{seconds / first:.2f}"),
                f"{one['backward_per_query']:.1f}",
                *(f"{100 * each:.1f}" for each in one["recall_at_1"]),
            )
            for one in story["contestants"]
        ),
    )
    ended = [_race(race) for race in story["races"]]
    ended.append(
        f"* All ks together take {story['all_ks']:.2f} times as long as k = 1 (at most {ALL_KS} wanted)."
    )
    yield "\n".join(ended)


def _race(race: Story) -> str:
    end = "holds" if race["holds"] else "**fails**"
    return (
        f"* {race['ours']} is {race['times']:.2f} times as fast as {race['rival']} (at least {race['least']} "
        f"wanted: {end}), its R@1 at most {race['above']:+.1f} points above that of foolbox FMN-20."
    )


def _metrics(story: Story) -> Iterator[str]:
    yield f"## Clean metrics of {story['facts']['items']:,} items"
    yield "P@1, R-precision and MAP@R together; theirs: AccuracyCalculator of pytorch-metric-learning."
    yield markdown_table(
        [("Contestant", True), ("Seconds", False), ("Ratio", False), ("Peak GiB", False)],
        (
            (
                one["contestant"],
                f"{median([lap['seconds'] for lap in one['laps']]):.1f}",
                *(f"{one[key]:.2f}" for key in ("ratio", "peak_gib")),
            )
            for one in story["contestants"]
        ),
    )
    if "differing" in story:
        yield f"{story['differing']} of the queries differ from a full sort in float64."


PARTS = {"overhead": _overhead, "grid": _grid, "metrics": _metrics}


def _marked(value: float, most: float) -> str:
    return f"{value:.3f}" if value <= most else f"**{value:.3f}**"


def _facts(facts: Story) -> str:
    """What it was measured on, in a line."""
    told = [f"{name} {_told(facts[name])}" for name in ("threads", "rounds", "queries") if name in facts]
    versions = [f"{name} {facts[name]}" for name in ("torch", "foolbox", "faiss-cpu") if name in facts]
    kind = f" ({facts['instructions']})" if "instructions" in facts else ""
    where = f"{facts['processor']}{kind}, {facts['cores']} cores, load {facts['load_average']:.1f}"
    return f"_{'; '.join([*told, *versions, where])}_"


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{each:,} ({name})" for name, each in value.items())
    return str(value)


def main() -> int:
    """Write the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    text = page()
    if parser.parse_args().check:
        return int(DOCUMENT.read_text(encoding="utf-8") != text)
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
