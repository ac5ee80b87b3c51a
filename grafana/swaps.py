"""Dashboard Swaps: what a swap is, who paid for it, on one crosshair."""

from grafana import dashboard as d
from grafana import panel as p
from grafana import query as q
from grafana.panel import Json

BAND = q.series(
    "swap_active", 'MAX("active")', scope=q.RUN, fill="previous", alias=p.SWAP_BAND
)  # fmt: skip
ALL = "\"model\" = 'all' AND \"stratum\" = 'all'"
ZOOM = "from=${__data.fields.from_ms.numeric}&to=${__data.fields.to_ms.numeric}"


def whole(field: str, alias: str = "") -> q.Query:
    """A figure of summary.json over the whole run."""
    return q.figure("run_summary", f'LAST("{field}")', where=ALL, alias=alias)


def counts() -> list[Json]:
    displaced = q.figure("swap", 'COUNT("start_ms")', where='"displaced" = true',
                         scope=("run_id",))  # fmt: skip
    began = q.figure("swap", 'COUNT("start_ms")')
    return [
        p.stat("Swaps", "Cold starts that displaced another model: it was evicted, killed or put "
               "to sleep for it. Counted live.", [displaced], "none", none="0"),
        p.stat("Cold starts", "Every time that demand brought a model in, swaps among them. "
               "Counted live.", [began], "none", none="0"),
        p.stat("Swap latency P50, P95", "From the triggering request to its first token (t5 - t0), "
               "nearest rank over the run's swaps; from summary.json.",
               [whole("swap_latency_p50_s", "P50"),
                whole("swap_latency_p95_s", "P95")], "s",
               thresholds=p.steps((None, p.GREEN), (2, p.YELLOW), (5, p.RED))),
        p.stat("Swap tax", "Share of the time under load in which no token came while a cold "
               "start was under way; from summary.json.", [whole("swap_tax_ratio")], "percentunit",
               decimals=1, thresholds=p.steps((None, p.GREEN), (0.05, p.YELLOW), (0.1, p.RED))),
        p.stat("Requests that paid", "Share of the requests that are not warm: they brought a "
               "model in, waited for the same one, or were held up by another's load.",
               [whole("swap_affected_ratio")], "percentunit", decimals=1,
               thresholds=p.steps((None, p.GREEN), (0.1, p.YELLOW), (0.3, p.RED))),
        p.stat("Waiting bought", "Seconds that all requests together waited in [t0, t4] of the "
               "cold starts.", [q.figure("swap", 'SUM("blocked_request_s")')],
               "s", none="0 s"),
        p.stat("Tokens not produced", "What other models would have produced in [t0, t4] at "
               "their usual rate, less what they did.",
               [q.figure("swap", 'SUM("tokens_lost")')], "none",
               decimals=0, none="not known"),
        p.stat("Output", "Output tokens by arrival over the run without drain; from summary.json.",
               [whole("output_tok_s")], "suffix: tok/s", decimals=0),
    ]  # fmt: skip


def residency() -> Json:
    shown = p.timeline(
        "Where each model's weights are",
        "What the engines say (polled): resident, loading, asleep, partial or absent; above them, "
        "when a model was being brought in for a request, as analysis found it.",
        [
            q.Query(BAND.text, "swap or cold start"),
            q.raw("residency", "state", by=("model",), scope=q.ENGINES, alias="$tag_model"),
        ],
        p.STATES,
    )
    going = p.value_mapping({"0": "transparent", "1": p.ORANGE}, {"0": " ", "1": "under way"})
    shown["fieldConfig"]["overrides"] = [
        p.override("byName", "swap or cold start", mappings=[going])
    ]
    return shown


def tokens() -> Json:
    share = 'SUM("token_events") / SUM("interval_s")'
    return p.timeseries(
        "Output tok/s by model",
        "Token events by arrival: those of each interval over its length, summed over workers. "
        "Falls to 0 at once when a swap stalls a model.",
        [q.summed("tick", share, 'SUM("part")', by=("model",), each=("worker", "target"),
                  scope=q.ENGINES, alias="$tag_model")],
        "suffix: tok/s", swaps=BAND, custom={"fillOpacity": 18, "lineWidth": 2},
        defaults={"decimals": 0},
    )  # fmt: skip


