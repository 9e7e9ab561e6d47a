"""The attack table and the suites: plain tables, one line each.

An outside package adds to them with the entry points `robustdml.attacks` and `robustdml.suites`,
each a callable that returns one `Attack` or `Suite`. One that is broken is left out, and says why to
whoever asks for it.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from attacks import bridge, plugins
from attacks.attack import Attack, Whole, parameters, split_options
from attacks.budget import NORMS
from attacks.errors import UserError
from attacks.foolbox_names import PREFIX
from attacks.objectives import CrossEntropy, Crowd, Drift, Margin, Push, Transfer
from attacks.robrank import NAME as ROBRANK
from attacks.searches import APGD, CW, DDN, FGSM, FMN, NES, PGD, Momentum, Noise, Search, Square
from attacks.table import Table

# Raised when the engine changes what an unchanged attack finds, so that old rows are told apart.
ENGINE = 5

_GRADIENT = frozenset({"white-box", "iterative", "untargeted"})
_ONE_STEP = frozenset({"white-box", "untargeted"})
_BLACK_BOX = frozenset({"black-box", "iterative", "untargeted"})

_ATTACKS = (
    Attack(
        "fmn", Margin(), FMN(), declares=_GRADIENT, about="min-norm search on the margin, one run for each k"
    ),
    Attack("pgd", Margin(), PGD(), declares=_GRADIENT, about="cold PGD on the margin at each budget"),
    Attack("pgd-push", Push(), PGD(), declares=_GRADIENT, about="PGD away from the nearest other positive"),
    Attack("pgd-drift", Drift(), PGD(), declares=_GRADIENT, about="PGD away from the clean embedding"),
    Attack("apgd", Margin(), APGD(), declares=_GRADIENT, about="PGD that halves its own step, on the margin"),
    Attack(
        "apgd-push", Push(), APGD(), declares=_GRADIENT, about="APGD away from the nearest other positive"
    ),
    Attack("apgd-crowd", Crowd(), APGD(), declares=_GRADIENT, about="APGD toward the 50 nearest impostors"),
    Attack(
        "mim", Margin(), Momentum(stride=4.0), declares=_GRADIENT, about="FGSM in small steps, with momentum"
    ),
    Attack("cw", Margin(), CW(), declares=_GRADIENT, about="distance plus a hinge on the margin, by Adam"),
    Attack("cw-pixel", Margin(), CW(pixelwise=3), declares=_GRADIENT, about="C&W, first with Adam per pixel"),
    Attack("ddn", Margin(), DDN(), declares=_GRADIENT, about="min-norm, direction and length set apart"),
    Attack("ddn-ce", CrossEntropy(), DDN(), declares=_GRADIENT, about="DDN by the cross-entropy of classes"),
    Attack("square", Margin(), Square(), declares=_BLACK_BOX, about="random windows, kept if they help"),
    Attack("nes", Margin(), NES(), declares=_BLACK_BOX, about="PGD on a gradient estimated from losses"),
    # Measured on glyphs, PGD's long first steps carry over as well as momentum or better.
    Attack(
        "transfer",
        Transfer(),
        PGD(),
        declares=_BLACK_BOX,
        paper="arXiv 1605.07277",
        about="PGD on the margin of another model: transfer:source=MODEL",
    ),
    Attack("fgsm", Margin(), FGSM(), declares=_ONE_STEP, about="one full step on the margin"),
    Attack("noise", Margin(), Noise(), declares=frozenset({"untargeted"}), about="random points of the ball"),
    Attack(
        "square-probe",
        Margin(),
        Square(steps=100),
        share=1 / 8,
        declares=_BLACK_BOX,
        about="square on every eighth query: does white-box miss something?",
    ),
    Attack(
        "rfgsm", Margin(), FGSM(random_start=0.5), declares=_ONE_STEP, about="half a random step, then FGSM"
    ),
    Attack(
        "released-fgsm",
        Drift(),
        FGSM(),
        last=True,
        declares=_ONE_STEP,
        paper="arXiv 2102.07265",
        about="the seed's FGSM: from the query's own clean embedding, where that has no gradient",
    ),
    Attack(
        "released-rfgsm",
        Drift(),
        FGSM(random_start=0.5),
        last=True,
        declares=_ONE_STEP,
        paper="arXiv 2102.07265",
        about="the seed's R-FGSM: from the query's own clean embedding",
    ),
    Attack(
        "released",
        Drift(),
        # The released code steps 2 eps / steps from a random start.
        PGD(steps=5, stride=0.4, decay=False),
        last=True,
        declares=frozenset({"white-box", "untargeted"}),
        paper="arXiv 2102.07265",
        about="the seed's released code: PGD-5 from the query's own clean embedding, last iterate",
    ),
)


# Attacks in order, as `find_attack` reads them, and what the suite is for.
_SUITES: dict[str, tuple[tuple[str, ...], str]] = {
    "quick": (("fmn:steps=20",), "a first look: min-norm on the margin, 20 steps"),
    "standard": (
        (
            *("fmn:steps=60,hurry=1", "cw", "cw-pixel:only=l2"),
            # Made for L2, where it is worth twice the steps.
            *("ddn:steps=100,only=l2", "ddn:steps=50,only=linf", "ddn-ce:steps=50,only=l2"),
            *("pgd", "apgd", "apgd-crowd", "pgd-push", "pgd-drift:only=l2"),
            # Each alone broke a few queries that all before it had missed; late, few queries pay for them.
            *("mim:only=linf", "ddn:only=l2", "square-probe"),
        ),
        "the ranking suite: min-norm, then cold starts with up to four objectives and a black-box probe",
    ),
    "thorough": (
        (
            *("fmn:steps=200,hurry=1", "cw:steps=200", "cw-pixel:steps=200,only=l2", "ddn:steps=200"),
            "ddn-ce:steps=200,only=l2",
            *("pgd:steps=100,restarts=3", "apgd:steps=100", "apgd-crowd:steps=100,restarts=2"),
            *("pgd-push:steps=100", "pgd-drift", "mim:steps=100,only=linf", "square:steps=1000"),
        ),
        "more steps, restarts and searches, to see what `standard` may have missed",
    ),
    "seed": (
        (
            *("released-fgsm", "released-rfgsm", "released"),
            *("fgsm", "rfgsm", "pgd:steps=5", "cw:steps=50"),
        ),
        "the attacks of Panum et al. (arXiv 2102.07265) as released, then the same on the margin",
    ),
}


@dataclass(frozen=True)
class Suite:
    """Attacks run in this order, the later ones on what still holds; the worst case counts."""

    name: str
    attacks: tuple[Attack, ...]
    about: str = ""

    def in_norm(self, norm: str) -> "Suite":
        """The suite as it runs in this norm, with a digest of its own; UserError if nothing is left.

        A row that no attack has touched would look robust.
        """
        attacks = tuple(attack for attack in self.attacks if attack.wants(norm))
        if not attacks:
            raise UserError(
                f"No attack of {self.name} is meant for the norm {norm}; take another norm or suite."
            )
        return replace(self, attacks=attacks)

    @property
    def digests(self) -> list[str]:
        """Its digest, or one for each norm where it has attacks that are meant for one of them only."""
        meant = (norm for norm in NORMS if any(attack.wants(norm) for attack in self.attacks))
        return list(dict.fromkeys(self.in_norm(norm).digest for norm in meant))

    @property
    def digest(self) -> str:
        """Sixteen hex digits over every attack's parameters, the engine and the library versions."""
        facts: dict[str, Any] = {
            "attacks": [attack.describe() for attack in self.attacks],
            "engine": ENGINE,
            "torch": torch.__version__.split("+")[0],
        }
        if any(attack.name.startswith(PREFIX) for attack in self.attacks):
            facts["foolbox"] = importlib.metadata.version("foolbox")
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def attack_table() -> Table[Attack]:
    """Every attack by name, ours first, then those of installed plug-ins."""
    table: Table[Attack] = Table("attack")
    for attack in _ATTACKS:
        table.add(attack.name, attack)
    plugins.fill(table, "robustdml.attacks", Attack, _use)
    return table


