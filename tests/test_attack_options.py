"""Parameters given as text: what makes no sense is answered before anything runs."""

from dataclasses import dataclass, fields, replace

import pytest

from attacks.catalogue import attack_table, find_attack, find_suite
from attacks.errors import UserError
from attacks.searches import PGD


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "fmn:factor=0.1",
            "Attack fmn: factor is of type tuple, which cannot be given as text; leave it out",
        ),
        ("square:p=-1", r"p=-1 must be above 0\."),
        ("square:p=0", r"p=0 must be above 0\."),
        ("square:p=1.01", r"p=1.01 must be at most 1\."),
        ("pgd:stride=nan", r"stride=nan must be finite\."),
        ("pgd:stride=-1", "must be above 0"),
        ("pgd:hope=-0.5", "must be at least 0"),
        ("apgd:rho=inf", "must be finite"),
        ("apgd:rho=1.5", "must be at most 1"),
        ("apgd:momentum=0", "must be above 0"),
        ("nes:sigma=0", "must be above 0"),
        ("rfgsm:random_start=2", "must be at most 1"),
        ("ddn:gamma=0", "must be above 0"),
        ("cw:pixelwise=-1", "must be at least 0"),
        ("cw:rounds=0", "must be at least 1"),
        ("apgd-crowd:size=0", "must be at least 1"),
        ("pgd:restarts=0", "must be at least 1"),
        ("pgd:restarts=1000001", r"restarts=1000001 must be at most 1,000,000\."),
        (f"pgd:steps={10**23}", f"steps={10**23} must be at most 1,000,000\\."),
        (f"nes:pairs={10**23}", "must be at most 1,000,000"),
        (f"foolbox:LinfPGD:steps={10**23}", "of at least 1 and at most 1,000,000"),
        (f"foolbox:LinfPGD:steps={'9' * 5000}", "of at least 1 and at most 1,000,000"),
    ],
)
def test_values_that_make_no_sense_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        find_attack(text)


@pytest.mark.parametrize("name", sorted(attack_table()))
def test_every_default_may_be_given(name: str) -> None:
    search = attack_table()[name].search
    for field in fields(search):  # type: ignore[arg-type]
        if isinstance(field.default, int | float):
            assert getattr(find_attack(f"{name}:{field.name}={field.default}").search, field.name) == (
                field.default
            )
    for option in (*getattr(search, "positive", ()), *getattr(search, "shares", ())):
        assert option in vars(search), "a limit on a parameter that is not there"


def test_edges_that_mean_something_are_kept() -> None:
    for text in ("square:p=1", "mim:decay=0", "cw-pixel:pixelwise=0", "fmn:patience=0", "nes:momentum=1"):
        assert find_attack(text).name == text


def test_a_plug_in_may_go_below_zero_where_its_default_does() -> None:
    @dataclass(frozen=True)
    class Mine(PGD):
        lean: float = -1.0
        level: int = -1
        far: float = float("inf")

    attack = replace(find_attack("pgd"), search=Mine())
    changed = attack.change(lean="-0.5", level="0", far="inf").search
    assert (changed.lean, changed.level) == (-0.5, 0)  # type: ignore[union-attr]
    for option, text, says in (("lean", "-2", "at least -1"), ("level", "-2", "at least -1")):
        with pytest.raises(UserError, match=says):
            attack.change(**{option: text})


@pytest.mark.parametrize(
    "text", ["fmn:restarts=4", "cw:restarts=2", "fgsm:restarts=2", "ddn:steps=9,restarts=2"]
)
def test_restarts_of_a_search_without_chance_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"restarts=\d would find what one run finds"):
        find_suite(text)


@pytest.mark.parametrize(
    "text",
    [
        "rfgsm:restarts=3",
        "fgsm:restarts=3,random_start=0.5",
        "noise:restarts=3",
        "foolbox:LinfPGD:restarts=3",
    ],
)
def test_restarts_of_a_search_with_chance_are_not(text: str) -> None:
    assert find_attack(text).restarts == 3
    assert find_attack("fmn:restarts=1").restarts == 1
    with pytest.raises(UserError, match="draws nothing at random"):
        find_attack("rfgsm:restarts=3,random_start=0")


def test_the_command_line_answers_in_one_sentence(robustdml) -> None:
    for text in ("fmn:factor=0.1", "square:p=-1", "fmn:restarts=4"):
        told = robustdml("compare", "glyphs-natural", "--attack", text).told
        assert told.startswith(f"Attack {text.split(':')[0]}: ")


@pytest.mark.parametrize("text", ["pgd:steps=3,steps=4", "foolbox:LinfPGD:steps=3, steps=3"])
def test_a_parameter_that_is_given_twice_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"gives steps twice; give it once\."):
        find_suite(text)
