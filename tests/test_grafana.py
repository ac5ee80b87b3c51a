"""The dashboards as files: generated, loadable, laid out, described, true to the schema."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import (
    barchart,
    bargauge,
    dashboard,
    heatmap,
    stat,
    statetimeline,
    timeseries,
    xychart,
)  # fmt: skip
from grafana_foundation_sdk.models import table as table_model
from grafana_foundation_sdk.models import text as text_model

from grafana import generate
from grafana import query as q
from grafana.dashboard import SOURCE_UID, UIDS
from tests.grafana_client import panels
from tests.running import ROOT
from tokenswarm.store.schema import MEASUREMENTS

Json = dict[str, Any]
FILES = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
BOARDS = {path.stem: json.loads(path.read_bytes()) for path in FILES}
EVERY = pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))
MODELS: dict[str, Any] = {
    "barchart": barchart, "bargauge": bargauge, "heatmap": heatmap, "stat": stat,
    "state-timeline": statetimeline, "table": table_model, "text": text_model,
    "timeseries": timeseries, "xychart": xychart,
}  # fmt: skip
BEYOND_THE_MODEL = {
    "table": {"options.sortBy"},  # read by the panel since 8, see its defaults
}
NOT_PORTABLE = re.compile(
    r"\b(SLIMIT|SOFFSET|SAMPLE|HOLT_WINTERS|CARDINALITY|INTO|SHOW SERIES)\b|::|;", re.IGNORECASE
)


def all_queries(board: Json) -> Iterator[str]:
    for panel in panels(board):
        yield from (target["query"] for target in panel["targets"])
    yield from (v["query"] for v in board["templating"]["list"] if v["type"] == "query")
    yield from (a["target"]["query"] for a in board["annotations"]["list"])


def paths(value: Any, at: str = "") -> set[str]:
    """Dotted paths of everything in nested objects; lists by their items' paths."""
    if isinstance(value, dict):
        found = {at} if at else set()
        for key, inner in value.items():
            found |= paths(inner, f"{at}.{key}" if at else key)
        return found
    if isinstance(value, list):
        return set().union({at}, *(paths(inner, f"{at}[]") for inner in value))
    return {at}


def known_to(model: Any, data: Json) -> set[str]:
    """Paths of `data` that are left when the published model has read and written it."""
    return paths(json.loads(json.dumps(model.from_json(data), cls=JSONEncoder)))


def test_there_are_three_dashboards_with_fixed_uids() -> None:
    assert {stem: board["uid"] for stem, board in BOARDS.items()} == UIDS


def test_generating_them_again_changes_nothing() -> None:
    assert {p: p.read_text("utf-8") for p in FILES} == generate.files()


