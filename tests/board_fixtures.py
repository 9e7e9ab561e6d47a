"""A made-up results folder with realistic shapes: radii per query, shared classes, a few models."""

from pathlib import Path

import numpy as np
import pandas as pd

from leaderboard.records import CellRecord, cell_path, write_cell

BUDGETS = {
    "linf": ("1/255", "2/255", "0.01", "4/255", "8/255", "16/255"),
    "l2": ("0.5", "1", "2", "4"),
}
HEADLINE = {"linf": "8/255", "l2": "2"}
KS = (1, 2, 4, 8)
ATTACKS = ("fmn-margin", "pgd-margin", "fgsm", "noise")

# name: (title, training, sibling, baseline, clean R@1, median robust radius in units of 1/255)
MODELS = {
    "vpn": ("VisualPhishNet", "visualphishnet", None, True, 0.66, 1.3),
    "con-nat": ("ResNet-50, contrastive", "natural", None, False, 0.83, 0.7),
    "con-rob": ("ResNet-50, contrastive", "panum2021", "con-nat", False, 0.72, 6.5),
    "tri-nat": ("ResNet-50, triplet", "natural", None, False, 0.80, 0.8),
    "tri-rob": ("ResNet-50, triplet", "panum2021", "tri-nat", False, 0.70, 5.5),
}

# What their cards say of the test classes; the others are older than the question.
SAW = {
    "con-nat": {"pretraining": "imagenet-1k", "saw_test_classes": {"cub200": "yes", "sop": "no"}},
    "con-rob": {"pretraining": "imagenet-1k", "saw_test_classes": {"sop": "no"}, "train_seconds": 61.5},
    "tri-nat": {"saw_test_classes": "no"},
}


def ranks(rng, labels, clean, median, eps, difficulty) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean ranks, radii at which each query's rank passes each k, and which attack found it."""
    easy = 0.8 * difficulty + 0.6 * rng.standard_normal(len(labels))
    order = easy.argsort().argsort() / len(labels)
    wrong = order < 1 - clean
    clean_rank = np.where(wrong, 2 + rng.geometric(0.25, len(labels)) - 1, 1)
    radius = median / 255 * np.exp(0.3 * easy + 0.9 * rng.standard_normal(len(labels)))
    return clean_rank, radius, rng.choice(len(ATTACKS), len(labels), p=[0.8, 0.15, 0.04, 0.01])


def cell(name, norm="linf", classes=100, per_class=20, suite="standard", seed=0, **changes):
    """One cell: (record, frame)."""
    title, training, sibling, baseline, clean, median = MODELS[name]
    shared = np.random.default_rng([seed, 1])
    labels = np.repeat(np.arange(classes), per_class)
    effect = shared.standard_normal(classes)[labels]
    difficulty = 0.6 * effect + 0.8 * shared.standard_normal(len(labels))
    rng = np.random.default_rng([seed, list(MODELS).index(name), len(norm)])
    scale = 1 if norm == "linf" else 60
    budgets = changes.get("budgets", BUDGETS[norm])
    eps = np.array([eval(b) for b in budgets])
    clean_rank, radius, by = ranks(rng, labels, clean, scale * median, eps, difficulty)
    record = CellRecord.model_validate(
        {
            "model": {
                "name": name,
                "digest": f"{name}-weights",
                "title": title,
                "training": training,
                "sibling": sibling,
                "baseline": baseline,
                "loss": "triplet" if name.startswith("tri") else "contrastive",
                "dim": 128,
                "arch": "visualphishnet" if baseline else "resnet50",
                "distance": "euclidean" if baseline else "cosine",
                **SAW.get(name, {}),
            },
            "dataset": {
                "name": "cub200",
                "digest": "cub-images",
                "queries_total": classes * per_class,
                "classes": classes,
                "chance": 0.01,
                "budgets": BUDGETS[norm],
                "ks": KS,
            },
            "suite": {
                "name": suite,
                "digest": {"standard": "5f3a9c01d2", "quick": "77b0e1c4aa"}[suite],
                "attacks": ATTACKS,
            },
            "norm": norm,
            "budgets": budgets,
            "headline": HEADLINE[norm],
            "ks": KS,
            "created": "2026-01-01T00:00:00+00:00",
            "environment": {"torch": "2.6.0", "device": "cpu", "checks": "full"},
            "work": [
                {
                    "attack": a,
                    "shown": len(labels),
                    "forward": 40 * len(labels) // (i + 1),
                    "backward": 40 * len(labels) // (i + 1),
                    "seconds": 0.01 * len(labels),
                }
                for i, a in enumerate(ATTACKS)
            ],
        }
        | changes
    )
    columns = {
        "query": np.arange(len(labels)),
        "label": labels,
        "matches": np.full(len(labels), per_class - 1),
        "clean_rank": clean_rank,
        "average_precision": 0.5 / clean_rank,
        "r_precision": 0.6 / clean_rank,
    }
    top = max(KS) + 1
    before = np.minimum(clean_rank, top)
    found, size = np.full(len(labels), -1), np.zeros(len(labels))
    for i, e in enumerate(eps):
        # the same radius breaks k = 8 only at about twice the perturbation that breaks k = 1
        passed = np.select([e >= radius * (0.85 + 0.15 * k) for k in KS[::-1]], KS[::-1], 0)
        rank = np.maximum(before, np.where(passed > 0, passed + 1, 0))
        better = rank > before
        found, size = np.where(better, by, found), np.where(better, radius.clip(0, e), size)
        columns |= {f"rank_{i}": rank, f"by_{i}": found, f"size_{i}": size}
        before = rank
    return record, pd.DataFrame(columns)


