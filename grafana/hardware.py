"""Dashboard GPU and host: what the hardware did while the load ran."""

from grafana import dashboard as d
from grafana import panel as p
from grafana import query as q
from grafana.panel import Json
from grafana.swaps import BAND

GPU = ("host", "gpu")
THROTTLE = {
    "0": p.GREEN, "1": p.GREY, "2": p.GREY, "4": p.ORANGE, "8": p.RED, "16": p.YELLOW,
    "32": p.ORANGE, "64": p.RED, "128": p.RED,
}  # fmt: skip
REASONS = {
    "0": "none", "1": "idle", "2": "application clocks", "4": "power cap",
    "8": "hardware slowdown", "16": "sync boost", "32": "software thermal",
    "64": "hardware thermal", "128": "power brake",
}  # fmt: skip


def gpu(select: str, alias: str) -> q.Query:
    return q.series("gpu", select, by=GPU, scope=q.DEVICES, alias=f"{alias}$tag_host/$tag_gpu")


def host(select: str, alias: str) -> q.Query:
    return q.series("host", select, by=("host",), scope=q.DEVICES, alias=f"{alias} $tag_host")


def lines(title: str, text: str, queries: list[q.Query], unit: str, **more: object) -> Json:
    return p.timeseries(title, text, queries, unit, swaps=BAND, legend="bottom", **more)  # type: ignore[arg-type]


def memory() -> list[Json]:
    now = p.stat(
        "VRAM used now", "What the driver says is used by processes, of what there is, at the "
        "last sample shown; reserved memory is neither.",
        [gpu('LAST("vram_used_bytes") / LAST("vram_total_bytes")', "")],
        "percentunit", decimals=1,
        thresholds=p.steps((None, p.GREEN), (0.85, p.YELLOW), (0.95, p.RED)), none="no GPU",
    )  # fmt: skip
    of = lines(
        "VRAM of each GPU",
        "Used by processes, the largest in each interval; dashed: all there is. Free is what is "
        "neither used nor reserved by the driver.",
        [gpu('MAX("vram_used_bytes")', "used "), gpu('MAX("vram_total_bytes")', "total "),
         gpu('MIN("vram_free_bytes")', "free ")],
        "bytes",
        overrides=[p.override("byRegexp", "/^total/", color=p.fixed(p.RED), custom__fillOpacity=0,
                              custom__lineStyle={"fill": "dash", "dash": [8, 6]}),
                   p.override("byRegexp", "/^free/", custom__fillOpacity=0)],
    )  # fmt: skip
    held = q.summed("gpu_process", 'SUM("vram_used_bytes")', 'LAST("part")',
                    by=("host", "gpu", "model", "container"), each=(), inner_every="10ms",
                    scope=q.DEVICES,
                    alias="$tag_model $tag_host/$tag_gpu")  # fmt: skip
    owners = lines(
        "VRAM by process",
        "Device memory by the model that a process serves (from its command line, container and "
        "the engine's files); what cannot be resolved says so.",
        [held], "bytes",
        custom={"fillOpacity": 50, "lineWidth": 0, "stacking": {"mode": "normal", "group": "A"}},
    )  # fmt: skip
    return [now, of, owners]


def activity() -> list[Json]:
    return [
        lines("Utilisation", "Share of time with a kernel running, and with the memory bus busy: "
              "neither says how much of the GPU a kernel uses.",
              [gpu('MEAN("util_ratio")', "busy "), gpu('MEAN("mem_util_ratio")', "memory bus ")],
              "percentunit", defaults={"max": 1}),
        lines("PCIe and disk", "Bytes a second over PCIe, measured over 20 ms and only when the "
              "agent is asked for it (it blocks for as long), and off the disks of the host.",
              [host('MEAN("disk_read_bytes_per_s")', "disk read"),
               gpu('MEAN("pcie_rx_bytes_per_s")', "PCIe in "),
               gpu('MEAN("pcie_tx_bytes_per_s")', "PCIe out ")], "Bps"),
    ]  # fmt: skip


def power() -> list[Json]:
    return [
        lines("Power", "Board power; a mean over 1 s on Ampere and later. Largest and instant are "
              "the driver's own samples, where it gives them.",
              [gpu('MEAN("power_w")', ""), gpu('MAX("power_instant_w")', "instant "),
               gpu('MAX("power_sampled_max_w")', "largest ")], "watt"),
        per_token(),
        lines("Temperatures", "Of the GPU and, where there is a sensor, of its memory.",
              [gpu('MAX("temperature_c")', ""), gpu('MAX("mem_temperature_c")', "memory ")],
              "celsius", defaults={"min": None}),
    ]  # fmt: skip


