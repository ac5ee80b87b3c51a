"""Files of prompts: one a line, as text or as JSON objects (JSONL)."""

from pathlib import Path
from typing import Any

import msgspec

from tokenswarm.errors import ScenarioError
from tokenswarm.scenario import tracefile
from tokenswarm.scenario.model import FilePrompt, InlinePrompt, Prompt, Scenario, TraceLoad

MAX_BYTES = 16 << 20
"""All prompts of a file travel to every worker."""


def read(prompt: FilePrompt, base: Path) -> list[str]:
    """Return the prompts of a file; `base` is the folder of the scenario. Empty lines are skipped.

    ScenarioError with the prompt file's name and line when it is missing, empty, too large, not
    UTF-8, or lacks the field.
    """
    lines = _text(prompt.path, base).split("\n")  # only \n: others are legal inside JSON
    lines = [line.removesuffix("\r") for line in lines]
    kept = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not kept:
        raise ScenarioError("no prompt in it; write one a line", file=prompt.path)
    if not prompt.path.endswith(".jsonl"):
        return [line for _, line in kept]
    return [_field(line, prompt, number) for number, line in kept]


def resolve(scenario: Scenario, base: Path) -> Scenario:
    """Return the scenario with its prompts and trace read in, as workers on other hosts need it."""
    models = [
        msgspec.structs.replace(model, prompt=_resolved(model.prompt, base))
        for model in scenario.models
    ]
    load = scenario.load
    if isinstance(load, TraceLoad):
        load = tracefile.resolve(load, base)
    return msgspec.structs.replace(scenario, models=models, load=load)


def _resolved(prompt: Prompt, base: Path) -> Prompt:
    return InlinePrompt(texts=read(prompt, base)) if isinstance(prompt, FilePrompt) else prompt


def _text(path: str, base: Path) -> str:
    file = base / path
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise ScenarioError("not a file; name a file of prompts", file=path)
        if size > MAX_BYTES:
            message = f"{size} bytes; a prompt file has at most {MAX_BYTES}, take a sample of it"
            raise ScenarioError(message, file=path)
        content = file.read_bytes()
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        message = f"{reason}; the path is relative to the scenario file"
        raise ScenarioError(message, file=path) from None
    except ValueError:
        raise ScenarioError("not a path; name a file of prompts", file=path) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ScenarioError("not UTF-8; convert it", file=path, line=line) from None


def _field(line: str, prompt: FilePrompt, number: int) -> str:
    try:
        row: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"not JSON ({error}); .jsonl has one object a line"
        raise ScenarioError(message, file=prompt.path, line=number) from None
    value = row.get(prompt.field) if isinstance(row, dict) else None
    if isinstance(value, str) and value.strip():
        return value
    has = ", ".join(repr(key) for key in list(row)[:8]) if isinstance(row, dict) else "no object"
    message = f"no text in field {prompt.field!r} (it has {has}); name the field with `field: ...`"
    raise ScenarioError(message, file=prompt.path, line=number)
