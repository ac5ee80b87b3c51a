"""THE table: every measurement, tag and field that tokenswarm writes, anywhere.

Spool rows, Parquet columns, line protocol, docs/metrics.md and the dashboards derive from it.
A spool row is a list: [time_ns, *tag values, *field values], in the order given here. A missing
value is None, never 0. Tags are slugs. SI units; the name of a quantity ends in its unit.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["float", "int", "str", "bool", "ints"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its one type for good, its unit (`""` for none) and one sentence.

    `files_only` fields (bulky, as token gaps) stay in the run's files and never go to InfluxDB.
    """

    name: str
    kind: Kind
    unit: str
    doc: str
    files_only: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement: a constant set of tags on every row, then fields."""

    name: str
    doc: str
    tags: tuple[str, ...]
    fields: tuple[Field, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of a row: `time_ns`, tags, fields."""
        return ("time_ns", *self.tags, *(f.name for f in self.fields))


def _f(name: str, unit: str, doc: str) -> Field:
    return Field(name, "float", unit, doc)


def _i(name: str, unit: str, doc: str) -> Field:
    return Field(name, "int", unit, doc)


def _s(name: str, doc: str) -> Field:
    return Field(name, "str", "", doc)


_RUN_CLOCK = "seconds on the run's clock (0 is the manifest's t0_unix_ns)"

REQUEST = Measurement(
    "request",
    "One row a request, at its end.",
    ("run_id", "model", "target", "engine", "worker", "endpoint", "status", "phase"),
    (
        _s("id", "unique in the run: worker and number"),
        _i("plan_index", "", "place in the scenario's request sequence; None outside a scenario"),
        _f("t_intended_s", "s", f"when the schedule wanted it sent; {_RUN_CLOCK}"),
        _f("t_sent_s", "s", "when its first byte was handed to the socket (connection ready)"),
        _f("t_headers_s", "s", "when the response's headers were complete"),
        _f("t_first_event_s", "s", "first event of any sort, role-only chunk and ping included"),
        _f("t_first_token_s", "s", "first token event: content, reasoning or tool call"),
        _f("t_first_visible_s", "s", "first content or tool call token, reasoning excluded"),
        _f("t_last_token_s", "s", "last token event; a usage chunk does not move it"),
        _f("t_end_s", "s", "end of the response, or of the attempt"),
        _f("connect_s", "s", "time to connect (DNS, TCP, TLS); None on a reused connection"),
        _f("ttft_s", "s", "t_first_token - t_sent"),
        _f("ttft_user_s", "s", "t_first_token - t_intended: waiting for a slot counts"),
        _f("e2e_s", "s", "t_last_token - t_sent (t_end for endpoints without tokens)"),
        _f("tpot_s", "s", "(t_last_token - t_first_token) / (output_tokens - 1); None below 2"),
        _f("itl_p50_s", "s", "median gap between this request's token events"),
        _f("itl_p95_s", "s", "P95 of the gaps between this request's token events"),
        _f("itl_p99_s", "s", "P99 of the gaps between this request's token events"),
        _f("max_stall_s", "s", "longest gap between this request's token events"),
        _i("prompt_tokens", "", "the server's own count"),
        _i("output_tokens", "", "the server's own count, else token events (see token_source)"),
        _i("cached_tokens", "", "prompt tokens served from a prefix cache, as the server says"),
        _i("reasoning_tokens", "", "reasoning tokens, as the server says"),
        _i("token_events", "", "token events that arrived"),
        _s("token_source", "usage, native or events: where output_tokens came from"),
        _i("prompt_tokens_wanted", "", "what the scenario asked for; None when it did not"),
        _i("output_tokens_wanted", "", "what the scenario asked for; None when it did not"),
        _f("server_total_s", "s", "Ollama's total_duration"),
        _f("server_load_s", "s", "Ollama's load_duration: queue, eviction and load, see docs"),
        _f("server_prompt_eval_s", "s", "Ollama's prompt_eval_duration"),
        _f("server_eval_s", "s", "Ollama's eval_duration"),
        _i("http_status", "", "HTTP status; None when none arrived"),
        _s("error_kind", "see wire/record.py; None when ok"),
        _s("error_text", "first 300 characters of what the server or the system said"),
        _s("finish_reason", "as the server said it"),
        _s("model_reply", "the model that the reply names, when it is not the one asked for"),
        _i("bytes_received", "bytes", "bytes of the response's body"),
        Field("slo_ok", "bool", "", "every SLO of its model met; None without SLOs"),
        Field(
            "gaps_us",
            "ints",
            "us",
            "gaps between token events, the first one counted from t_first_token (0)",
            files_only=True,
        ),
    ),
)

