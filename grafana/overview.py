"""Dashboard Overview and compare: which run, how good, against which other."""

from grafana import dashboard as d
from grafana import panel as p
from grafana import query as q
from grafana.panel import Json
from grafana.swaps import ALL, BAND, VERDICTS

EITHER = '"run_id" =~ /^($run|$baseline)$/'
RUNS = 500
OK = "\"status\" = 'ok'"
WHOLE_RUN = "from=${__data.fields.from_ms.numeric}&to=${__data.fields.to_ms.numeric}"


def baseline() -> Json:
    text = "The run to compare with; the newest other one unless you choose."
    query = q.tag_values("run", "run_id", '"run_id" !~ /^$run$/')
    return d.one_of("baseline", "Baseline", text, query)


def runs() -> Json:
    facts = ("scenario", "verdict", "simulated", "start_ms")
    figures = ("requests", "success_ratio", "output_tok_s", "cold_starts", "swaps",
               "swap_latency_p95_s", "swap_tax_ratio", "vram_peak_bytes")  # fmt: skip
    columns = {
        "start_ms": "started", "run_id": "run", "scenario": "scenario", "verdict": "verdict",
        "requests": "requests", "success_ratio": "ok", "output_tok_s": "output",
        "cold_starts": "cold starts", "swaps": "swaps", "swap_latency_p95_s": "swap P95",
        "swap_tax_ratio": "swap tax", "vram_peak_bytes": "VRAM peak", "simulated": "simulated",
        "from_ms": "from ms", "to_ms": "to ms",
    }  # fmt: skip
    links = [
        d.link("Open in Swaps", "swaps", "var-run=${__data.fields.run_id}", WHOLE_RUN),
        d.link("Compare with the run above", "overview", "var-run=${run}",
               "var-baseline=${__data.fields.run_id}"),
        d.link("Open in GPU and host", "hardware", "var-run=${__data.fields.run_id}", WHOLE_RUN),
    ]  # fmt: skip
    newest = f"ORDER BY time DESC LIMIT {RUNS}"
    return p.table(
        "Runs",
        "The runs that have ended, the newest first; a run opens in Swaps with its own time. "
        "Output: tokens by arrival over the run without drain. Swap tax: share of the time under "
        "load without a token while one went on.",
        [
            q.table("run", "run_id", *facts, '"start_ms" - 1000 AS "from_ms"',
                    '"end_ms" + 1000 AS "to_ms"', scope=(), tail=newest),
            q.table("run_summary", "run_id", *figures, where=ALL, scope=(), tail=newest),
        ],
        columns,
        overrides=[
            p.override("byName", "run", links=links, custom__width=215),
            p.override("byName", "started", unit="dateTimeAsLocal"),
            p.override("byName", "verdict", mappings=[p.value_mapping(VERDICTS)],
                       custom__cellOptions={"type": "color-background", "mode": "basic"}),
            p.override("byName", "swap tax", thresholds=p.steps(
                (None, p.GREEN), (0.05, p.YELLOW), (0.1, p.RED)),
                color={"mode": "thresholds"}, custom__cellOptions={"type": "color-text"}),
            *(p.override("byName", n, custom__hidden=True) for n in ("from ms", "to ms")),
        ],
        join="run_id", sort=("started", True),
    )  # fmt: skip


def against() -> list[Json]:
    def pair(field: str) -> list[q.Query]:
        return [
            q.figure("run_summary", f'LAST("{field}")', where=f"{where} AND {ALL}", scope=(),
                     alias=name)
            for name, where in (("run", '"run_id" =~ /^$run$/'),
                                ("baseline", '"run_id" =~ /^$baseline$/'))
        ]  # fmt: skip

    good = p.steps((None, p.RED), (0.9, p.YELLOW), (0.99, p.GREEN))
    return [
        p.stat("Ok", "Share of the requests with status ok; a failure is never a success.",
               pair("success_ratio"), "percentunit", thresholds=good, decimals=1),
        p.stat("Output", "Output tokens by arrival over the run without drain.",
               pair("output_tok_s"), "suffix: tok/s", decimals=0),
        p.stat("Swaps", "Cold starts that displaced another model.", pair("swaps"), "none"),
        p.stat("Swap P95", "P95 of t5 - t0 over the swaps, nearest rank.",
               pair("swap_latency_p95_s"), "s", none="no swap",
               thresholds=p.steps((None, p.GREEN), (2, p.YELLOW), (5, p.RED))),
        p.stat("Swap tax", "Share of the time under load without a token while a cold start "
               "went on.", pair("swap_tax_ratio"), "percentunit", decimals=1,
               thresholds=p.steps((None, p.GREEN), (0.05, p.YELLOW), (0.1, p.RED))),
        p.stat("VRAM peak", "Most device memory used on any one GPU.", pair("vram_peak_bytes"),
               "bytes"),
    ]  # fmt: skip


