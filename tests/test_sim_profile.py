"""Profiles, knobs and the small grammars of requests."""

from pathlib import Path
from typing import Any

import pytest

from tokenswarm.sim import knobs, profile
from tokenswarm.sim.asked import ApiError, Body, duration_s
from tokenswarm.sim.clock import Rfc3339
from tokenswarm.sim.knobs import ProfileError
from tokenswarm.sim.settings import KnobBoard

SMALL = """
name: small
doc: a test
gpu: {name: g, vram_total_bytes: 1000}
models: [{name: a, file_bytes: 10}]
"""


@pytest.mark.parametrize("name", profile.list_names())
def test_every_profile_of_the_package_loads_under_its_own_name(name: str) -> None:
    assert profile.load(name).name == name


def test_the_profiles_that_others_rely_on_are_there() -> None:
    assert {"rtx5090", "rtx5090-crowded", "steady"} <= set(profile.list_names())


def test_the_reference_models_add_what_the_study_measured() -> None:
    for name in ("rtx5090", "rtx5090-crowded"):
        read = profile.load(name)
        assert read.ollama is not None
        context = read.ollama.context_length
        added = [
            read.gpu.context_bytes
            + m.file_bytes
            + m.compute_bytes
            + m.kv_bytes_per_token * min(context, m.train_context) * read.ollama.num_parallel
            for m in read.models
        ]
        assert [round(x / 1e9, 2) for x in added] == [1.3, 2.9, 4.3]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("doc: a test", "dock: a test"), "dock"),  # an unknown key
        (("file_bytes: 10", "file_bytes: many"), "models"),  # a wrong type, with its place
        (("{name: a, file_bytes: 10}", ""), "at least one"),  # no model
        (("file_bytes: 10}", "file_bytes: 10}, {name: a, file_bytes: 1}"), "different names"),
        (("file_bytes: 10", "file_bytes: 10, knobs: {crfl: true}"), "crfl"),  # an unknown knob
        (("doc:", "ollama: {resident: [b]}\ndoc:"), "resident"),  # a model that is not there
        (("doc:", "co_tenants: [{name: t, vram_bytes: 1000}]\ndoc:"), "co-tenants"),  # no room
        (("gpu:", "gpu: ["), "profile"),  # not YAML
    ],
)
def test_a_wrong_profile_is_refused_with_the_place(
    tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(SMALL.replace(*change))
    with pytest.raises(ProfileError, match=says):
        profile.load(file)


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ProfileError, match="rtx5090-crowded"):
        profile.load("rtx9999")


def test_speed_divides_every_duration_and_multiplies_every_rate() -> None:
    slow, fast = profile.load("rtx5090"), profile.load("rtx5090").sped_up(4)
    assert slow.ollama is not None
    assert fast.ollama is not None
    assert fast.models[0].token_s == slow.models[0].token_s / 4
    assert fast.models[0].prefill_tokens_per_s == (slow.models[0].prefill_tokens_per_s or 0) * 4
    assert fast.host.disk_bytes_per_s == slow.host.disk_bytes_per_s * 4
    assert fast.ollama.poll_s == slow.ollama.poll_s / 4
    assert fast.gpu.vram_total_bytes == slow.gpu.vram_total_bytes
    assert fast.ollama.num_parallel == slow.ollama.num_parallel


def test_a_models_knobs_go_over_the_servers_and_can_be_replaced() -> None:
    board = KnobBoard(profile.load("chaos"), speed=2.0)
    board.replace(None, {"no_done": True})
    assert board.of("crlf") == knobs.Knobs(crlf=True, no_done=True)
    board.replace("crlf", {"no_done": False, "stall_at": {"token": 1, "for_s": 3.0}})
    assert not board.of("crlf").no_done
    assert board.of("crlf").stall_at == knobs.Stall(1, 1.5)
    board.replace(None, {})
    assert board.of("plain") == knobs.PLAIN


@pytest.mark.parametrize("bad", [{"crlf": "yes"}, {"nothing": 1}, {"fragment": 0}])
def test_a_wrong_knob_is_refused_and_changes_nothing(bad: dict[str, object]) -> None:
    board = KnobBoard(profile.load("chaos"), speed=1.0)
    with pytest.raises(ProfileError, match=next(iter(bad))):
        board.replace(None, bad)
    assert board.of("plain") == knobs.PLAIN


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("-1m", -60.0),  # negative: forever
        ("0", 0.0),  # the one number that needs no unit
    ],
)
def test_keep_alive_is_read_as_a_go_duration(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["10", "5 m", "m", "", "5x", "five"])
def test_what_go_refuses_as_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="invalid duration"):
        duration_s(text)


def test_keep_alive_as_a_number_is_seconds_and_negative_is_for_ever() -> None:
    says = [Body(keep_alive=k).keep_alive_s(speed=2.0) for k in (None, 10, 0, -3, "-1s")]
    assert says == [None, 5.0, 0.0, -1.0, -1.0]


def test_prompt_tokens_are_the_words_of_all_messages_and_parts() -> None:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "two words"}, {"type": "image_url"}]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": parts},
    ]
    assert Body(messages=messages).prompt_words() == 3
    assert Body(prompt=[1, 2, 3, 4]).prompt_words() == 4  # token ids
    assert Body(input=["a b", "c"]).prompt_words() == 3


def test_times_are_written_as_go_does() -> None:
    write = Rfc3339()
    assert write(1_795_369_240_030_801_780) == "2026-11-22T17:40:40.03080178Z"
    assert write(1_795_369_241_000_000_000) == "2026-11-22T17:40:41Z"