REQUEST_STRATUM = Measurement(
    "request_stratum",
    "One row a request once analysis has sealed its stratum; count equals request's.",
    ("run_id", "model", "target", "engine", "stratum"),
    (
        _s("id", "the request's id"),
        _s("evidence", "what said so: client, engine, gpu, joined by +"),
        _f("ttft_s", "s", "as in request"),
        _f("ttft_user_s", "s", "as in request"),
        _f("e2e_s", "s", "as in request"),
        _f("tpot_s", "s", "as in request"),
        _f("max_stall_s", "s", "as in request"),
    ),
)

TICK = Measurement(
    "tick",
    "One row a second, model and worker: what was observed in that second.",
    ("run_id", "model", "target", "engine", "worker"),
    (
        _i("token_events", "", "token events that arrived in the interval"),
        _i("started", "", "requests sent in the interval"),
        _i("done", "", "requests ended ok in the interval"),
        _i("failed", "", "requests ended otherwise in the interval"),
        _i("in_flight", "", "requests in flight at the end of the interval"),
        _f("interval_s", "s", "length of the interval"),
    ),
)

GPU = Measurement(
    "gpu",
    "One row a GPU (`0`), MIG instance (`0-mig-1`) or host's own memory (`cpu`), and sample.",
    ("run_id", "host", "gpu"),
    (
        _i("vram_total_bytes", "bytes", "device memory"),
        _i("vram_used_bytes", "bytes", "used by processes, without reserved (NVML v2)"),
        _i("vram_reserved_bytes", "bytes", "kept by the driver"),
        _i("vram_free_bytes", "bytes", "free"),
        _f("util_ratio", "", "share of time with a kernel running, 0..1"),
        _f("mem_util_ratio", "", "share of time the memory bus was busy, 0..1"),
        _f("power_w", "W", "board power; a mean over 1 s on Ampere and later"),
        _i("sm_clock_hz", "Hz", "SM clock"),
        _i("mem_clock_hz", "Hz", "memory clock"),
        _i("throttle_bits", "", "NVML's clocks event reasons"),
        _f("energy_j", "J", "energy since the driver loaded (counter), twice a second"),
        _f("power_instant_w", "W", "board power at that moment, twice a second"),
        _f("power_sampled_w", "W", "mean of the driver's own samples since the one before"),
        _f("power_sampled_max_w", "W", "largest of the driver's own samples since the one before"),
        _f("util_sampled_ratio", "", "mean of the driver's own samples since the one before, 0..1"),
        _f("temperature_c", "degC", "GPU temperature, twice a second"),
        _f("mem_temperature_c", "degC", "memory temperature, twice a second"),
        _i("ecc_corrected", "", "memory errors corrected since the driver loaded"),
        _i("ecc_uncorrected", "", "memory errors not corrected since the driver loaded"),
        _i("xid", "", "a critical error that the driver has just reported; one a row"),
        _i("pcie_tx_bytes", "bytes", "sent over PCIe (counter, may wrap)"),
        _i("pcie_rx_bytes", "bytes", "received over PCIe (counter, may wrap)"),
        _f("pcie_tx_bytes_per_s", "bytes/s", "sent over PCIe in 20 ms; only when asked for"),
        _f("pcie_rx_bytes_per_s", "bytes/s", "received over PCIe in 20 ms; only when asked for"),
        _s("source", "nvml, sim, replay or host"),
    ),
)