def goodput() -> list[Json]:
    each = "\"model\" != 'all' AND \"stratum\" = 'all'"
    share = q.figure("run_summary", 'LAST("goodput_ratio")', where=each, by=("model",),
                     scope=q.MODELS, alias="$tag_model")  # fmt: skip
    gauge = p.stat(
        "Within every SLO", "Goodput: share of each model's requests that met every SLO of the "
        "scenario; failures count as missed.", [share], "percentunit", decimals=1,
        thresholds=p.steps((None, p.RED), (0.9, p.YELLOW), (0.99, p.GREEN)), none="no SLO",
    )  # fmt: skip
    gauge["type"] = "bargauge"
    gauge["fieldConfig"]["defaults"] |= {"min": 0, "max": 1}
    gauge["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "orientation": "horizontal", "displayMode": "gradient", "valueMode": "color",
        "namePlacement": "auto", "showUnfilled": True, "sizing": "auto", "minVizHeight": 16,
        "minVizWidth": 8, "maxVizHeight": 60,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
    }  # fmt: skip
    return [gauge, scatter()]


def scatter() -> Json:
    names = {"run_id": "run", "model": "model", "output_tok_s": "output tok/s",
             "ttft_p95_s": "P95 TTFT"}  # fmt: skip
    query = q.table("run_summary", *names, where="\"model\" != 'all' AND \"stratum\" = 'all'",
                    scope=("model",), tail=f"ORDER BY time DESC LIMIT {RUNS}")  # fmt: skip
    return p.panel(
        "xychart",
        "Throughput against latency, all runs",
        "A dot a run and model: its output tokens a second and its P95 TTFT, as in summary.json. "
        "Right and low is good; a knee shows where more load buys only waiting.",
        [query],
        fieldConfig={
            "defaults": {
                "unit": "none",
                "noValue": p.AFTER_THE_RUN,
                "color": p.fixed(p.BLUE),
                "custom": {"show": "points", "pointSize": {"fixed": 9}, "fillOpacity": 60},
            },
            "overrides": [
                p.override("byName", "P95 TTFT", unit="s"),
                p.override("byName", "output tok/s", unit="suffix: tok/s"),
            ],
        },
        options={
            "mapping": "manual",
            "series": [
                {
                    "frame": {"matcher": {"id": "byIndex", "options": 0}},
                    "x": {"matcher": {"id": "byName", "options": "output tok/s"}},
                    "y": {"matcher": {"id": "byName", "options": "P95 TTFT"}},
                }
            ],
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": False,
                "calcs": [],
            },
            "tooltip": {"mode": "single", "sort": "none"},
        },
        transformations=p.arranged(names),
    )


def percentiles() -> Json:
    columns = {
        "model": "model", "stratum": "stratum", "run_id": "run", "requests": "n",
        "success_ratio": "ok", "output_tok_s": "output", "ttft_p50_s": "TTFT P50",
        "ttft_p95_s": "TTFT P95", "ttft_p99_s": "TTFT P99", "e2e_p50_s": "E2E P50",
        "e2e_p95_s": "E2E P95", "e2e_p99_s": "E2E P99", "tpot_p50_s": "TPOT P50",
        "tpot_p95_s": "TPOT P95",
    }  # fmt: skip
    return p.table(
        "Run against baseline, model by model and stratum by stratum",
        "Nearest rank over the ok requests, exactly as in summary.json; n counts all requests. "
        "What may be noise: tokenswarm diff says so, with intervals.",
        [q.table("run_summary", *columns, where=f"{EITHER} AND \"model\" != 'all'",
                 scope=("model",))],
        columns,
        overrides=[
            p.override("byName", "stratum", mappings=[p.value_mapping(p.STRATA)],
                       custom__cellOptions={"type": "color-text"}),
            p.override("byName", "run", custom__width=215),
        ],
        sort=("model", False),
    )  # fmt: skip


def throughput() -> list[Json]:
    share = 'SUM("token_events") / SUM("interval_s")'
    tokens = p.timeseries(
        "Output tok/s by model",
        "Token events by arrival: those of each interval over its length, summed over workers.",
        [q.summed("tick", share, 'SUM("part")', by=("model",), each=("worker", "target"),
                  scope=q.ENGINES, alias="$tag_model")],
        "suffix: tok/s", swaps=BAND, legend="bottom", custom={"lineWidth": 2}, defaults={
            "decimals": 0})  # fmt: skip
    quantiles = p.timeseries(
        "TTFT P50, P95, P99",
        "Over the ok requests that ended in each window, all models shown. Logarithmic.",
        [q.series("request", f'PERCENTILE("ttft_s", {n})', every="$window", where=OK,
                  scope=q.ENGINES, alias=f"P{n}") for n in (50, 95, 99)],
        "s", swaps=BAND, legend="bottom", overrides=p.coloured(
            {"P50": p.GREEN, "P95": p.ORANGE, "P99": p.RED}), defaults={"min": None},
        custom={"showPoints": "always", "lineWidth": 2,
                "scaleDistribution": {"type": "log", "log": 10}})  # fmt: skip
    return [tokens, quantiles]