def put(results: Path, record: CellRecord, frame: pd.DataFrame) -> None:
    """Write a cell into a results folder."""
    write_cell(cell_path(results, record), record, frame)


def limited(name, n=400, **options):
    """A preliminary cell: only the first queries of each class, under suite quick."""
    record, frame = cell(name, suite="quick", shard={"limit": n}, **options)
    step = len(frame) // n
    return record, frame.iloc[::step].reset_index(drop=True)


def alone(name, attack, strength, **options):
    """A cell of `compare`: one attack by itself on all queries; weaker ones need a larger radius."""
    record, frame = cell(name, **options)
    suite = {"name": attack, "digest": f"{attack}-digest", "attacks": [attack], "alone": True}
    record = record.model_copy(update={"suite": record.suite.model_validate(suite)})
    work = {"attack": attack, "shown": len(frame), "forward": int(44 / strength * len(frame))}
    work |= {"backward": work["forward"] * (attack != "noise"), "seconds": 0.002 * work["forward"]}
    record = record.model_copy(update={"work": (type(record.work[0]).model_validate(work),)})
    lucky = np.random.default_rng([*attack.encode()]).random(len(frame)) < strength
    for i in range(len(record.budgets)):
        clean = np.minimum(frame["clean_rank"], record.censor)
        frame[f"rank_{i}"] = np.where(lucky, frame[f"rank_{i}"], clean)
        beaten = frame[f"rank_{i}"] > clean
        frame[f"by_{i}"] = np.where(beaten, 0, -1)
        frame[f"size_{i}"] = np.where(beaten, frame[f"size_{i}"], 0)
    return record, frame


def with_passes(record, frame, step=7):
    """Add what records say today: query i breaks after 1 + i % step passes."""
    first = np.where(frame["clean_rank"] > record.ks[0], 0, -1)
    spent = {}
    for i in range(len(record.budgets)):
        broken = (first < 0) & (frame[f"rank_{i}"] > record.ks[0]).to_numpy()
        first = np.where(broken, 1 + np.arange(len(first)) % step, first)
        spent[f"spent_{i}"] = first
    return record, frame.assign(**spent)


def fill(results: Path, n: int = 400, **options) -> Path:
    """Fill a results folder: five models, two norms, one preliminary row, one comparison."""
    for norm in BUDGETS:
        for name in MODELS:
            put(results, *cell(name, norm, **options))
    record, frame = limited("tri-rob", n, **options)
    card = record.model.model_copy(update={"name": "mine", "title": "My checkpoint", "digest": "x"})
    put(results, record.model_copy(update={"model": card}), frame)
    strengths = {"pgd-margin": 0.97, "fmn-margin": 0.99, "released": 0.6, "fgsm": 0.35, "noise": 0.02}
    for attack, strength in strengths.items():
        put(results, *with_passes(*alone("con-rob", attack, strength, **options)))
    return results