def memory() -> Json:
    held = q.summed(
        "gpu_process", 'SUM("vram_used_bytes")', 'LAST("part")', by=("model",),
        each=("host", "gpu"), inner_every="10ms", scope=q.RUN, alias="$tag_model",
    )  # fmt: skip
    used = q.summed("gpu", 'LAST("vram_used_bytes")', 'SUM("part")', each=("host", "gpu"),
                    scope=q.RUN, alias="used, all processes")  # fmt: skip
    total = q.summed("gpu", 'MAX("vram_total_bytes")', 'SUM("part")', each=("host", "gpu"),
                     scope=q.RUN, alias="total")  # fmt: skip
    line = {"custom__stacking": {"mode": "none"}, "custom__fillOpacity": 0, "custom__lineWidth": 2}
    return p.timeseries(
        "VRAM by model",
        "Device memory of each model's processes, stacked, at the end of each interval; the line "
        "is what the driver says is used, dashed is what there is. The gap between stack and line "
        "is memory that no process owns up to. The trough of a swap lies between the two loads.",
        [held, used, total],
        "bytes",
        swaps=BAND,
        custom={"fillOpacity": 55, "lineWidth": 0, "stacking": {"mode": "normal", "group": "A"},
                "lineInterpolation": "stepAfter"},
        overrides=[
            p.override("byName", "used, all processes", color=p.fixed(p.GREY), **line),
            p.override("byName", "total", color=p.fixed(p.RED), **line,
                       custom__lineStyle={"fill": "dash", "dash": [8, 6]}),
        ],
    )  # fmt: skip


def dots() -> Json:
    drawn = {"drawStyle": "points", "showPoints": "always", "pointSize": 7, "fillOpacity": 0,
             "scaleDistribution": {"type": "log", "log": 10}}  # fmt: skip
    return p.timeseries(
        "Every request: TTFT, by who paid",
        "A dot a request at its end, ok or not. Warm; swap trigger: the earliest request for the "
        "model that comes in; swap waiter: another request for it sent in [t0, t4]; swap "
        "collateral: a request for another model that the load held up. Logarithmic.",
        [q.raw("request_stratum", "ttft_s", by=("stratum",), scope=q.ENGINES,
               alias="$tag_stratum")],
        "s", swaps=BAND, custom=drawn, overrides=p.coloured(p.STRATA), defaults={"min": None},
    )  # fmt: skip


def tails() -> list[Json]:
    out = []
    for field, name, text in (
        ("ttft_s", "TTFT", "first token minus first byte sent"),
        ("e2e_s", "E2E", "last token minus first byte sent"),
    ):
        one = q.series("request", f'PERCENTILE("{field}", 95)', by=("model",), every="$window",
                       where="\"status\" = 'ok'", scope=q.ENGINES, alias="$tag_model")  # fmt: skip
        out.append(p.timeseries(
            f"P95 {name} by model",
            f"{name}: {text}; over the ok requests that ended in each window. The run's own P95 "
            "is in the tables: a mean of these would be something else.",
            [one], "s", swaps=BAND, custom={"showPoints": "always", "lineWidth": 2},
            legend="bottom",
        ))  # fmt: skip
    return out


def queues() -> Json:
    flight = q.summed("tick", 'LAST("in_flight")', 'SUM("part")', by=("model",),
                      each=("worker", "target"), scope=q.ENGINES,
                      alias="$tag_model in flight")  # fmt: skip
    asked = [
        q.Query(q.series("engine", f'MAX("{field}")', by=("target", "model"), scope=q.ENGINES).text,
                f"$tag_target $tag_model {field}")
        for field in ("running", "waiting")
    ]  # fmt: skip
    return p.timeseries(
        "In flight, running, waiting",
        "In flight: requests sent and not ended, as the generator counts. Running and waiting: "
        "what the engine says, where it does.",
        [flight, *asked], "none", swaps=BAND, legend="bottom",
        overrides=[p.override("byRegexp", "/waiting$/", custom__lineStyle={"fill": "dash",
                                                                         "dash": [6, 4]})],
    )  # fmt: skip