def heat() -> Json:
    return p.panel(
        "heatmap",
        "E2E, all requests",
        "How many ok requests ended when, and how long they took (last token minus first byte "
        "sent). Two bands apart are warm and cold requests.",
        [q.raw("request", "e2e_s", where=OK, scope=q.ENGINES, alias="E2E")],
        fieldConfig={
            "defaults": {"unit": "s", "custom": {"hideFrom": {
                "legend": False, "tooltip": False, "viz": False}}},
            "overrides": [],
        },
        options={
            "calculate": True,
            "calculation": {
                "xBuckets": {"mode": "count", "value": "60"},
                "yBuckets": {"mode": "count", "scale": {"type": "log", "log": 2}},
            },
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5,
                      "fill": "dark-orange", "reverse": False},
            "filterValues": {"le": 1e-9},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "legend": {"show": True},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
        },
    )  # fmt: skip


def outcomes() -> list[Json]:
    def ended(field: str, alias: str) -> q.Query:
        return q.series("tick", f'SUM("{field}")', scope=q.ENGINES, alias=alias)

    shown = p.timeseries(
        "Requests by outcome",
        "Requests that ended in each interval: ok; failed is error, time-out, cut or cancelled.",
        [ended("done", "ok"), ended("failed", "failed")], "none", swaps=BAND, legend="bottom",
        overrides=p.coloured(p.STATUSES),
        custom={"drawStyle": "bars", "fillOpacity": 75, "lineWidth": 0,
                "stacking": {"mode": "normal", "group": "A"}})  # fmt: skip
    columns = {"Time": "ended", "model": "model", "status": "status", "error_kind": "kind",
               "http_status": "HTTP", "error_text": "what the server said"}  # fmt: skip
    fields = [c for c in columns if c != "Time"]
    failures = p.table(
        "Failures",
        "Every request that is not ok, with the kind of its error and what the server or the "
        "system said; at most 1000.",
        [q.table("request", *fields, where="\"status\" != 'ok'", scope=q.ENGINES,
                 tail="ORDER BY time DESC LIMIT 1000")],
        columns,
        overrides=[p.override("byName", "ended", unit="time:HH:mm:ss"),
                   p.override("byName", "HTTP", decimals=0)],
        none="no request failed")  # fmt: skip
    return [shown, failures]


def health() -> list[Json]:
    lost = p.steps((None, p.GREEN), (1, p.RED))
    return [
        p.stat("Records dropped", "Records that never reached the spool; must be 0.",
               [q.figure("generator", 'MAX("records_dropped")')], "none", thresholds=lost),
        p.stat("Late starts", "Requests sent over 10 ms after their intended time: the generator "
               "could not keep up.", [q.figure("generator", 'SUM("late_starts")')], "none",
               thresholds=p.steps((None, p.GREEN), (1, p.YELLOW), (20, p.RED))),
        p.stat("Samples missed", "Looks of GPU, host and engine samplers that fell out because "
               "the one before took too long.", [q.figure("agent", 'SUM("missed")')], "none",
               thresholds=p.steps((None, p.GREEN), (1, p.YELLOW), (20, p.RED))),
        p.timeseries(
            "Generator: loop lag",
            "Longest delay of a 50 ms timer in each second, by worker. Above 250 ms for long the "
            "measurement is not valid.",
            [q.series("generator", 'MAX("loop_lag_s")', by=("worker",), scope=q.RUN,
                      alias="$tag_worker")], "s", swaps=BAND, legend="bottom",
            defaults={"thresholds": p.steps((None, "transparent"), (0.25, p.RED))},
            custom={"thresholdsStyle": {"mode": "line"}}),
        p.timeseries(
            "Generator: CPU",
            "CPU time of each worker process per second; 1 is a whole core, and near it the "
            "generator is the bottleneck.",
            [q.series("generator", 'MEAN("cpu_ratio")', by=("worker",), scope=q.RUN,
                      alias="$tag_worker")], "percentunit", swaps=BAND, legend="bottom"),
    ]  # fmt: skip


def build() -> Json:
    over_time, failures = outcomes()
    rows = [
        d.Row(8, [runs()]),
        d.Row(5, against(), heading="Run against baseline"),
        d.Row(10, [percentiles()]),
        d.Row(8, goodput(), widths=[8, 16]),
        d.Row(8, throughput(), heading="The run"),
        d.Row(8, [heat(), over_time]),
        d.Row(6, [failures]),
        d.Row(6, health(), heading="Can the figures be trusted?", widths=[3, 3, 3, 8, 7]),
    ]
    return d.dashboard(
        "overview",
        "tokenswarm / Overview and compare",
        "Which runs there are, how one compares with another, and whether it can be trusted.",
        [d.run(), baseline(), d.model(), d.engine(), d.window()],
        rows,
        [d.swap_regions()],
    )
