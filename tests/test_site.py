"""The site: what is printed are the numbers of the JSON, escaped, whole, the same bytes every time."""

import hashlib
import json
import re
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest

from leaderboard import ers_table
from leaderboard.errors import UserError
from leaderboard.ers import NAMES, ErsRow
from leaderboard.records import safe_name
from leaderboard.results import load_results
from leaderboard.site import assets
from leaderboard.site.build import write_site
from leaderboard.site.documents import html
from leaderboard.site.model import words
from leaderboard.statistics import Interval
from tests.board_fixtures import BUDGETS, KS, MODELS, cell, put
from tests.site_pages import HOSTILE, MARKUP, Page, results


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    write_site(results(folder / "results"), folder / "out", pytest.fail)
    return folder


@pytest.fixture(scope="module")
def pages(built):
    out = built / "out"
    return {path.relative_to(out).as_posix(): Page(path) for path in sorted(out.rglob("*.html"))}


def board_json(built, name="cub200-linf"):
    return json.loads((built / "out" / "data" / f"{name}.json").read_text(encoding="utf-8"))


def plots(page):
    text = page.path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" data-plot="([^"]+)">(.*?)</script>', text, re.DOTALL)
    return {name: json.loads(content) for name, content in found}


def test_there_is_a_page_for_everything(pages):
    assert {f"boards/cub200-{norm}.html" for norm in BUDGETS} <= set(pages)
    assert {f"models/{safe_name(name)}.html" for name in (*MODELS, "mine", HOSTILE)} <= set(pages)
    assert {
        "index.html",
        "reported.html",
        "docs/protocol.html",
        "compare/compare-cub200-linf-con-rob.html",
    } <= set(pages)
    assert "docs/train.html" in pages["docs/protocol.html"].path.parent.joinpath("../index.html").read_text()


def test_every_link_resolves_and_nothing_is_loaded_from_elsewhere(built, pages):
    ids = {name: set(page.having("id")) for name, page in pages.items()}
    for name, page in pages.items():
        for tag, attributes in page.tags:
            for target in (attributes[key] for key in ("href", "src") if key in attributes):
                parts = urlsplit(target)
                if parts.scheme:
                    assert (tag, parts.scheme) in {("a", "https"), ("a", "http"), ("link", "data")}, (
                        name,
                        target,
                    )
                    continue
                assert not parts.netloc, (name, target)
                file = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
                assert file.is_file() and file.is_relative_to(built.resolve()), (name, target)
                if parts.fragment and file.suffix == ".html":
                    assert (
                        unquote(parts.fragment) in ids[file.relative_to((built / "out").resolve()).as_posix()]
                    )
    style = (built / "out" / "static" / "site.css").read_text()
    script = (built / "out" / "static" / "site.js").read_text()
    assert "url(" not in style and "@import" not in style and "://" not in script


def test_the_table_prints_the_numbers_of_the_json(built, pages):
    about = board_json(built)
    heads, *lines = pages["boards/cub200-linf.html"].tables[0]
    assert len(lines) == len(about["rows"]) == 7
    for cells, row in zip(lines, about["rows"], strict=True):
        found = dict(zip(heads, cells, strict=True))
        assert found["Rank"] == str(row["rank"] or "prelim.") and row["title"] in found["Model"]
        assert found["R@1 at 8/255"].split()[0] == f"{row['r1_at_8/255']:.1f}"
        assert found["Clean R@1"] == f"{row['clean_r1']:.1f}" and found["Kind"].endswith(row["kind"])
        for k in KS:
            for budget in BUDGETS["linf"]:
                printed = found[f"R@{k} at {budget}"].split()[0]
                assert printed == f"{row[f'r{k}_at_{budget}']:.1f}"
        assert "prior robust baseline" in found["Model"] or not row["baseline"]


def test_sort_keys_are_the_numbers_and_whole_columns(built, pages):
    page, about = pages["boards/cub200-linf.html"], board_json(built)
    heads = page.tables[0][0]
    text = page.path.read_text(encoding="utf-8")
    for column in ("R@1 at 8/255", "Gain", "Vs prior"):
        at = heads.index(column)
        rows = re.findall(r"<tr[^>]*>(<td.*?)</tr>", text)[: len(about["rows"])]
        keys = [re.findall(r'<t[dh](?: data-order="([^"]*)"| scope="row"|)>', row)[at] for row in rows]
        name = {"R@1 at 8/255": "r1_at_8/255", "Gain": "gain", "Vs prior": "versus_prior"}[column]
        for key, row in zip(keys, about["rows"], strict=True):
            assert float(key) == (pytest.approx(row[name], abs=1e-4) if row[name] is not None else -999999)


def test_the_curves_hold_the_numbers_of_the_json(built, pages):
    about = board_json(built)
    drawn = [t for t in plots(pages["boards/cub200-linf.html"])["curves"]["traces"] if "text" in t]
    by_group = {trace["legendgroup"]: trace for trace in drawn}
    assert len(by_group) == len(about["rows"])
    baseline = next(row for row in about["rows"] if row["baseline"])
    assert by_group["prior"]["visible"] is True
    others = [row for row in about["rows"] if row is not baseline]
    for group, row in {"prior": baseline, **{f"r{i}": row for i, row in enumerate(others)}}.items():
        expected = [row["clean_r1"], *(row[f"r1_at_{b}"] for b in BUDGETS["linf"])]
        assert by_group[group]["y"] == expected
        assert by_group[group]["text"][0].startswith(f"{row['clean_r1']:.1f} [")


def test_the_band_runs_around_its_line(pages):
    for name in ("boards/cub200-linf.html", "boards/cub200-l2.html"):
        traces = plots(pages[name])["curves"]["traces"]
        for band, line in zip(traces[::2], traces[1::2], strict=True):
            n = len(line["x"]) - 1
            assert band["x"][:n] == line["x"][1:]
            assert all(h >= y for h, y in zip(band["y"][:n], line["y"][1:], strict=True))
            assert all(lo <= y for lo, y in zip(band["y"][n:][::-1], line["y"][1:], strict=True))


def test_markup_in_a_card_is_text_everywhere(pages):
    for name, page in pages.items():
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        assert all("src" in a or a.get("type") == "application/json" for a in scripts), name
        assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)], name
        assert not any("evil" in a["src"] for tag, a in page.tags if tag == "img"), name
    page = pages[f"models/{safe_name(HOSTILE)}.html"]
    assert page.text.count(MARKUP) > 15
    assert MARKUP in pages["boards/cub200-linf.html"].text
    for content in plots(pages["boards/cub200-linf.html"]).values():
        labels = [trace[key] for trace in content["traces"] for key in ("meta",) if key in trace]
        labels += [y for trace in content["traces"] for y in trace["y"] if isinstance(y, str)]
        assert labels and not any(re.search(r"<(?!br>)", label) for label in labels)