@cache
def suite_table() -> Table[Suite]:
    """Every suite by name."""
    table: Table[Suite] = Table("suite")
    for name, (texts, about) in _SUITES.items():
        table.add(name, Suite(name, tuple(map(find_attack, texts)), about))
    plugins.fill(table, "robustdml.suites", Suite, lambda suite: suite.digests)
    return table


def find_attack(text: str) -> Attack:
    """An attack by name, with parameters if wanted: "pgd", "pgd:steps=100", "foolbox:LinfPGD:steps=100"."""
    name, options = split_options(text)
    attack = bridge.find(name) if name.startswith(PREFIX) else attack_table()[name]
    return attack.change(**options) if options else attack


def find_suite(wanted: str | Sequence[str]) -> Suite:
    """A suite by name; else attacks as a suite of their own: a list of them, or "fmn+pgd:steps=100"."""
    if isinstance(wanted, str) and wanted in suite_table():
        return suite_table()[wanted]
    if wanted == ROBRANK:
        raise UserError(
            f"The suite {ROBRANK} is run from the command line (robustdml run --suite {ROBRANK}), and alone: "
            "its threats are no attacks on recall@k."
        )
    if isinstance(wanted, str):
        wanted = wanted.split("+")
        name, _ = split_options(wanted[0])
        if len(wanted) == 1 and name not in attack_table() and not name.startswith(PREFIX):
            # Ask the table that knows both, so that "standrad" is answered with "standard".
            both: Table[object] = Table("suite or attack")
            # A plug-in may have given a suite the name of an attack.
            for known in dict.fromkeys((*suite_table(), ROBRANK, *attack_table())):
                both.add(known, None)
            both.left_out = attack_table().left_out | suite_table().left_out
            both[name]
    attacks = tuple(find_attack(text) for text in wanted)
    names = [attack.name for attack in attacks]
    if not names:
        raise UserError("The list of attacks is empty; name at least one attack.")
    if len(set(names)) < len(names):
        raise UserError(f"The list {', '.join(names)} names an attack twice; name each once.")
    return Suite("+".join(attack.name for attack in attacks), attacks)


def _use(attack: Attack) -> object:
    """What engine, digests and lists ask of an attack."""
    if not isinstance(attack.search, Search | Whole):
        raise TypeError("its search is no instance of Search and has no run as Whole has it")
    return attack.describe(), parameters(attack.search), attack.paper or attack.search.paper