def device() -> Json:
    rates = [
        q.series("gpu", f'MEAN("pcie_{way}_bytes_per_s")', by=("host", "gpu"), scope=q.RUN,
                 alias=f"PCIe {name} $tag_gpu")
        for way, name in (("rx", "in"), ("tx", "out"))
    ]  # fmt: skip
    busy = q.series("gpu", 'MEAN("util_ratio")', by=("host", "gpu"), scope=q.RUN,
                    alias="GPU $tag_gpu busy")  # fmt: skip
    bus = q.series("gpu", 'MEAN("mem_util_ratio")', by=("host", "gpu"), scope=q.RUN,
                   alias="GPU $tag_gpu memory bus")  # fmt: skip
    read = q.series("host", 'MEAN("disk_read_bytes_per_s")', by=("host",), scope=q.RUN,
                    alias="disk read $tag_host")  # fmt: skip
    return p.timeseries(
        "GPU busy, PCIe and disk",
        "Share of time with a kernel running and with the memory bus busy; right: bytes a second "
        "over PCIe (NVML: when the agent is asked for it) and off the disks: what bounds a load.",
        [busy, bus, read, *rates], "percentunit", swaps=BAND, legend="bottom",
        defaults={"max": 1},
        overrides=[p.override("byRegexp", "/^(PCIe|disk)/", unit="Bps", max=None,
                              custom__axisPlacement="right", custom__fillOpacity=0)],
    )  # fmt: skip


def phases() -> Json:
    names = {"queue_s": "queue", "evict_s": "evict", "gap_s": "gap", "load_s": "load",
             "first_token_s": "first token"}  # fmt: skip
    colors = {"queue": p.GREY, "evict": p.PURPLE, "gap": p.YELLOW, "load": p.ORANGE,
              "first token": p.GREEN}  # fmt: skip
    return p.bars(
        "Phases of each swap",
        "Queue: t1 - t0, from the request to the eviction. Evict: t2 - t1, until memory is lowest. "
        "Gap: t3 - t2. Load: t4 - t3. First token: t5 - t4. A cold start without a victim has "
        "only the last two.",
        [q.table("swap", *names, scope=q.RUN, in_time=True)],
        "s", "Time", options={"stacking": "normal", "showValue": "never"},
        overrides=p.coloured(colors), transformations=p.arranged({"Time": "Time", **names}),
        none="no swap in this time",
    )  # fmt: skip


def cold_and_warm() -> Json:
    return p.timeseries(
        "P95 TTFT, by who paid",
        "Over the ok and failed requests of each stratum that ended in each window; warm is the "
        "line to compare with. Logarithmic. The run's own figures: see the table below.",
        [q.series("request_stratum", 'PERCENTILE("ttft_s", 95)', by=("stratum",), every="$window",
                  scope=q.ENGINES, alias="$tag_stratum")],
        "s", swaps=BAND, legend="bottom", overrides=p.coloured(p.STRATA), defaults={"min": None},
        custom={"showPoints": "always", "lineWidth": 2,
                "scaleDistribution": {"type": "log", "log": 10}},
    )  # fmt: skip


SWAP_COLUMNS = {
    "Time": "t0", "text": "what happened", "model_in": "in", "model_out": "out",
    "kind": "kind", "cause": "cause", "confidence": "confidence", "latency_s": "latency",
    "penalty_s": "penalty", "evict_s": "evict", "load_s": "load", "moved_bytes": "moved",
    "load_bytes_per_s": "rate", "coldness": "from", "waiters": "waiters",
    "collateral": "collateral", "headroom_bytes": "headroom", "energy_j": "energy",
    "from_ms": "from ms", "to_ms": "to ms",
}  # fmt: skip