def test_check_says_what_is_out_of_date(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grafana.generate", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    changed = f"import pathlib, grafana.generate as g; g.FOLDER = pathlib.Path({str(tmp_path)!r})"
    argv = "import sys; sys.argv = ['generate', '--check']"
    stale = [sys.executable, "-c", f"{changed}\n{argv}\ng.main()"]
    ended = subprocess.run(stale, cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "out of date: run python -m grafana.generate" in ended.stderr


@EVERY
def test_it_is_a_dashboard_by_the_published_model(board: Json) -> None:
    """grafana-foundation-sdk reads it, and drops no key that we wrote, but in its queries, which
    that model leaves to the data source."""
    given = {p for p in paths(board) if ".options" not in p and "targets" not in p}
    kept = known_to(dashboard.Dashboard, board)
    lost = {
        p for p in given - kept if "fieldConfig.defaults.custom" not in p and "target." not in p
    }
    assert lost == set()


@EVERY
def test_panels_have_only_options_that_their_type_knows(board: Json) -> None:
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        model = MODELS[panel["type"]]
        given = paths(panel["options"], "options")
        kept = {f"options.{p}" for p in known_to(model.Options, panel["options"])} | {"options"}
        assert given - kept <= BEYOND_THE_MODEL.get(panel["type"], set()), panel["title"]


@EVERY
def test_panels_draw_only_in_ways_that_their_type_knows(board: Json) -> None:
    for panel in panels(board):
        model = MODELS[panel["type"]]
        custom = panel["fieldConfig"]["defaults"].get("custom")
        config = {"table": "common"}.get(panel["type"], "")
        if custom is None or config or not hasattr(model, "FieldConfig"):
            continue
        assert paths(custom) <= known_to(model.FieldConfig, custom) | {""}, panel["title"]


@EVERY
def test_ids_are_unique_and_titles_are_too(board: Json) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)


@EVERY
def test_no_two_panels_overlap_and_rows_leave_no_hole(board: Json) -> None:
    places = [panel["gridPos"] for panel in board["panels"]]
    for a, b in combinations(places, 2):
        apart = (a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
                 or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"])  # fmt: skip
        assert apart, (a, b)
    area = sum(p["w"] * p["h"] for p in places)
    assert area == 24 * max(p["y"] + p["h"] for p in places)
    assert all(p["x"] + p["w"] <= 24 for p in places)


@EVERY
def test_every_panel_is_described_and_has_a_unit(board: Json) -> None:
    for panel in panels(board):
        assert len(panel["description"]) > 30, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]


@EVERY
def test_time_series_have_legends_with_last_and_max(board: Json) -> None:
    for panel in panels(board):
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["calcs"] == ["lastNotNull", "max"], panel["title"]


@EVERY
def test_panels_look_at_single_seconds_and_share_the_crosshair(board: Json) -> None:
    assert board["graphTooltip"] == 1
    assert board["schemaVersion"] == 41
    assert board["editable"] is False
    assert {panel["interval"] for panel in panels(board)} == {"1s"}


@EVERY
def test_queries_are_one_portable_statement_each(board: Json) -> None:
    for query in all_queries(board):
        assert not NOT_PORTABLE.search(query), query
        assert query.startswith(("SELECT ", "SHOW TAG VALUES ")), query


@EVERY
def test_queries_name_only_what_the_schema_has(board: Json) -> None:
    """By its own reading of the query, not the generator's."""
    for query in all_queries(board):
        (name,) = set(re.findall(r'FROM "(\w+)"', query))
        made = set(re.findall(r'AS "(\w+)"', query))
        m = MEASUREMENTS[name]
        in_database = {*m.tags, *(f.name for f in m.fields if not f.files_only)}
        quoted = set(re.findall(r'"(\w+)"', query)) - {name}
        assert quoted <= in_database | made, query
        for tag in re.findall(r'"(\w+)" (?:=~|!~)', query):
            assert tag in m.tags, query


@EVERY
def test_queries_look_at_a_run_and_at_the_time_shown(board: Json) -> None:
    """But those of whole runs, which hold whatever time is shown."""
    whole = ("run", "run_summary", "swap", "generator", "agent", "request")
    for panel in panels(board):
        for target in panel["targets"]:
            query = target["query"]
            assert target["rawQuery"] is True
            (name,) = set(re.findall(r'FROM "(\w+)"', query))
            assert "$timeFilter" in query or name in whole, query
            if name not in ("run", "run_summary"):
                assert '"run_id" =~ /^$run$/' in query, query


@EVERY
def test_series_are_named_after_their_tags(board: Json) -> None:
    """Else Grafana names them in an order of its own, and colours change from panel to panel."""
    for panel in panels(board):
        for target in panel["targets"]:
            if target["resultFormat"] == "table":
                continue
            grouped = target["query"].rpartition(" GROUP BY ")[2]
            for tag in re.findall(r"\$tag_(\w+)", target["alias"]):
                assert f'"{tag}"' in grouped, target["query"]
            assert target["alias"] or panel["type"] == "stat", panel["title"]


@EVERY
def test_variables_are_used_and_what_is_used_is_a_variable(board: Json) -> None:
    names = {v["name"] for v in board["templating"]["list"]}
    text = json.dumps(board)
    built_in = {"timeFilter", "__interval", "__data", "__all"}
    used = set(re.findall(r"\$\{?(\w+)", text))
    tags = {u for u in used if u.startswith("tag_")}
    assert used - tags - built_in == names


@EVERY
def test_links_lead_to_our_dashboards_with_variables_they_have(board: Json) -> None:
    urls = re.findall(r'"url": "(/d/[^"]+)"', json.dumps(board))
    for url in urls:
        path, _, parameters = url.partition("?")
        stem = next(s for s, uid in UIDS.items() if path == f"/d/{uid}")
        has = {v["name"] for v in BOARDS[stem]["templating"]["list"]}
        asked = {p.split("=")[0] for p in parameters.split("&")}
        assert {a.removeprefix("var-") for a in asked if a.startswith("var-")} <= has, url
        assert {a for a in asked if not a.startswith("var-")} <= {"from", "to"}, url


@EVERY
def test_links_take_their_values_from_columns_of_the_table(board: Json) -> None:
    for panel in panels(board):
        text = json.dumps(panel["fieldConfig"])
        fields = set(re.findall(r"__data\.fields\.(\w+)", text))
        if fields:
            arranged = panel["transformations"][-1]["options"]["renameByName"]
            assert fields <= set(arranged), panel["title"]


def test_swaps_lie_behind_every_time_series_of_the_swap_dashboard() -> None:
    for panel in panels(BOARDS["swaps"]):
        if panel["type"] == "timeseries":
            assert any('FROM "swap_active"' in t["query"] for t in panel["targets"]), panel["title"]


def test_annotations_name_all_their_columns() -> None:
    """Grafana matches an empty column name with everything, and the end by its full name."""
    for board in BOARDS.values():
        (regions,) = board["annotations"]["list"]
        target = regions["target"]
        assert target["timeEndColumn"] == "swap.end_ms"
        columns = [target["textColumn"], target["tagsColumn"], "end_ms"]
        assert all(f'"{c}"' in target["query"] for c in columns)
        for a, b in combinations(columns, 2):
            assert a not in b
            assert b not in a


def test_the_generator_refuses_a_field_that_the_schema_lacks() -> None:
    with pytest.raises(ValueError, match="tick has no \\['tokens'\\]"):
        q.series("tick", 'SUM("tokens")')


def test_provisioning_names_the_data_source_that_dashboards_ask_for() -> None:
    folder = ROOT / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources/influxdb.yaml").read_text())["datasources"]
    assert source["uid"] == SOURCE_UID
    assert source["type"] == "influxdb"
    assert source["jsonData"]["timeInterval"] == "1s"
    assert source["jsonData"]["httpMode"] == "POST"
    assert source["secureJsonData"]["password"].startswith(("$__file{", "${"))
    (provider,) = yaml.safe_load((folder / "dashboards/tokenswarm.yaml").read_text())["providers"]
    assert provider["options"]["path"]
    assert provider["allowUiUpdates"] is False