GPU_PROCESS = Measurement(
    "gpu_process",
    "One row a process with memory on a GPU, and sample.",
    ("run_id", "host", "gpu", "model", "container"),
    (
        _i("pid", "", "process id as NVML gives it"),
        _i("vram_used_bytes", "bytes", "device memory of the process"),
    ),
)

ENGINE = Measurement(
    "engine",
    "One row a poll of an engine: its own load figures.",
    ("run_id", "target", "engine", "model"),
    (
        _i("running", "", "requests running"),
        _i("waiting", "", "requests waiting"),
        _f("kv_cache_ratio", "", "KV cache in use, 0..1"),
        _f("poll_s", "s", "time the poll took"),
        Field("poll_ok", "bool", "", "the poll was answered in time"),
    ),
)

RESIDENCY = Measurement(
    "residency",
    "One row on change and as heartbeat: where a model's weights are.",
    ("run_id", "target", "engine", "model"),
    (
        _s("state", "absent, loading, resident, asleep or partial"),
        _i("vram_bytes", "bytes", "what the engine says the model holds"),
        _i("size_bytes", "bytes", "the model's whole size, as the engine says"),
        _i("context_length", "", "context it was loaded with"),
        _i("sleep_level", "", "asleep: 1 weights kept in the host's memory, 2 thrown away"),
        _f("expires_s", "s", "until it goes by itself unless asked, as the engine says"),
        _i("swap_active", "", "1 while a swap is known to be going on"),
        Field("changed", "bool", "", "the state differs from the row before"),
    ),
)

SWAP = Measurement(
    "swap",
    "One row a cold start or swap, with marks and costs.",
    ("run_id", "target", "engine", "gpu", "model_in", "model_out", "kind", "outcome"),
    (
        _i("start_ms", "ms", "t0 as epoch milliseconds (for Grafana's annotations)"),
        _i("end_ms", "ms", "the last known mark as epoch milliseconds"),
        _s("text", "one line for a person"),
        Field("displaced", "bool", "", "another model had to go: a swap, not just a cold start"),
        _s("cause", "demand, reconfig, control, crash or unknown"),
        _s("confidence", "confirmed, probable or hint"),
        _s("evidence", "client, engine, gpu, joined by +"),
        _f("t0_s", "s", "demand: send time of the first request; run clock"),
        _f("t1_s", "s", "evict start"),
        _f("t2_s", "s", "trough"),
        _f("t3_s", "s", "load start"),
        _f("t4_s", "s", "ready"),
        _f("t5_s", "s", "first token to the triggering request"),
        _f("t6_s", "s", "warm again"),
        _f("latency_s", "s", "t5 - t0"),
        _f("penalty_s", "s", "TTFT of the trigger minus the warm median of its model"),
        _s("trigger_id", "id of the triggering request"),
        _i("waiters", "", "other requests for the model sent in [t0, t4]"),
        _i("collateral", "", "requests for other models that waited because of it"),
        _i("vram_before_bytes", "bytes", "device memory used just before t0"),
        _i("vram_trough_bytes", "bytes", "lowest in [t0, t5]"),
        _i("vram_peak_bytes", "bytes", "highest in [t0, t5]"),
        _i("vram_after_bytes", "bytes", "device memory used just after t5"),
        _i("headroom_bytes", "bytes", "device memory left at the peak"),
        _f("queue_s", "s", "t1 - t0"),
        _f("evict_s", "s", "t2 - t1"),
        _f("gap_s", "s", "t3 - t2"),
        _f("load_s", "s", "t4 - t3"),
        _f("first_token_s", "s", "t5 - t4"),
        _f("rewarm_s", "s", "t6 - t5"),
        _i("moved_bytes", "bytes", "what came into device memory"),
        _f("load_bytes_per_s", "bytes/s", "moved_bytes over the time in which memory filled"),
        _f("limit_ratio", "", "load_bytes_per_s as a share of the limit it ran against"),
        _s("limit", "that limit: pcie or disk; None when no limit is known"),
        _s("coldness", "where the weights came from: disk, mixed, page_cache or host_ram"),
        _s("left_because", "why the model was not there: pressure, reconfig, idle, crash, asleep"),
        _f("energy_j", "J", "drawn in [t0, t5], where at least two samples fall in it"),
        _f("blocked_request_s", "s", "waiting in [t0, t4], added up over all who paid"),
        _f("stall_max_s", "s", "longest silence that a stream of another model had in [t0, t4]"),
        _f(
            "itl_p95_shift_s", "s", "P95 token gap of other models in [t0, t4], less their warm one"
        ),
        _f("ttft_p95_shift_s", "s", "P95 TTFT of overlapping others, less their warm one"),
        _f(
            "tokens_lost", "", "tokens that other models did not produce in [t0, t4], to their rate"
        ),
    ),
)