def test_a_page_that_the_board_writes_in_markdown_takes_no_markup_from_a_name():
    made = html(
        f"# {MARKUP}\n\n| A |\n| :-- |\n| ![x](http://evil.example/x.png) [y](http://evil.example) |\n"
    )
    assert "<img" not in made and "<script" not in made and "<a " not in made
    trusted = html(
        "[p](protocol.md#x) [r](../README.md) [w](https://a.example)", frozenset({"protocol"}), True
    )
    remarked = (
        "<!-- written by a program -->\n| A |\n| --- |\n| 1 |\n<!-- end -->\n\n<!-- two\nlines --> seen"
    )
    assert "written by" not in html(remarked, trusted=True) and "end" not in html(remarked, trusted=True)
    assert "written by" in html(remarked) and "seen" in html(remarked, trusted=True)
    assert 'href="protocol.html#x"' in trusted and "README" not in trusted and "https://a.example" in trusted


def test_preliminary_and_reported_rows_are_apart(pages):
    page = pages["boards/cub200-linf.html"]
    marked = [a for tag, a in page.tags if tag == "tr" and a.get("class") == "preliminary"]
    assert len(marked) == 1 and "suite quick, not standard" in page.text
    heads, *lines = page.tables[1]
    assert "Rank" not in heads and "Source" in heads and len(lines) >= 3
    assert all("2102.07265" in line[-1] for line in lines)
    assert "not transcribed" in pages["reported.html"].text


