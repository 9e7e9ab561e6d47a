"""Published rows: the same board from them, nothing wrong goes in unnoticed, a changed digit is named."""

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import leaderboard.entries
from leaderboard import write
from leaderboard.entries import build_entry, entry_path, load_entries, save_entry
from leaderboard.entry import table_sha256
from leaderboard.errors import UserError
from leaderboard.ers_records import COLUMNS, ErsRecord, ers_path, scan_ers, write_ers
from leaderboard.ers_table import measured
from leaderboard.published import check, gather, lacking, publish
from leaderboard.records import Cell
from leaderboard.standing import assess
from leaderboard.sums import SUMS, check_sums, write_sums
from leaderboard.verify import verify_entry, verify_folder
from tests.board_fixtures import cell, limited, put

SMALL = {"classes": 12, "per_class": 6}


def entry(name="con-rob", **changes):
    return assess([build_entry(Cell(*cell(name, **(SMALL | changes))))])[0]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two ranked rows in two norms, ERS of one of them."""
    results = tmp_path_factory.mktemp("results")
    for name in ("con-nat", "con-rob"):
        for norm in ("linf", "l2"):
            put(results, *cell(name, norm, **SMALL))
    put_ers(results)
    return results


def put_ers(results, name="con-rob", digest=None, value=50.0):
    record, frame = cell(name, **SMALL)
    model = record.model.model_copy(update={"digest": digest or record.model.digest})
    ers = ErsRecord(model=model, dataset=record.dataset, suite=record.suite, radius="8/255")
    columns = {name: frame.get(name, value) for name in COLUMNS}
    rows = pd.DataFrame(columns).assign(TMA=0.5, **{"ES:D": 1.0})
    write_ers(ers_path(results, ers), ers, rows)


@pytest.fixture
def to(tmp_path):
    return tmp_path / "published" / "entries"


def test_the_same_board_comes_from_published_rows(source, to, tmp_path):
    assert len(publish(source, to, problem=pytest.fail)) == 4
    assert check(to) == []
    write(source, tmp_path / "a", pytest.fail)
    write(to.parent, tmp_path / "b", pytest.fail)
    for name in ("cub200-linf.csv", "cub200-l2.json", "cub200-linf.md", "ers.csv", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert publish(source, to, problem=pytest.fail) == [] and check(to) == []
    # What is published lies as in a results folder, and may be published again from there.
    again = tmp_path / "again" / "entries"
    publish(to.parent, again, problem=pytest.fail)
    assert files(again) == files(to) and len(files(to)) == 11


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_published_rows_stand_beside_local_ones(source, to, tmp_path):
    publish(source, to, ["con-rob"], problem=pytest.fail)
    local = tmp_path / "local"
    put(local, *cell("tri-rob", **SMALL))
    put(local, *limited("con-rob", 30, **SMALL))
    said = []
    everything, ours = leaderboard.entries.collect(local, said.append, to.parent)
    # The published row is nearer to a ranked one than a look at 30 queries.
    shown = {(e.model.name, e.norm): e.limit for e in everything}
    assert shown == {("con-rob", "linf"): None, ("con-rob", "l2"): None, ("tri-rob", "linf"): None}
    assert [e.model.name for e in ours] == ["tri-rob"] and said == []
    put(local, *cell("con-rob", **SMALL, created="2027-01-01T00:00:00+00:00"))
    everything, ours = leaderboard.entries.collect(local, said.append, to.parent)
    assert [e.created[:4] for e in ours if e.model.name == "con-rob"] == ["2027"] and len(everything) == 3
    assert [row.model.name for row in measured(local, said.append, to.parent)] == ["con-rob"]


def test_a_published_row_of_other_weights_is_told(source, to, tmp_path):
    publish(source, to, ["con-rob"], problem=pytest.fail)
    record, frame = cell("con-rob", **SMALL)
    put(tmp_path, record.model_copy(update={"model": record.model.model_copy(update={"digest": "x"})}), frame)
    said = []
    leaderboard.entries.collect(tmp_path, said.append, to.parent)
    assert len(said) == 1 and "published row of this name has other weights; the board shows" in said[0]


def test_what_may_not_be_published_is_refused_before_anything_is_written(source, to, tmp_path):
    short = tmp_path / "short"
    put(short, *limited("con-rob", 30, **SMALL))
    with pytest.raises(UserError, match=r"con-rob linf would not be ranked \(suite quick, .* 36 of 72"):
        publish(short, to)
    assert not to.exists()
    assert publish(short, to, preliminary=True)[0].status == "preliminary" and check(to) == []
    with pytest.raises(UserError, match=r"published already .* --replace"):
        publish(source, to, ["con-rob"])
    assert len(publish(source, to, ["con-rob"], replace=True)) == 2
    assert check(to) == []
    with pytest.raises(UserError, match="no row of 'conrob'; it has: con-nat, con-rob"):
        publish(source, to, ["conrob"])
    with pytest.raises(UserError, match="a folder called entries"):
        publish(source, tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no whole result is in this folder"):
        publish(tmp_path / "published" / "entries" / "cub200", to)


def test_what_a_published_card_says_of_the_same_weights_stays_said(source, to, tmp_path):
    """A row scored again from the file that training wrote must not lose its title and its source."""
    publish(source, to, problem=pytest.fail)
    for at in [("con-rob", "linf"), ("con-nat", "linf")]:
        old = next(row for row in load_entries(to.parent) if (row.model.name, row.norm) == at)
        card = old.model.model_copy(update={"title": f"Said of {at[0]}", "licence": "MIT"})
        save_entry(to.parent, old.model_copy(update={"model": card}))
    anew = tmp_path / "anew"
    record, frame = cell("con-rob", **SMALL)
    silent = record.model.model_copy(update={"title": "", "licence": "BSD"})
    put(anew, record.model_copy(update={"model": silent}), frame)
    new = publish(anew, to, ["con-rob"], replace=True, preliminary=True)
    assert [(row.model.title, row.model.model_dump()["licence"]) for row in new] == [
        ("Said of con-rob", "BSD")
    ]


def test_one_model_under_two_names_is_refused(source, to):
    publish(source, to, problem=pytest.fail)
    twin = entry().model_copy(update={"model": entry().model.model_copy(update={"name": "twin"})})
    save_entry(to.parent, twin)
    write_sums(entry_path(to.parent, twin).parent)
    assert ["cub200 twin linf: these weights are published as 'con-rob'" in s for s in check(to)] == [True]


def test_a_name_that_no_table_bears_is_refused(to, tmp_path):
    record, frame = cell("con-rob", **SMALL)
    for field in ("model", "dataset"):
        card = getattr(record, field).model_copy(update={"name": "a\x1b[31m b"})
        put(tmp_path / field, record.model_copy(update={field: card}), frame)
        with pytest.raises(UserError, match=rf"{field}\.name 'a\\x1b\[31m b' cannot name a published row"):
            publish(tmp_path / field, to)
    assert not to.exists()


def test_links_and_files_that_unpack_too_far_are_refused(source, to, tmp_path, monkeypatch):
    publish(source, to, ["con-rob"], problem=pytest.fail)
    path = to / "cub200" / "con-rob" / "linf.json"
    with monkeypatch.context() as patch:
        patch.setattr("leaderboard.verify.MOST_ROWS", 71)
        with pytest.raises(UserError, match=r"linf\.parquet: not a whole table \(more than 71 rows"):
            verify_entry(path, to.parent)
        patch.setattr("leaderboard.verify.LARGEST", 1000)
        with pytest.raises(UserError, match=r"linf\.json takes more than 1,000 bytes"):
            verify_entry(path, to.parent)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match="is a link"):
        verify_entry(path, to.parent)
    with pytest.raises(UserError, match="is a link"):
        check_sums(path.parent)


def test_old_ers_records_do_not_stay_beside_new_weights(source, to, tmp_path):
    publish(source, to, ["con-rob"], problem=pytest.fail)
    new = tmp_path / "new"
    record, frame = cell("con-rob", **SMALL)
    model = record.model.model_copy(update={"digest": "retrained"})
    put(new, record.model_copy(update={"model": model}), frame)
    put_ers(new, digest="retrained", value=20.0)
    publish(new, to, replace=True)
    assert [cell.record.model.digest for cell in scan_ers(to.parent)] == ["retrained"] and check(to) == []
    shutil.rmtree(new / "ers")
    publish(new, to)
    assert len(scan_ers(to.parent)) == 1, "nothing newer, so it stays"
    put(new, *cell("con-rob", **SMALL, created="2027-01-01T00:00:00+00:00"))
    publish(new, to, replace=True)
    assert scan_ers(to.parent) == [] and check(to) == []


def test_threats_measured_later_join_the_row_of_their_weights(source, to, tmp_path, robustdml):
    publish(source, to, ["con-nat", "con-rob"], problem=pytest.fail)
    shutil.rmtree(to / "cub200/con-rob/ers")
    later = tmp_path / "later"
    put_ers(later)
    put_ers(later, "con-nat", digest="retrained")
    with pytest.raises(UserError, match=r"no row of 'con-nat'; it has: con-rob"):
        publish(later, to, ["con-nat"], problem=pytest.fail)
    before = sorted(to.rglob("*.json"))
    assert publish(later, to, problem=pytest.fail) == [] and sorted(to.rglob("*.json")) == before
    assert [scanned.record.model.name for scanned in scan_ers(to.parent)] == ["con-rob"] and check(to) == []
    said = robustdml("publish", later, "--to", to)
    assert (
        said.code == 0
        and "0 rows" in said.out + said.err
        and "threats of con-rob beside" in said.out + said.err
    )
    shutil.rmtree(later / "ers")
    put_ers(later, digest="retrained")
    with pytest.raises(UserError, match="no whole result"):
        publish(later, to, problem=pytest.fail)


def test_strangers_and_missing_files_are_named(source, to):
    publish(source, to, problem=pytest.fail)
    folder = to / "cub200" / "con-rob"
    (folder / "weights.pt").write_bytes(b"x")
    assert any("weights.pt is no file of a row" in s for s in check(to))
    (folder / "weights.pt").unlink()
    (folder / "linf.json").unlink()
    assert any("linf.parquet has no entry" in s for s in check(to))
    shutil.copytree(to / "cub200" / "con-nat", folder, dirs_exist_ok=True)
    assert any("is not that of its place" in s for s in check(to))
    (folder / SUMS).unlink()
    assert any(f"has no {SUMS}" in s for s in check(to))
    assert "no folder" in check(to.parent / "nowhere" / "entries")[0]


def test_a_card_says_what_it_lacks():
    assert lacking(entry()) == ["trained_on", "authors", "paper", "licence"]
    model = entry().model.model_copy(update={"sibling": None, "licence": "MIT"})
    assert "sibling" in lacking(entry().model_copy(update={"model": model}))
    assert "licence" not in lacking(entry().model_copy(update={"model": model}))


@pytest.fixture(scope="module")
def submission(tmp_path_factory):
    """A folder as `submit` hands it in, without images."""
    folder = tmp_path_factory.mktemp("submission")
    save_entry(folder, entry())
    (folder / "kept").mkdir()
    (folder / "kept" / "some.safetensors").write_bytes(bytes(range(64)))
    write_sums(folder)
    assert [e.model.name for e in verify_folder(folder)] == ["con-rob"]
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_byte_changed_anywhere_names_the_file(submission, data):
    name = data.draw(st.sampled_from(sorted(files(submission))))
    path = submission / name
    before = path.read_bytes()
    place = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(before[:place] + bytes([before[place] ^ byte]) + before[place + 1 :])
        with pytest.raises(UserError) as told:
            verify_folder(submission)
    finally:
        path.write_bytes(before)
    assert str(path) in str(told.value) or name in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def leaves(value, at=()):
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, (*at, name))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from leaves(part, (*at, i))
    else:
        yield at, value


def test_every_number_and_text_of_an_entry_is_guarded_by_name(submission):
    path = submission / "entries" / "cub200" / "con-rob" / "linf.json"
    text = path.read_text()
    fields = json.loads(text)
    try:
        for at, value in leaves(fields):
            changed = json.loads(text)
            inside = changed
            for step in at[:-1]:
                inside = inside[step]
            inside[at[-1]] = value + 1 if isinstance(value, int | float) else f"{value}1"
            path.write_text(json.dumps(changed, indent=1, sort_keys=True) + "\n")
            with pytest.raises(UserError) as told:
                verify_entry(path, submission)
            name = at[1] if at[0] == "sums" else at[0]
            assert str(path) in str(told.value) and str(name) in str(told.value), (at, told.value)
    finally:
        path.write_text(text)


FORGED = {
    "recall": lambda f: f["recall"]["2"][3].update(value=f["recall"]["2"][3]["value"] + 0.01),
    "recall@1 at clean, low": lambda f: f["recall"]["1"][0].update(low=0.1),
    "curve_score": lambda f: f["curve_score"].update(high=99.0),
    "queries": lambda f: f.update(queries=71),
    "classes": lambda f: f.update(classes=11),
    "key": lambda f: f.update(key="0" * 16),
    "forward_per_query": lambda f: f.update(forward_per_query=1.0),
    "broken_by": lambda f: f["broken_by"].update({"noise": [0.5] * 6}),
    "r_precision": lambda f: f["map_at_r"].update(value=0.99),
    "status": lambda f: f["checks"].append({"name": "collapse", "level": "block", "message": "rank 3"}),
    "broken_sha256": lambda f: f.update(broken_sha256="0" * 64),
    "norm": lambda f: f.update(norm="l2"),
}


@pytest.mark.parametrize("field", FORGED)
def test_a_forger_who_makes_the_digests_again_is_caught_by_the_table(tmp_path, field):
    from leaderboard.entries import entry_text
    from leaderboard.sums import field_sums

    path = save_entry(tmp_path, entry())[0]
    fields = json.loads(path.read_text())
    del fields["sums"]
    if field == "status":
        fields["status"] = "ranked"
    FORGED[field](fields)
    path.write_bytes(entry_text({**fields, "sums": field_sums(fields)}))
    with pytest.raises(UserError, match=field):
        verify_entry(path, tmp_path)


def test_a_table_against_the_laws_is_refused(tmp_path):
    whole = entry()
    for change, said in (
        (lambda t: t.assign(k8=t["k1"] * 0), "a larger k is broken before a smaller one"),
        (lambda t: t.assign(query=0), "occurs twice"),
        (lambda t: t.assign(k8=t["k8"] * 0 + 9), "a budget that the entry does not list"),
        (lambda t: t.drop(columns="k8"), "not those of the entry's ks"),
    ):
        broken = change(whole.broken)
        update = {"broken": broken, "broken_sha256": table_sha256(broken)}
        path = save_entry(tmp_path, whole.model_copy(update=update))[0]
        with pytest.raises(UserError, match=rf"linf\.parquet: .*{said}"):
            verify_entry(path, tmp_path)


def test_another_parquet_of_the_same_numbers_is_told_by_its_sha256(tmp_path):
    path = save_entry(tmp_path, entry())[1]
    write_sums(tmp_path)
    pq.write_table(pq.read_table(path), path, compression="snappy")
    verify_entry(path.with_suffix(".json"), tmp_path)
    with pytest.raises(UserError, match=r"linf\.parquet does not match its sha256"):
        check_sums(tmp_path)


def test_a_submission_folder_is_verified_before_it_is_published(submission, to, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(submission, copy)
    assert len(gather(copy, [], pytest.fail)) == 1
    (copy / "kept" / "some.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match=r"some\.safetensors does not match its sha256"):
        publish(copy, to)
    assert not to.exists()


def test_the_command_publishes_checks_and_says_the_rank(robustdml, source, tmp_path):
    said = robustdml("publish", str(source), "--to", "entries", "--model", "con-rob")
    assert said.code == 0 and "rank 1 among 1 ranked rows" in said.out
    assert "does not say: trained_on" in said.err and "2 rows written" in said.err
    said = robustdml("publish", "--check", "entries")
    assert said.code == 0 and "cub200 linf: con-rob: rank 1" in said.out and "2 published rows" in said.err
    assert robustdml("publish").told.startswith("Give a results folder")
    path = tmp_path / "entries" / "cub200" / "con-rob" / "linf.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    said = robustdml("publish", "--check", "entries")
    assert said.code == 2 and "linf.json: seed and its digest" in said.err


def test_the_board_shows_published_rows_without_a_results_folder(robustdml, source, tmp_path, monkeypatch):
    publish(source, tmp_path / "shipped" / "entries", problem=pytest.fail)
    monkeypatch.setattr(leaderboard.entries, "PUBLISHED", tmp_path / "shipped")
    assert robustdml("leaderboard", "--out", "one").code == 0
    put(tmp_path / "results", *cell("tri-rob", **SMALL))
    assert robustdml("leaderboard", "--out", "two").code == 0
    assert robustdml("leaderboard", "--results", "results", "--out", "three").code == 0
    names = [set(pd.read_csv(tmp_path / n / "cub200-linf.csv")["model"]) for n in ("one", "two", "three")]
    assert names == [{"con-nat", "con-rob"}, {"con-nat", "con-rob", "tri-rob"}, {"tri-rob"}]


def test_the_rows_that_the_repository_publishes_are_sound():
    folder = leaderboard.entries.PUBLISHED / "entries"
    assert check(folder) == []
    assert all(e.status in ("ranked", "preliminary") for e in load_entries(folder.parent, pytest.fail))