SWAP_ACTIVE = Measurement(
    "swap_active",
    "One row when a cold start or swap begins or ends, and one a second in between.",
    ("run_id", "target"),
    (_i("active", "", "1 while a model is being brought in for a request, else 0"),),
)

CONTAINER = Measurement(
    "container",
    "One row an event of a container that carries our labels, and one an interval of its use.",
    ("run_id", "host", "container"),
    (
        _s("event", "found, start, ready, unhealthy, oom, die, stop or stats"),
        _i("exit_code", "", "of a container that died"),
        _s("target", "its label tokenswarm.target"),
        _s("model", "its label tokenswarm.model"),
        _f("cpu_ratio", "", "CPU time per second since the stats before; 1 is a whole core"),
        _i("memory_used_bytes", "bytes", "memory in use, without page cache that can be dropped"),
        _i("page_cache_bytes", "bytes", "page cache that is counted as the container's"),
        _i("memory_limit_bytes", "bytes", "its memory limit, at most the host's memory"),
        _i("disk_read_bytes", "bytes", "read from disks since its start"),
    ),
)

GENERATOR = Measurement(
    "generator",
    "One row a second and worker: is the load generator itself in order?",
    ("run_id", "worker"),
    (
        _f("loop_lag_s", "s", "longest delay of a 50 ms timer in the interval"),
        _i(
            "late_starts", "", "requests sent over 10 ms after their intended time, in the interval"
        ),
        _f("late_max_s", "s", "largest lateness in the interval"),
        _f("cpu_ratio", "", "CPU time of the process per second; 1 is a whole core"),
        _i("rss_bytes", "bytes", "resident memory of the process"),
        _i("users", "", "users running"),
        _i("records_written", "", "records in the spool so far"),
        _i("records_waiting", "", "records not yet in the spool"),
        _i("records_dropped", "", "records lost so far; must be 0"),
        _f("cpu_wait_ratio", "", "time it could have run and no processor was free, per second"),
        _f("send_lag_p99_s", "s", "P99 of the delay before sending that the generator caused"),
        _i("open_files", "", "files and sockets it holds open"),
    ),
)

HOST = Measurement(
    "host",
    "One row a sample of a host; rates are since the sample before.",
    ("run_id", "host"),
    (
        _f("cpu_ratio", "", "CPU in use over all cores, 0..1"),
        _f("cpu_iowait_ratio", "", "CPU idle while a disk was waited for, over all cores, 0..1"),
        _i("memory_total_bytes", "bytes", "memory of the host"),
        _i("memory_used_bytes", "bytes", "memory in use: total without what is available"),
        _i("page_cache_bytes", "bytes", "page cache of files, without shared memory"),
        _f("disk_read_bytes_per_s", "bytes/s", "disk reads, all disks"),
        _f("disk_written_bytes_per_s", "bytes/s", "disk writes, all disks"),
        _f("network_received_bytes_per_s", "bytes/s", "received by network cards, not loopback"),
        _f("network_sent_bytes_per_s", "bytes/s", "sent by network cards, not loopback"),
    ),
)