def test_every_row_says_what_kind_it_is(tmp_path):
    whole, frame = cell("con-rob", classes=6, per_class=4)
    for name, changes in {
        "handed-in": {"training": "panum2021"},
        "again": {"training": "panum2021", "command": "robustdml train --recipe panum2021"},
        "plain": {"training": "natural", "command": "robustdml train --recipe natural"},
    }.items():
        card = whole.model.model_copy(update={"name": name, "title": name, "digest": name, **changes})
        put(tmp_path / "results", whole.model_copy(update={"model": card}), frame)
    write_site(tmp_path / "results", tmp_path / "out", pytest.fail)
    page = Page(tmp_path / "out" / "boards" / "cub200-linf.html")
    heads, *lines = page.tables[0]
    said = {line[heads.index("Model")]: line[heads.index("Kind")] for line in lines}
    assert said == {"again": "◇ reproduced", "handed-in": "● measured", "plain": "● measured"}
    assert [a["class"] for tag, a in page.tags if tag == "tr" and "class" in a].count("reproduced") == 1
    assert "◇ reproduced: a paper's defence" in page.text and "○ preliminary:" not in page.text
    frame = load_results(tmp_path / "results")
    assert set(frame[frame["model"] == "again"]["kind"]) == {"reproduced"}
    assert "again ◇" in (tmp_path / "out" / "data" / "cub200-linf.md").read_text(encoding="utf-8")


def test_figures_of_attacks_hold_the_numbers_of_the_json(built, pages):
    folder, stem = built / "out" / "compare", "compare-cub200-linf-con-rob"
    drawn = plots(pages[f"compare/{stem}.html"])
    assert set(drawn) == {f"attacks-{name}" for name in ("curves", "matrix", "cost", "gain", "passes")}
    lines = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    first = {(x["attack"], x["budget"]): x for x in lines if x["k"] == 1}
    for trace in drawn["attacks-curves"]["traces"]:
        if "text" in trace:
            name = "worst" if trace["legendgroup"] == "worst" else trace["meta"]
            found = [100 * first[name, budget]["recall"] for budget in trace["customdata"]]
            assert trace["y"] == pytest.approx(found, abs=1e-3) and len(found) == 1 + len(BUDGETS["linf"])
    for trace in drawn["attacks-gain"]["traces"]:
        found = [100 * first[trace["meta"], budget]["gain"] for budget in trace["x"]]
        assert trace["y"] == pytest.approx(found, abs=1e-3)
    for trace in drawn["attacks-cost"]["traces"]:
        number, part = trace["customdata"][0].split(";")[0].split()
        assert trace["x"][0] == pytest.approx(first[trace["meta"], "clean"][f"{part}_per_query"], abs=1e-3)
        assert float(number) == pytest.approx(trace["x"][0], abs=0.06)
    names = [trace["meta"] for trace in drawn["attacks-gain"]["traces"]]
    pairs = json.loads((folder / f"{stem}-pairs.json").read_text(encoding="utf-8"))
    (heat,) = drawn["attacks-matrix"]["traces"]
    for pair in (p for p in pairs if p["k"] == 1 and p["budget"] == "8/255"):
        a, b = names.index(pair["attack"]), names.index(pair["other"])
        assert heat["z"][a][b] == pytest.approx(100 * pair["missed"], abs=1e-3)
        assert f"{pair['attack']} breaks {100 * pair['breaks']:.1f} %" in heat["customdata"][a][b]
    assert [heat["z"][i][i] for i in range(len(names))] == [None] * len(names)


def test_ers_has_a_page_where_it_was_measured(tmp_path, monkeypatch):
    record, frame = cell("con-rob", classes=6, per_class=4)
    put(tmp_path / "results", record, frame)
    cards = {"radius": "8/255", "model": record.model, "dataset": record.dataset, "suite": record.suite}
    numbers = {name: Interval(10 + i, 9, 30) for i, name in enumerate(NAMES)}
    row = ErsRow(seed=0, queries=24, excluded=0, clean=None, values=numbers, ers=None, **cards)
    monkeypatch.setattr(ers_table, "measured", lambda *_: [row])
    monkeypatch.setattr("leaderboard.site.documents.DOCS", tmp_path / "none")
    write_site(tmp_path / "results", tmp_path / "out", pytest.fail)
    page = Page(tmp_path / "out" / "ers.html")
    assert page.tables[0][1][5:15] == [f"{10 + i}.0" for i in range(10)]
    assert len(page.tables[1]) == 1 + len(ers_table.load_published())
    assert 'href="ers.html"' in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_reported_rows_carry_their_source(pages):
    heads, *lines = pages["reported.html"].tables[1]
    assert heads[-1] == "Source" and len(lines) == len(ers_table.load_published())
    assert all("CVPR 2022" in line[-1] for line in lines) and "GTM suspect" in pages["reported.html"].text


