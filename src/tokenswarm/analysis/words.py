"""The manifest in words for a person, and as the numbers that figures need."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenswarm.analysis.summary import Facts
from tokenswarm.store.rundir import Manifest


def facts_of(manifest: Manifest, end_s: float, notes: Sequence[str]) -> Facts:
    """What `manifest` says of a run that ended (or was last heard of) at `end_s`."""
    scenario = manifest.scenario or {}
    models = scenario.get("models") or []
    return Facts(
        run_id=manifest.run_id,
        t0_unix_ns=manifest.t0_unix_ns,
        scenario=str(scenario.get("name", "none")),
        simulated=manifest.simulated,
        duration_s=end_s,
        load_s=_load_s(manifest, scenario, end_s),
        load=scenario.get("load"),
        models=tuple(m["name"] for m in models),
        slos=frozenset(m["name"] for m in models if m.get("slo")),
        words=_words(manifest, scenario),
        notes=[*manifest.notes, *notes],
    )


def _load_s(manifest: Manifest, scenario: Mapping[str, Any], end_s: float) -> float:
    """How long load was offered: to the manifest's word, else the scenario's, else the end."""
    if manifest.load_end_unix_ns is not None:
        return (manifest.load_end_unix_ns - manifest.t0_unix_ns) / 1e9
    return min(float(scenario.get("duration_s", end_s)), end_s)


def _words(manifest: Manifest, scenario: Mapping[str, Any]) -> dict[str, str]:
    words = {
        "targets": "; ".join(_target(n, t) for n, t in sorted(manifest.targets.items())),
        "load": load_words(scenario.get("load")),
        "mix": str((scenario.get("mix") or {}).get("order", "")),
        "seed": "" if manifest.seed is None else str(manifest.seed),
        "workers": str(len(manifest.workers)) if manifest.workers else "",
        "gpu telemetry": _gpu((manifest.telemetry or {}).get("gpu")),
        "host": manifest.host,
        "platform": manifest.platform,
        "python": manifest.python,
        "tokenswarm": manifest.tokenswarm,
        "scenario file": manifest.scenario_file or "",
        "scenario sha256": (manifest.scenario_sha256 or "")[:16],
    }
    return {name: text for name, text in words.items() if text}


def _target(name: str, info: Mapping[str, Any]) -> str:
    version = info.get("version")
    simulated = ", simulated" if info.get("simulated") else ""
    return f"{name}: {info.get('engine', 'unknown')}{f' {version}' if version else ''}{simulated}"


def load_words(load: Mapping[str, Any] | None) -> str:
    """The scenario's load in words: `closed loop, 8 users, 0.5 s think time`."""
    if not load:
        return ""
    shape = f", {load['shape'].get('kind')}" if load.get("shape") else ""
    if load.get("kind") == "trace":
        return f"trace of {len(load.get('times_s') or [])} arrivals"
    if load.get("kind") == "open":
        arrivals = load.get("arrivals", "poisson")
        return f"open loop, {load.get('rate'):g} requests/s, {arrivals}{shape}"
    think = load.get("think_s") or 0
    users, turns = load.get("users", 1), load.get("turns") or 1
    talk = f", conversations of {turns} turns" if turns > 1 else ""
    return f"closed loop, {users} user{'s' * (users != 1)}, {think:g} s think time{talk}{shape}"


def _gpu(source: Any) -> str:
    if not isinstance(source, Mapping):
        return ""
    why = source.get("why") or source.get("reason")
    return f"{source.get('kind', 'none')}{f' ({why})' if why else ''}"
