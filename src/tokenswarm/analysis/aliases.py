"""Several models of a scenario may be one model of a server: swaps are about the server's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from tokenswarm.analysis.columns import Texts
from tokenswarm.analysis.figures import SwapEvent
from tokenswarm.analysis.requests import Requests, grouped
from tokenswarm.analysis.residency import Stay

Aliases = Mapping[str, str]
"""Scenario's model -> the first one that asks the same server for the same model."""


def aliases_of(scenario: Mapping[str, Any] | None) -> Aliases:
    """Models that are not the first of theirs; empty where each is a model of its own."""
    first: dict[tuple[Any, Any], str] = {}
    found = {}
    for m in (scenario or {}).get("models") or []:
        name = str(m.get("name"))
        one = first.setdefault((m.get("target"), m.get("model", name)), name)
        if one != name:
            found[name] = one
    return found


def served(requests: Requests, aliases: Aliases) -> Requests:
    """`requests` by the models that servers know."""
    if not aliases:
        return requests
    model = _mapped(requests.model, aliases)
    return replace(requests, model=model, groups=grouped(requests.target, model))


def served_stays(stays: Sequence[Stay], aliases: Aliases) -> list[Stay]:
    """The same for what was seen of them."""
    return [replace(s, model=aliases.get(s.model, s.model)) for s in stays]


def asked(events: Sequence[SwapEvent], requests: Requests, aliases: Aliases) -> list[SwapEvent]:
    """`events` by the name under which the model was asked for."""
    if not aliases:
        return list(events)
    names = dict(zip(requests.id.tolist(), requests.model.tolist(), strict=True))
    return [
        msgspec.structs.replace(e, model_in=str(names.get(e.trigger_id, e.model_in)))
        for e in events
    ]


def _mapped(model: Texts, aliases: Aliases) -> Texts:
    out = model.copy()
    for name, one in aliases.items():
        out[np.asarray(model == name, dtype=np.bool_)] = one
    return out
