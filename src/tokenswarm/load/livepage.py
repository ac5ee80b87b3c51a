"""The live page at /tokenswarm and the tab of models in Locust's own page, both from live.json.

A process of its own (analysis/live.py) makes live.json; here files are only handed over, so that
neither page costs the load anything. With --web-login all of it is behind Locust's login.
"""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from flask import Response, abort, request, send_file

from tokenswarm.load.child import Child
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.schema import MEASUREMENTS

PAGE = Path(__file__).parent / "page"
ASSETS = {
    name: folder / name
    for folder, names in (
        (PAGE, ("live.js", "live.css")),
        (
            PAGE.parent.parent / "report" / "assets",
            ("report.js", "report.css", "uPlot.iife.min.js", "uPlot.min.css"),
        ),
    )
    for name in names
}
DOWNLOADS = ("report.html", "summary.json", *(f"{m}.parquet" for m in MEASUREMENTS))
LISTED = ("report.html", "summary.json", "request.parquet")
COLUMNS = (
    ("model", "Model"), ("requests_s", "Requests/s"), ("tok_s", "tok/s"), ("ttft_p50", "TTFT P50"),
    ("ttft_p95", "TTFT P95"), ("e2e_p95", "E2E P95"), ("itl_p95", "ITL P95"), ("cold", "Cold"),
    ("errors", "Errors"), ("resident", "Resident"), ("vram", "VRAM"),
)  # fmt: skip
GIB = 2**30
DASHBOARD = "tokenswarm-swaps"
END_S = 20.0


class LivePage:
    """Routes on Locust's web UI, and the process that feeds them; nothing without a web UI."""

    def __init__(self, environment: Any) -> None:
        self._web_ui = environment.web_ui
        self._grafana = (environment.parsed_options.grafana_url or "").rstrip("/")
        self._run: RunDir | None = None
        self._process: Child | None = None
        if self._web_ui is not None:
            self._add_routes((environment.parsed_options.web_base_path or "").rstrip("/"))
            self._add_tab()

    def begin(self, run: RunDir) -> None:
        """Show `run` from now on."""
        if self._web_ui is None:
            return
        self._run = run
        argv = [sys.executable, "-m", "tokenswarm.analysis.live", str(run.path)]
        self._process = Child(argv)

    def end(self) -> None:
        """The run is over: one last look, then the process ends."""
        if self._process is not None:
            self._process.end(END_S)
        self._process = None

    # -- routes
    def _add_routes(self, base: str) -> None:
        for path, view in (
            ("", self._page),
            ("/data", self._data),
            ("/assets/<name>", self._asset),
            ("/download/<name>", self._download),
        ):
            endpoint = f"tokenswarm{path.split('<')[0].replace('/', '_')}"
            guarded = self._web_ui.auth_required_if_enabled(view)
            self._web_ui.app.add_url_rule(f"{base}/tokenswarm{path}", endpoint, guarded)

    def _page(self) -> Response:
        return send_file(PAGE / "live.html", max_age=0)

    def _asset(self, name: str) -> Response:
        if name not in ASSETS:
            abort(404)
        return send_file(ASSETS[name], max_age=0)

    def _download(self, name: str) -> Response:
        if self._run is None or name not in DOWNLOADS or not (self._run.path / name).is_file():
            abort(404)
        return send_file(
            self._run.path.absolute() / name, as_attachment=name != "report.html", max_age=0
        )

    def _data(self) -> Response:
        said = {"page": self._live(), "links": self._links()}
        return Response(msgspec.json.encode(said), mimetype="application/json")

    def _live(self) -> msgspec.Raw | None:
        if self._run is None:
            return None
        try:
            return msgspec.Raw(self._run.live.read_bytes())
        except OSError:
            return None  # nothing to see yet

    def _links(self) -> list[tuple[str, str]]:
        run = self._run
        if run is None:
            return []
        there = [n for n in LISTED if (run.path / n).is_file()]
        found = [(name, f"tokenswarm/download/{name}") for name in there]
        if self._grafana:
            query = urlencode({"var-run": run.path.name, "from": "now-30m", "to": "now"})
            found.append(("Grafana", f"{self._grafana}/d/{DASHBOARD}?{query}"))
        return found

    # -- the tab
    def _add_tab(self) -> None:
        files = [(f"/tokenswarm/download/{n}", f"tokenswarm: {n}") for n in LISTED]
        links = [("/tokenswarm", "tokenswarm: live page"), *files]
        self._web_ui.template_args |= {
            "extended_tabs": [{"title": "Models", "key": "models"}],
            "extended_tables": [
                {
                    "key": "models",
                    "structure": [{"key": key, "title": title} for key, title in COLUMNS],
                }
            ],
            "extended_csv_files": [{"href": href, "title": title} for href, title in links],
        }
        self._web_ui.app.after_request(self._with_models)

    def _with_models(self, response: Response) -> Response:
        if request.endpoint != "locust.request_stats" or not response.is_json:
            return response
        report = response.get_json()
        rows = _table(self._live())
        if not isinstance(report, dict) or rows is None:
            return response
        report["extended_stats"] = [{"key": "models", "data": rows}]
        response.set_data(msgspec.json.encode(report))
        return response


class _Row(msgspec.Struct):
    """What the tab needs of analysis.live.ModelNow."""

    model: str
    requests_s: float
    tok_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    e2e_p95_s: float | None
    itl_p95_s: float | None
    cold: int
    errors: int
    state: str | None
    vram_used_bytes: int | None


class _Rows(msgspec.Struct):
    rows: list[_Row]


def _table(live: msgspec.Raw | None) -> list[dict[str, Any]] | None:
    if live is None:
        return None
    return [
        {
            "model": r.model,
            "requests_s": r.requests_s,
            "tok_s": r.tok_s,
            "ttft_p50": _seconds(r.ttft_p50_s),
            "ttft_p95": _seconds(r.ttft_p95_s),
            "e2e_p95": _seconds(r.e2e_p95_s),
            "itl_p95": _seconds(r.itl_p95_s),
            "cold": r.cold,
            "errors": r.errors,
            "resident": r.state or "-",
            "vram": "-" if r.vram_used_bytes is None else f"{r.vram_used_bytes / GIB:.1f} GiB",
        }
        for r in msgspec.json.decode(live, type=_Rows).rows
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1e3:.3g} ms" if value < 0.9995 else f"{value:.3g} s"
