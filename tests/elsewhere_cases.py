"""What must run, and answer alike, on the CPU and on `elsewhere`, a device that refuses mixed operands.

`python -m tests.elsewhere_cases` reads names of cases and answers with what each said on both, in a process
of its own because a device stays registered.
"""

import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from attacks.catalogue import attack_table, find_suite
from attacks.errors import UserError
from attacks.objectives import Transfer
from attacks.robrank.strike import Steady
from attacks.victim import frozen
from benchmark.checks import Trial, clean_checks, full_checks
from benchmark.robrank import Arena
from benchmark.scoring import Scorer, Settings
from models.averaged import Averaged
from models.recipes import ACT, EST, HM, Natural, Panum2021, Panum2021Naive, VisualPhishNet, VisualPhishNetAdv
from models.registry import build
from models.training import Settings as TrainingSettings
from models.training import train
from tests import elsewhere
from tests.grid_worlds import perceptron, small_task
from tests.test_models_families import CARDS

BUDGETS = {"linf": ["0.005", "0.02", "0.1"], "l2": ["0.05", "0.2", "1"]}

# Enough of each to come through every branch of a step, and no more.
SHORT = {
    **{
        one: f"{one}:steps=12"
        for one in ("pgd", "pgd-push", "pgd-drift", "apgd", "apgd-push", "apgd-crowd", "mim")
    },
    "square-probe": "square-probe:steps=15",
    "fmn": "fmn:steps=8",
    "ddn": "ddn:steps=8",
    "ddn-ce": "ddn-ce:steps=8",
    "cw": "cw:steps=8",
    "cw-pixel": "cw-pixel:steps=8",
    "square": "square:steps=20",
    "nes": "nes:steps=3",
}
FOOLBOX = [
    "foolbox:LInfFMNAttack:steps=5",
    "foolbox:L2DeepFoolAttack:steps=5",
    "foolbox:HopSkipJumpAttack:steps=1",
    "foolbox:LinfPGD:steps=3",
]


def scorer_on(device: str, model: nn.Module, **options: Any) -> Scorer:
    task = small_task(classes=8, each=3, budgets=BUDGETS, ks=(1, 2, 4))
    return Scorer(model, task, settings=Settings(device), **options)


def attack(name: str, norm: str, device: str) -> Any:
    """The ranks at each budget, and how many batches the model saw."""
    with frozen(perceptron()) as model:
        suite, batches = find_suite([name]).in_norm(norm), []
        scorer = scorer_on(device, model)
        model.register_forward_pre_hook(lambda *_: batches.append(1))
        elsewhere.WAITS.clear()
        return [scorer.run(suite.attacks, norm).record.rank.tolist(), len(batches)]


def transfer(device: str) -> Any:
    """The ranks after an attack on another model."""
    with frozen(perceptron()) as model, frozen(perceptron(1)) as other:
        scorer = scorer_on(device, model)
        scorer._others["other"] = scorer_on(device, other)
        attacks = find_suite(["transfer:source=other"]).attacks
        return scorer.run(attacks, "linf").record.rank.tolist()


def checks(norm: str, device: str) -> Any:
    """The outcome of each trust check."""
    with frozen(perceptron()) as model:
        scorer = scorer_on(device, model)
        suite = find_suite(["fmn:steps=8", "pgd:steps=4", "square-probe:steps=10"])
        trial = Trial(scorer, suite.attacks, norm, 0)
        return {check.name: check.outcome for check in (*clean_checks(scorer), *full_checks(trial))}


def folded(device: str) -> Any:
    """The ranks by a convnet whose search runs with BatchNorm folded, channels last."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 12))
    with frozen(module) as model:
        task = small_task(classes=8, each=3, budgets=BUDGETS)
        scorer = Scorer(model, task, settings=Settings(device, fold=True))
        return scorer.run(find_suite(["pgd:steps=4"]).attacks, "linf").record.rank.tolist()


class Unsure(nn.Module):
    """A perceptron of noisy answers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = perceptron()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        return out + 0.05 * torch.randn_like(out)


def random_defence(device: str) -> Any:
    """That a model of random answers can be attacked; what is found is a matter of luck."""
    with frozen(Averaged(Unsure(), 2)) as model:
        scorer_on(device, model).run(find_suite(["pgd:steps=4"]).attacks, "linf")
        return True


