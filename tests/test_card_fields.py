"""Authors, code, contact and extra data of a card: bounded, one line, shown as text, in no digest."""

import json

import pytest

from attacks.errors import UserError
from benchmark.candidate import Candidate
from leaderboard.entries import build_entry
from leaderboard.published import lacking
from leaderboard.records import Cell, scan
from leaderboard.site.build import write_site
from models import registry
from models.cards import write_zoo
from models.spec import parse, read_toml
from tests.board_fixtures import cell, put
from tests.grid_worlds import convnet_spec, save_convnet, save_pictures
from tests.site_pages import MARKUP, Page

FIELDS = {
    "authors": "Ada Lovelace, 山田太郎",
    "code_url": "https://example.org/ada/net?v=1&x=2",
    "contact": "ada@example.org",
    "extra_data": "40,000 made-up images",
}
CARD = {"name": "m", "arch": "convnet", "dim": 3}
MODEL = ("--arch", "convnet", "--option", "width=8", "--dim", "16")


def test_they_survive_a_card_and_change_no_digest(tmp_path):
    plain = convnet_spec(path=save_convnet(tmp_path / "x.safetensors"))
    named = plain.model_copy(update=FIELDS)
    one, other = (registry.load(spec) for spec in (plain, named))
    assert one.digest == other.digest
    card = Candidate.of_model(other).card
    assert {name: getattr(card, name) for name in FIELDS} == FIELDS and card.digest == one.digest
    write_zoo(tmp_path / "card.toml", [named], "A card.")
    (read,) = read_toml(tmp_path / "card.toml")
    assert read == named


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("authors", "a" * 301, "at most 300"),
        ("contact", "a" * 121, "at most 120"),
        ("extra_data", "a\nb", "one line"),
        ("code_url", "https://x.org/" + "a" * 300, "at most 300"),
        ("authors", "Ada\nLovelace", "one line"),
        ("authors", "Ada\x1b[31m", "one line"),
        ("contact", "a\u2028b", "one line"),
        ("contact", "gpj.\u202eexe", "one line"),
        ("code_url", "http://example.org", "pattern"),
        ("code_url", "javascript:alert(1)", "pattern"),
        ("code_url", "https://example.org/ x", "pattern"),
        ("code_url", 'https://x.org/"onclick=', "pattern"),
        ("code_url", "https://", "pattern"),
    ],
)
def test_what_is_no_short_line_is_refused(field, value, words):
    with pytest.raises(UserError, match=f"{field}: .*{words}") as error:
        parse(CARD | {field: value}, "here")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value) and len(str(error.value)) < 400


def test_flags_fill_them_and_are_named(robustdml, tmp_path):
    save_pictures(tmp_path / "pictures", side=32)
    save_convnet(tmp_path / "mine.safetensors", channels=3)
    own = ("mine.safetensors", "--name", "mine", *MODEL, "--dataset", "pictures", "--side", "32")
    told = robustdml("submit", *own, "--code-url", "ftp://x").told
    assert told.startswith("--code-url: ")
    flags = [word for name, text in FIELDS.items() for word in (f"--{name.replace('_', '-')}", text)]
    done = robustdml("dry-run", *own, *flags, "--norm", "linf")
    assert done.code == 0 and "does not say" in done.out and "--authors" not in done.out, done.err
    # Flags that add to a card are held to the same rules.
    (tmp_path / "card.toml").write_text('name = "m"\narch = "convnet"\ndim = 16\n')
    told = robustdml("submit", "card.toml", "--dataset", "pictures", "--authors", "a\tb").told
    assert told.startswith("--authors: ") and "one line" in told


def test_a_card_that_says_more_reaches_the_row_that_is_there(robustdml, tmp_path):
    save_pictures(tmp_path / "pictures", side=32)
    save_convnet(tmp_path / "mine.safetensors", channels=3)
    own = ("submit", "mine.safetensors", "--name", "mine", *MODEL, "--dataset", "pictures", "--side", "32")
    own += ("--norm", "linf", "--suite", "noise:steps=2", "--checks", "basic", "--shard-size", "12")
    assert robustdml(*own).code == 0
    before = scan(tmp_path / "results")
    place = "entries/pictures/mine/linf.json"
    assert json.loads((tmp_path / "results" / place).read_text())["model"]["authors"] == ""
    done = robustdml(*own, "--authors", "Ada", "--title", "Mine")
    assert done.code == 0 and "nothing to compute" in done.err and "Mine on pictures" in done.out
    for folder in ("results", "results/submissions/mine"):
        card = json.loads((tmp_path / folder / place).read_text())["model"]
        assert (card["authors"], card["title"]) == ("Ada", "Mine")
    assert robustdml("verify", "results/submissions/mine", "--side", "32").code == 0
    for old, new in zip(before, scan(tmp_path / "results"), strict=True):
        assert new.frame.equals(old.frame) and new.record.model.authors == "Ada"
        same = {"model", "rows_sha256"}
        assert new.record.model_dump(exclude=same) == old.record.model_dump(exclude=same)


def site(tmp_path, **fields):
    """The pages of a site with one row, whose card says this."""
    record, frame = cell("con-rob", classes=6, per_class=4)
    model = record.model.model_copy(update=fields)
    put(tmp_path / "results", record.model_copy(update={"model": model}), frame)
    write_site(tmp_path / "results", tmp_path / "out", pytest.fail)
    return Page(tmp_path / "out" / "models" / "con-rob.html")


def links(page):
    return {attributes["href"]: attributes for tag, attributes in page.tags if tag == "a"}


def test_the_page_of_a_model_shows_them_and_links_the_code(tmp_path):
    page = site(tmp_path, **FIELDS)
    assert all(text in page.text for text in FIELDS.values())
    assert "noopener" in links(page)[FIELDS["code_url"]]["rel"]
    assert not any(target.startswith("mailto") for target in links(page))
    assert "author = {{Ada Lovelace, 山田太郎}}" in page.text
    (exported,) = json.loads((tmp_path / "out" / "data" / "cub200-linf.json").read_text())["rows"]
    assert {name: exported[name] for name in FIELDS} == FIELDS


@pytest.mark.parametrize(
    "address",
    [MARKUP, "javascript:alert(1)", "http://example.org", "https://x.org/ y", 'https://x.org/"onclick="a'],
)
def test_what_is_no_https_address_is_text(tmp_path, address):
    """A row can reach the board without our specification having read its card."""
    page = site(tmp_path, authors=MARKUP, code_url=address, contact=address)
    assert page.text.count(address) >= 2 and MARKUP in page.text
    assert address not in links(page) and not page.having("onclick", "onerror")


def test_what_they_leave_out_is_asked_for(tmp_path):
    record, frame = cell("con-rob", classes=6, per_class=4)
    assert "authors" in lacking(build_entry(Cell(record, frame)))
    named = record.model_copy(update={"model": record.model.model_copy(update={"authors": "Ada"})})
    assert "authors" not in lacking(build_entry(Cell(named, frame)))