def per_token() -> Json:
    share = 'SUM("token_events") / SUM("interval_s")'
    rate = q.summed("tick", share, 'SUM("part")', each=("worker", "model", "target"), scope=q.RUN,
                    every="$window", alias="tokens")  # fmt: skip
    drawn = q.summed("gpu", 'MEAN("power_w")', 'SUM("part")', each=GPU, scope=q.DEVICES,
                     every="$window", alias="watts")  # fmt: skip
    divided = [
        {"id": "joinByField", "options": {"byField": "Time", "mode": "inner"}},
        {
            "id": "calculateField",
            "options": {
                "mode": "binary",
                "alias": "J per token",
                "binary": {
                    "left": {"matcher": {"id": "byName", "options": "watts"}},
                    "operator": "/",
                    "right": {"matcher": {"id": "byName", "options": "tokens"}},
                },
                "replaceFields": True,
            },
        },
    ]
    return p.timeseries(
        "Energy per token",
        "Mean power of the GPUs shown over output tokens a second, in each window: joules a token. "
        "A window without a token has none.",
        [drawn, rate], "joule", legend="bottom", transformations=divided,
        custom={"showPoints": "always", "lineWidth": 2},
    )  # fmt: skip


def clocks() -> list[Json]:
    reasons = p.timeline(
        "Why the clocks are held back",
        "NVML's clocks event reasons, the largest bits of each interval: idle is no reason to "
        "worry; power cap, slowdown and thermal are. Several at once show as their sum.",
        [q.series("gpu", 'MAX("throttle_bits")', by=GPU, scope=q.DEVICES,
                  alias="$tag_host/$tag_gpu")],
        {},
    )  # fmt: skip
    defaults = reasons["fieldConfig"]["defaults"]
    defaults["mappings"] = [p.value_mapping(THROTTLE, REASONS)]
    defaults["unit"] = "none"
    return [
        lines("Clocks", "SM and memory clocks: those that fall while busy cost tok/s.",
              [gpu('MEAN("sm_clock_hz")', "SM "), gpu('MEAN("mem_clock_hz")', "memory ")],
              "hertz"),
        reasons,
    ]  # fmt: skip


def machine() -> list[Json]:
    return [
        lines("Host CPU", "Share of all cores in use, and idle while a disk was waited for.",
              [host('MEAN("cpu_ratio")', "in use"), host('MEAN("cpu_iowait_ratio")', "iowait")],
              "percentunit", defaults={"max": 1}),
        lines("Host memory and page cache", "In use: total without what is available. Page cache: "
              "files that are in memory; a model that lies there loads at memory speed.",
              [host('MAX("memory_used_bytes")', "in use"),
               host('MAX("page_cache_bytes")', "page cache"),
               host('MAX("memory_total_bytes")', "total")], "bytes",
              overrides=[p.override("byRegexp", "/^total/", color=p.fixed(p.RED),
                                    custom__fillOpacity=0,
                                    custom__lineStyle={"fill": "dash", "dash": [8, 6]})]),
        lines("Disk and network", "All disks; network cards without loopback.",
              [host('MEAN("disk_read_bytes_per_s")', "read"),
               host('MEAN("disk_written_bytes_per_s")', "written"),
               host('MEAN("network_received_bytes_per_s")', "received"),
               host('MEAN("network_sent_bytes_per_s")', "sent")], "Bps"),
    ]  # fmt: skip


def sampling() -> list[Json]:
    def agent(select: str, alias: str) -> q.Query:
        return q.series("agent", select, by=("host", "source"), scope=("run_id", "host"),
                        alias=f"{alias}$tag_source")  # fmt: skip

    return [
        lines("Samples: jitter", "Largest distance of the gap between two looks from the interval "
              "asked for, in each second.", [agent('MAX("jitter_max_s")', "")], "s"),
        lines("Samples: missed", "Looks that fell out because the one before took too long.",
              [agent('SUM("missed")', "")], "none",
              custom={"drawStyle": "bars", "fillOpacity": 70}),
        lines("Samples: cost", "Mean time of a look: what sampling costs.",
              [agent('MEAN("cost_mean_s")', "")], "s"),
    ]  # fmt: skip


def build() -> Json:
    of_run = d.OF_RUN
    hosts = d.any_of("host", "Host", "Hosts that were sampled.",
                     q.tag_values("host", "host", of_run))  # fmt: skip
    gpus = d.any_of("gpu", "GPU", "GPUs and MIG instances.",
                    q.tag_values("gpu", "gpu", f'{of_run} AND "host" =~ /^$host$/'))  # fmt: skip
    rows = [
        d.Row(8, memory(), heading="Memory", widths=[4, 10, 10]),
        d.Row(8, activity(), heading="Activity"),
        d.Row(8, power(), heading="Power and heat"),
        d.Row(7, clocks()),
        d.Row(8, machine(), heading="Host"),
        d.Row(7, sampling(), heading="Is the sampling itself in order?"),
    ]
    return d.dashboard(
        "hardware",
        "tokenswarm / GPU and host",
        "Memory, power, clocks and the host of each GPU, on the clock of the run.",
        [d.run(), hosts, gpus, d.window()],
        rows,
        [d.swap_regions()],
    )