def robrank(device: str) -> Any:
    """The table of RobRank's threats."""
    with frozen(perceptron()) as model:
        arena = Arena(scorer_on(device, model), Steady(steps=4))
        table, _, check = arena.score(np.arange(6))
        return [check.outcome, table.round(4).to_dict("list")]


def family(name: str, device: str) -> Any:
    """Embeddings, and the gradient of their sum, in hundredths."""
    card, shape = CARDS[name]
    torch.manual_seed(0)
    with frozen(build(card).to(device)) as model:
        x = torch.rand(2, *shape).to(device).requires_grad_()
        out = model(x)
        (slope,) = torch.autograd.grad(out.sum(), x)
        return [round(float(part.abs().mean()), 4) for part in (out, slope)]


RECIPES = {
    "natural": partial(Natural, loss="contrastive"),
    "natural triplet": partial(Natural, loss="triplet"),
    "panum2021": partial(Panum2021, loss="contrastive", role="anchor"),
    "panum2021 triplet": partial(Panum2021, loss="triplet"),
    "panum2021-naive": partial(Panum2021Naive, loss="contrastive"),
    "est": EST,
    "act": ACT,
    "hm": HM,
    "visualphishnet": VisualPhishNet,
    "visualphishnet-adv": VisualPhishNetAdv,
}


def training(name: str, device: str) -> Any:
    """The losses of two epochs."""
    labels = np.repeat(np.arange(8), 5)
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    settings = TrainingSettings(epochs=2, steps=2, batch=8, held_out=0.25, amp=False, ema=0.5)
    recipe = RECIPES[name]()
    result = train(perceptron(), images, labels, recipe, settings, device=device)
    return [round(row["loss"], 4) for row in result.history]


def _cases() -> dict[str, Callable[[str], Any]]:
    found: dict[str, Callable[[str], Any]] = {}
    own = [name for name, one in attack_table().items() if not isinstance(one.objective, Transfer)]
    for name in (*(SHORT.get(name, name) for name in own), *FOOLBOX):
        for norm in BUDGETS:
            try:
                find_suite([name]).attacks[0].require_norm(norm)
            except UserError:
                continue
            found[f"{name} {norm}"] = partial(attack, name, norm)
    found |= {"transfer": transfer, "folded": folded, "random defence": random_defence, "robrank": robrank}
    found |= {f"checks {norm}": partial(checks, norm) for norm in BUDGETS}
    found |= {f"family {name}": partial(family, name) for name in CARDS}
    return found | {f"training {name}": partial(training, name) for name in RECIPES}


CASES = _cases()
REFUSALS = "refusals"


def refusals() -> dict[str, str]:
    """What the device says to operands of the CPU, and to whatever else a GPU would not take."""
    there, here = torch.ones(4).to(elsewhere.NAME), torch.ones(4)
    tries: dict[str, Callable[[], object]] = {
        "sum": lambda: there + here,
        "product": lambda: here[None] @ there[:, None],
        "index from there": lambda: here[there.long()],
        "index from here": lambda: there[here.long()],
        "number from here": lambda: there + torch.tensor(1.0),
        "mask from there": lambda: here[there > 0],
        "choice": lambda: torch.where(there > 0, there, here),
        "module": lambda: nn.Linear(4, 1)(there),
        "written into": lambda: there.add_(here),
        "copied into": lambda: there.copy_(here),
        "numpy": there.numpy,
        "array": lambda: np.asarray(there),
    }
    said = {}
    for name, one in tries.items():
        try:
            one()
            said[name] = ""
        except (RuntimeError, TypeError) as error:
            said[name] = str(error)
    return said


def answer(case: Callable[[str], Any]) -> dict[str, Any]:
    """What a case says on either device; how many operations and waits there were on the second."""
    said: dict[str, Any] = {"cpu": case("cpu")}
    elsewhere.WAITS.clear()
    elsewhere.OPERATIONS.clear()
    try:
        said["elsewhere"] = case(elsewhere.NAME)
    except Exception:
        said["error"] = traceback.format_exc()
    return said | {"waits": dict(elsewhere.WAITS), "operations": elsewhere.OPERATIONS.total()}


def main() -> None:
    """Answer the cases named on stdin, one a line, each by a line of JSON."""
    torch.set_num_threads(1)
    kept = elsewhere.install()
    for line in sys.stdin:
        name = line.strip()
        print(json.dumps(refusals() if name == REFUSALS else answer(CASES[name])), flush=True)
    del kept


if __name__ == "__main__":
    main()