def test_the_page_of_a_model_tells_all(built, pages):
    page = pages["models/con-rob.html"]
    for wanted in (
        *("ResNet-50, contrastive", "panum2021", "con-nat", "con-rob-weights", "5f3a9c01d2", "cub-images"),
        "robustdml run --model con-rob --dataset cub200 --suite standard --norm linf --seed 0",
        *("@misc{robustdml-", "images forward", "pretraining".capitalize()),
    ):
        assert wanted in page.text, wanted
    assert next(a for tag, a in page.tags if tag == "img")["alt"].startswith("2 queries")
    frame = pd.read_parquet(built / "out" / "data" / "models" / "con-rob.parquet")
    whole = load_results(built / "results")
    keys = ["norm", "metric", "k", "budget"]
    expected = whole[whole["model"] == "con-rob"].sort_values(keys)
    frame = frame.sort_values(keys)
    assert frame["value"].tolist() == expected["value"].tolist() and len(frame) > 50
    read = pd.read_csv(built / "out" / "data" / "models" / "con-rob.csv")
    assert read.sort_values(keys)["value"].tolist() == pytest.approx(expected["value"].tolist())
    checks = pages[f"models/{safe_name(HOSTILE)}.html"].tables
    assert any(line[1:4] == ["flag", "0.25", "0.5"] for table in checks for line in table)


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_results_give_the_same_bytes(built, tmp_path):
    write_site(built / "results", tmp_path / "again", pytest.fail)
    assert digests(tmp_path / "again") == digests(built / "out")
    stale = tmp_path / "again" / "models" / "gone.html"
    stale.write_text("old")
    manifest = tmp_path / "again" / "robustdml-site.json"
    listed = json.loads(manifest.read_text())["files"]
    manifest.write_text(json.dumps({"files": [*listed, "models/gone.html", "../kept.txt"]}))
    (tmp_path / "kept.txt").write_text("not ours")
    write_site(built / "results", tmp_path / "again", pytest.fail)
    assert digests(tmp_path / "again") == digests(built / "out") and (tmp_path / "kept.txt").exists()


def test_a_folder_with_something_else_is_refused(built, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than a site"):
        write_site(built / "results", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_result_and_no_package_are_said(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no whole result"):
        write_site(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="extra `site`"):
        assets.shared_files()


def test_a_module_becomes_a_script():
    made = assets.plain_script("var a=1,b={x:2};export{a as Table,b};\n/* licence */")
    assert (
        made.startswith("(function(){")
        and "window.DataTables={Table:a,b:b};" in made
        and "export" not in made
    )
    with pytest.raises(UserError, match="2 export lists"):
        assets.plain_script("export{a};export{b}")


def test_columns_that_are_not_shown_are_hidden_from_the_start(pages):
    page = pages["boards/cub200-linf.html"]
    off = [i for i, (tag, a) in enumerate(x for x in page.tags if x[0] == "th") if "data-visible" in a]
    style = re.search(r"<style>(.*?)</style>", page.path.read_text(encoding="utf-8"), re.DOTALL)[1]
    runs = re.findall(r":nth-child\(n\+(\d+)\):nth-child\(-n\+(\d+)\)", style)
    assert [n - 1 for a, b in runs for n in range(int(a), int(b) + 1)] == off and len(off) > 20


def test_words_of_cards():
    assert words({"a": None, "b": [1, True], "c": {"d": "e"}}) == "b: 1, yes; c: d: e"


def test_the_command_writes_a_site(robustdml, built):
    done = robustdml("leaderboard", "--results", built / "results", "--site", "web")
    assert done.code == 0 and "web/index.html" in done.err
    assert not (built / "results" / "entries").exists()