def swap_table() -> Json:
    zoom = d.link("Zoom to this swap", "swaps", "var-run=${run}", ZOOM)
    hidden = [p.override("byName", name, custom__hidden=True) for name in ("from ms", "to ms")]
    fields = [c for c in SWAP_COLUMNS if c not in ("Time", "from_ms", "to_ms")]
    return p.table(
        "Every cold start and swap",
        "Latency: t5 - t0. Penalty: TTFT of the trigger less its model's warm median. Rate: what "
        "came into memory over the time in which it filled. Confidence: confirmed by two of "
        "client, engine and GPU; probable: the engine alone; hint: one of the others. The first "
        "column zooms to it.",
        [q.table("swap", *fields, '"start_ms" - 2000 AS "from_ms"', '"end_ms" + 2000 AS "to_ms"',
                 scope=q.RUN)],
        SWAP_COLUMNS,
        overrides=[
            p.override("byName", "t0", unit="time:HH:mm:ss.SSS", links=[zoom]),
            p.override("byName", "what happened", links=[zoom], custom__width=380),
            p.override("byName", "latency", custom__cellOptions={
                "type": "gauge", "mode": "lcd", "valueDisplayMode": "text"}),
            p.override("byName", "energy", decimals=0),
            *hidden,
        ],
        sort=("t0", False), none="no cold start in this run",
    )  # fmt: skip


def strata_table() -> Json:
    columns = {
        "model": "model", "stratum": "stratum", "requests": "n", "ttft_p50_s": "TTFT P50",
        "ttft_p95_s": "TTFT P95", "ttft_p99_s": "TTFT P99", "e2e_p50_s": "E2E P50",
        "e2e_p95_s": "E2E P95", "e2e_p99_s": "E2E P99",
    }  # fmt: skip
    return p.table(
        "Percentiles, cold against warm",
        "Nearest rank over all ok requests of the run, as in summary.json. all: every stratum of "
        "a model together.",
        [q.table("run_summary", *columns, where="\"model\" != 'all'", scope=q.MODELS)],
        columns,
        overrides=[p.override("byName", "stratum", mappings=[p.value_mapping(p.STRATA)],
                              custom__cellOptions={"type": "color-text"})],
        sort=("model", False),
    )  # fmt: skip


def run_line() -> Json:
    columns = {"run_id": "run", "scenario": "scenario", "verdict": "verdict",
               "simulated": "simulated", "version": "version", "engine": "engine",
               "from_ms": "from ms", "to_ms": "to ms"}  # fmt: skip
    zoom = d.link("Show the whole run", "swaps", "var-run=${run}", ZOOM)
    names = [c for c in columns if c not in ("from_ms", "to_ms")]
    return p.table(
        "This run",
        "Click the run to see all of it. Its row is written when the run has ended.",
        [q.table("run", *names, '"start_ms" - 1000 AS "from_ms"', '"end_ms" + 1000 AS "to_ms"',
                 scope=q.RUN)],
        columns,
        overrides=[
            p.override("byName", "run", links=[zoom]),
            p.override("byName", "verdict", mappings=[p.value_mapping(VERDICTS)],
                       custom__cellOptions={"type": "color-background", "mode": "basic"}),
            *(p.override("byName", n, custom__hidden=True) for n in ("from ms", "to ms")),
        ],
    )  # fmt: skip


VERDICTS = {"good": p.GREEN, "gate_failed": p.RED, "client_bound": p.ORANGE, "not_valid": p.ORANGE}


def build() -> Json:
    rows = [
        d.Row(3, [run_line()]),
        d.Row(4, counts()),
        d.Row(6, [residency()], heading="One time line"),
        d.Row(8, [memory()]),
        d.Row(8, [tokens()]),
        d.Row(9, [dots()]),
        d.Row(8, tails(), heading="Tails and queues"),
        d.Row(8, [queues(), device()]),
        d.Row(8, [phases(), cold_and_warm()], heading="What a swap costs"),
        d.Row(9, [swap_table()]),
        d.Row(9, [strata_table()]),
    ]
    return d.dashboard(
        "swaps",
        "tokenswarm / Swaps",
        "tok/s, latency, VRAM and residency on one crosshair; orange bands are swaps.",
        [d.run(), d.model(), d.engine(), d.window()],
        rows,
        [d.swap_regions()],
    )