AGENT = Measurement(
    "agent",
    "One row a second and source that samples: is the sampling itself in order? "
    "`gpu-HOST-slow` is NVML's slow thread.",
    ("run_id", "host", "source"),
    (
        _f("interval_s", "s", "the interval asked for"),
        _i("looks", "", "looks in the second"),
        _i("missed", "", "looks that fell out in the second, because the one before took too long"),
        _f("jitter_mean_s", "s", "mean distance of the gap between two looks from the interval"),
        _f("jitter_max_s", "s", "largest distance of such a gap from the interval"),
        _f("cost_mean_s", "s", "mean time a look took"),
        _f("cost_max_s", "s", "longest time a look took"),
        _f("cpu_s", "s", "CPU time of the looks of the second, on their own thread"),
        _i("rows", "", "rows of the source so far"),
    ),
)

RUN = Measurement(
    "run",
    "One row a run: facts of the manifest.",
    ("run_id", "model", "engine", "stratum"),
    (
        _s("scenario", "its name"),
        _s("version", "of tokenswarm"),
        _i("start_ms", "ms", "start as epoch milliseconds"),
        _i("end_ms", "ms", "end as epoch milliseconds"),
        Field("simulated", "bool", "", "the servers or the GPU were simulated"),
        _s("verdict", "good, gate_failed, client_bound or not_valid"),
    ),
)

RUN_SUMMARY = Measurement(
    "run_summary",
    "One row a run, model and stratum: final figures.",
    ("run_id", "model", "engine", "stratum"),
    (
        _i("requests", "", "requests"),
        _f("success_ratio", "", "share with status ok"),
        _f("output_tok_s", "tok/s", "output tokens by arrival over the run without drain"),
        _f("ttft_p50_s", "s", "median TTFT"),
        _f("ttft_p95_s", "s", "P95 TTFT"),
        _f("e2e_p50_s", "s", "median E2E"),
        _f("e2e_p95_s", "s", "P95 E2E"),
        _f("itl_p95_s", "s", "P95 of pooled token gaps"),
        _f("ttft_p99_s", "s", "P99 TTFT"),
        _f("e2e_p99_s", "s", "P99 E2E"),
        _f("tpot_p50_s", "s", "median TPOT"),
        _f("tpot_p95_s", "s", "P95 TPOT"),
        _f("goodput_rps", "1/s", "requests that met every SLO, a second; only with an SLO"),
        _f("goodput_ratio", "", "share of the requests that met every SLO; only with an SLO"),
        _i("cold_starts", "", "models that demand brought in; of the whole run, as all below"),
        _i("swaps", "", "cold starts that displaced another model"),
        _f("swap_latency_p50_s", "s", "median t5 - t0 of the swaps"),
        _f("swap_latency_p95_s", "s", "P95 t5 - t0 of the swaps"),
        _f("swap_tax_ratio", "", "share of the time under load without a token while one went on"),
        _f("swap_affected_ratio", "", "share of the requests that are not warm"),
        _i("vram_peak_bytes", "bytes", "most device memory used on any one GPU"),
    ),
)

MEASUREMENTS: dict[str, Measurement] = {
    m.name: m
    for m in (
        REQUEST, REQUEST_STRATUM, TICK, GPU, GPU_PROCESS, ENGINE, RESIDENCY, SWAP, SWAP_ACTIVE,
        CONTAINER, GENERATOR, HOST, AGENT, RUN, RUN_SUMMARY,
    )
}  # fmt: skip
