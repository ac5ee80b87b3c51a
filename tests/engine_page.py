"""docs/engines.md from the adapters themselves: `python -m tests.engine_page --write` renews it.

The pitfalls are a list of ours: what is done about each, and the test that shows it.
"""

import sys
from pathlib import Path

import msgspec

from tokenswarm.engines.openai import OpenAi
from tokenswarm.engines.probe import REGISTRY, WAY_OUT

PAGE = Path(__file__).parent.parent / "docs" / "engines.md"
INTRO = """# Engines

Made of the adapters in `src/tokenswarm/engines/` by `python -m tests.engine_page --write`. A
target's engine is found out by the answers in the first row, in the order of the columns; another
engine than the one named in a scenario or matrix is refused.
"""
LABELS = {
    "told_by": "told by", "ready": "ready when", "residency": "where its models are",
    "load": "loads a model by", "unload": "unloads it by", "sleep": "sleeps", "timings":
    "tells times by", "overload": "overload shows as", "quirks": "to know",
}  # fmt: skip
PITFALLS: tuple[tuple[str, str, str], ...] = (
    ("Ollama's `load_duration` is waiting, eviction and load together, and not 0 when warm",
     "it is evidence only beside residency",
     "test_a_long_load_time_on_a_model_resident_throughout_is_no_cold_start"),
    ("Loading and unloading answer without durations, and before memory is free",
     "the call is timed, and memory is waited for until it is still",
     "test_ollama_unloads_and_says_so_only_when_the_model_has_gone"),
    ("Cached prompts inflate Ollama's prefill speed", "no prefill speed is derived from its counts",
     "test_ollamas_durations_are_seconds_in_the_record"),
    ("`num_ctx` in a request loads the model anew",
     "no request carries it unless a scenario says so; such a load is told as reconfig",
     "test_another_context_length_is_a_reconfiguration"),
    ("Ollama throws out by keep-alive, then by name",
     "the victim is the one that was seen to leave",
     "test_the_displaced_model_is_the_one_that_left"),
    ("A client that goes away ends Ollama's load: endless cold starts",
     "time-outs outlast a cold load", "test_the_defaults_outlast_a_cold_load"),
    ("503 comes for cold models alone; llama-swap says 429", "each is an error with its status",
     "test_a_response_is_classified"),
    ("`/api/ps` omits what loads, blocks, and leaves out the CUDA context",
     "polls are short and a failed one only says so; memory is the GPU's own",
     "test_a_failed_poll_says_only_that_it_failed"),
    ("Memory comes back late, and the next load may be partial",
     "a model that is partly on the CPU is told as partial",
     "test_ollama_tells_what_it_holds_and_what_spilled"),
    ("A smaller context after running out of memory", "the context is part of what is resident",
     "test_another_context_length_is_a_reconfiguration"),
    ("`max_completion_tokens` is ignored by some; nobody forces lengths alike",
     "each engine's own knobs; misses are counted",
     "test_the_knob_for_exact_lengths_makes_lengths_exact"),
    ("Failures in midstream look like success", "every ending is told apart",
     "test_every_ending_is_told_apart"),
    ("Role-only chunks, loading text, early headers and pings come before the first token",
     "none of them is a token", "test_stamps_are_those_of_their_events"),
    ("Pids are the host's; some drivers mix namespaces", "a pid that is not here is unresolved",
     "test_a_pid_that_is_not_here_is_unresolved_and_not_merely_nameless"),
    ("MIG and WSL2 lack figures", "what a card lacks is absent",
     "test_on_wsl2_there_are_figures_but_no_processes"),
    ("vLLM and SGLang reserve their cache: a flat line of memory is not idleness",
     "their own cache figures are recorded beside it",
     "test_metrics_count_what_runs_and_the_cache_it_uses"),
    ("A start fails, or takes less, while another server's memory moves",
     "servers are started one after another once memory is still",
     "test_the_twin_comes_to_the_conclusions_of_the_study"),
    ("Sleep: `/health` is 200, requests hang, levels go into the query, weights may be garbage",
     "residency asks `/is_sleeping`; level 2 reloads weights; a fixed prompt tells",
     "test_vllm_sleeps_at_both_levels_and_its_text_is_the_same_afterwards"),
    ("Cold is not one thing: disk, page cache, compiled graphs, first call",
     "the drill keeps disk, reload, restart and first call apart; caches of compiled graphs are "
     "out of scope: no engine says whether it used one",
     "test_the_twin_comes_to_the_conclusions_of_the_study"),
    ("Clients split at U+2028, ids collide, SGLang poses as Ollama, unknown names get another",
     "bytes are split at line feeds, ids are ours, and the name in the answer is held against "
     "the one asked for", "test_sglang_posing_as_ollama_is_sglang"),
)  # fmt: skip


def page() -> str:
    """The whole page."""
    return "\n".join([INTRO, table(), "\n## A model that is not there\n", ways(),
                      "\n## Pitfalls\n", pitfalls()])  # fmt: skip


def table() -> str:
    """Aspects down, engines across."""
    rows = [["", *(kind.sheet.title for kind in REGISTRY)], ["---"] * (len(REGISTRY) + 1)]
    rows.append(["slug", *(f"`{kind.engine}`" for kind in REGISTRY)])
    for field, label in LABELS.items():
        rows.append([label, *(getattr(kind.sheet, field) for kind in REGISTRY)])
    rows.append(["exact output length", *(_length(kind) for kind in REGISTRY)])
    rows.append(["counts prompt tokens", *(_yes(kind.knobs.tokenize) for kind in REGISTRY)])
    rows.append(["tells changes by itself", *(_yes(kind.news is not None) for kind in REGISTRY)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ways() -> str:
    return "\n".join(f"- {engine}: {way.format(name='NAME')}" for engine, way in WAY_OUT.items())


def pitfalls() -> str:
    head = "| what goes wrong | what is done | shown by |\n|---|---|---|"
    return "\n".join([head, *(f"| {a} | {b} | `{c}` |" for a, b, c in PITFALLS)]) + "\n"


def _length(kind: type[OpenAi]) -> str:
    knobs = kind.knobs
    if knobs.exact_length is None:
        return "no"
    fields = [f"`{k}: {msgspec.json.encode(v).decode()}`" for k, v in knobs.exact_length.items()]
    return " and ".join(fields + (["`min_tokens`"] if knobs.min_tokens else []))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())
