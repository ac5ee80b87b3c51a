"""Scenario files: what is read, and how each wrong file is refused."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenswarm.errors import ScenarioError
from tokenswarm.scenario.load import from_dict, load, parse, published, resolve, to_dict
from tokenswarm.scenario.model import (
    ClosedLoad,
    FilePrompt,
    InlinePrompt,
    Model,
    OpenLoad,
    Output,
    Prompt,
    Scenario,
    Slo,
    Spread,
    SyntheticPrompt,
    Target,
    TextPrompt,
)

# lines 1 to 8; what a row of the table adds begins on line 9, inside the first model
BASE = """\
name: two
targets:
  box: {api: ollama, url: "http://h:1"}
  lab: {api: openai, url: "http://h:2/base"}
models:
  - name: a
    target: box
    model: "a:1b"
"""

# (what follows BASE, line, path, parts of the message)
BAD_TAILS = [
    # unknown keys, at each depth, with the nearest known one
    ("    wieght: 2", 9, "$.models[0].wieght", ["'wieght'", "did you mean 'weight'"]),
    ("    output:\n      tokns: 2", 10, "$.models[0].output.tokns", ["did you mean 'tokens'"]),
    ("    output: {tokens: {mean: 3, sdt: 1}}", 9, "$.models[0].output.tokens.sdt", ["'std'"]),
    ("load: {kind: open, rat: 1}", 9, "$.load.rat", ["did you mean 'rate'"]),
    ("zzz: 1", 9, "$.zzz", ["'zzz'", "known here: name, targets, models"]),
    # choices
    ("    endpoint: chta", 9, "$.models[0].endpoint", ["'chta'", "did you mean 'chat'"]),
    ("    prompt: {kind: txt}", 9, "$.models[0].prompt.kind", ["'txt'", "did you mean 'text'"]),
    ("mix: {order: lifo}", 9, "$.mix.order", ["'lifo'", "weighted", "markov"]),
    # missing keys
    ("    prompt: {text: hi}", 9, "$.models[0].prompt", ["'kind'", "synthetic | text | file"]),
    ("load: {kind: open}", 9, "$.load", ["key 'rate' is missing", "add `rate: ...`"]),
    ("  - {name: b, target: box}", 9, "$.models[1]", ["key 'model' is missing"]),
    # types
    ("    prompt: hi", 9, "$.models[0].prompt", ["'hi'", "give a mapping"]),
    ("seed: 1.5", 9, "$.seed", ["1.5", "give a whole number"]),
    ("load: {kind: open, rate: 1e3}", 9, "$.load.rate", ["'1e3'", "write 1000.0 without quotes"]),
    ("    system: 12", 9, "$.models[0].system", ["12", "put it in quotes"]),
    ("    weight: true", 9, "$.models[0].weight", ["True", "give a number"]),
    ("    options: {stop: [1]}", 9, "$.models[0].options.stop[0]", ["1", "put it in quotes"]),
    ("duration_s: 2024-01-01", 9, "$.duration_s", ["a date", "give a number"]),
    # numbers that JSON cannot carry
    ("load: {kind: open, rate: .nan}", 9, "$.load.rate", ["nan", "give one between"]),
    ("drain_s: .inf", 9, "$.drain_s", ["inf", "give one between"]),
    ("seed: 9007199254740993", 9, "$.seed", ["9007199254740993", "2**53"]),
    # keys
    ("    weight: 1\n    weight: 2", 10, "$.models[0].weight", ["line 9", "keep one"]),
    ("on: 1", 9, "$.on", ["'on'", "not text", "quotes"]),
    # names
    ("  - {name: a, target: box, model: m}", 9, "$.models[1].name", ["'a'", "models[0]"]),
    ("  - {name: A b, target: box, model: m}", 9, "$.models[1].name", ["'A b'", "a-z"]),
    ("  - {name: none, target: box, model: m}", 9, "$.models[1].name", ["'none'", "another"]),
    ("  - {name: b, target: bx, model: m}", 9, "$.models[1].target", ["'bx'", "'box'"]),
    ("  - {name: b, target: box, model: ''}", 9, "$.models[1].model", ["''", "empty"]),
    # weights
    ("    weight: -1", 9, "$.models[0].weight", ["-1", "0 or more"]),
    ("    weight: 0", 9, "$.models[0].weight", ["every weight is 0", "above 0"]),
    # endpoints and keep_alive of the api
    (
        "  - {name: b, target: lab, model: m, endpoint: generate}",
        9,
        "$.models[1].endpoint",
        ["'generate'", "api openai", "chat, completions, embeddings"],
    ),
    (
        "  - {name: b, target: lab, model: m, keep_alive: 5m}",
        9,
        "$.models[1].keep_alive",
        ["api openai", "remove it"],
    ),
    ("    keep_alive: 5 minutes", 9, "$.models[0].keep_alive", ["'5 minutes'", "'5m'"]),
    # options that a key sets
    ("    options: {num_predict: 5}", 9, "$.models[0].options.num_predict", ["output.tokens"]),
    # prompts
    ("    prompt: {kind: text, text: ' '}", 9, "$.models[0].prompt.text", ["' '", "empty"]),
    ("    prompt: {kind: inline, texts: []}", 9, "$.models[0].prompt.texts", ["at least one"]),
    ("    system: ''", 9, "$.models[0].system", ["''", "leave the key out"]),
    ("    prompt: {kind: synthetic, tokens: 0}", 9, "$.models[0].prompt.tokens", ["0", "1 to"]),
    # lengths
    ("    output: {tokens: {mean: 9, std: -1}}", 9, "$.models[0].output.tokens.std", ["-1"]),
    ("    output: {tokens: {mean: 9, min: 0}}", 9, "$.models[0].output.tokens.min", ["0", "1"]),
    (
        "    output: {tokens: {mean: 9, min: 20, max: 10}}",
        9,
        "$.models[0].output.tokens.min",
        ["20", "above max, 10"],
    ),
    (
        "    output: {tokens: {mean: 9, min: 10, max: 20}}",
        9,
        "$.models[0].output.tokens.mean",
        ["9", "[10, 20]"],
    ),
    (
        "    output: {tokens: {mean: 9, max: 2000000}}",
        9,
        "$.models[0].output.tokens.max",
        ["2000000", "at most 1000000"],
    ),
    # SLOs
    ("    slo: {}", 9, "$.models[0].slo", ["without a figure", "ttft_s"]),
    ("    slo: {ttft_s: 0}", 9, "$.models[0].slo.ttft_s", ["0", "more than 0"]),
    # load
    ("load: {kind: closed, users: 0}", 9, "$.load.users", ["0", "1 or more"]),
    ("load: {kind: closed, think_s: -1}", 9, "$.load.think_s", ["-1", "0 or more"]),
    ("load: {kind: open, rate: 0}", 9, "$.load.rate", ["0", "more than 0"]),
    ("load: {kind: open, rate: 1.0e+9}", 9, "$.load.rate", ["1e+09", "or less"]),
    (
        "load: {kind: open, rate: 1, burstiness: 2}",
        9,
        "$.load.burstiness",
        ["2", "poisson", "arrivals: gamma"],
    ),
    (
        "load: {kind: open, rate: 1, arrivals: gamma, burstiness: 0}",
        9,
        "$.load.burstiness",
        ["0", "more than 0"],
    ),
    ("load: {kind: open, rate: 1, max_in_flight: 0}", 9, "$.load.max_in_flight", ["1 or more"]),
    # times
    ("duration_s: 0", 9, "$.duration_s", ["0", "more than 0"]),
    ("drain_s: -1", 9, "$.drain_s", ["-1", "0 or more"]),
    ("duration_s: 5\nwarmup_s: 5", 10, "$.warmup_s", ["5 s", "duration_s longer"]),
    ("max_requests: 0", 9, "$.max_requests", ["0", "1 or more"]),
    ("seed: -1", 9, "$.seed", ["-1", "0 or more"]),
    # telemetry and gates
    ("telemetry: {gpu: {interval_s: 0.001}}", 9, "$.telemetry.gpu.interval_s", ["0.01 or"]),
    ("telemetry: {agents: [gpu]}", 9, "$.telemetry.agents[0]", ["'gpu'", "HOST:PORT"]),
    ("gates: [' ']", 9, "$.gates[0]", ["' '", "write one such as"]),
]

# (the target, path below $.targets, parts of the message)
BAD_TARGETS = [
    ("bad: {api: olama, url: 'http://h'}", ".bad.api", ["'olama'", "did you mean 'ollama'"]),
    ("bad: {api: ollama}", ".bad", ["key 'url' is missing"]),
    ("bad: {api: ollama, url: 'h:1'}", ".bad.url", ["'h:1'", "http://"]),
    ("bad: {api: ollama, url: 'ftp://h'}", ".bad.url", ["'ftp://h'", "http://"]),
    ("bad: {api: ollama, url: 'http://'}", ".bad.url", ["'http://'", "host"]),
    ("bad: {api: ollama, url: 'http://h:70000'}", ".bad.url", ["70000", "no URL"]),
    ("bad: {api: ollama, url: 'http://h h'}", ".bad.url", ["host"]),
    ("bad: {api: ollama, url: 'http://h/?a=1'}", ".bad.url", ["before any ?"]),
    ("bad: {api: ollama, url: 'http://h', engine: v L}", ".bad.engine", ["'v L'", "a-z"]),
    ("bad: {api: ollama, url: 'http://h', idle_timeout_s: 0}", ".bad.idle_timeout_s", ["0"]),
    ("bad: {api: ollama, url: 'http://h', headers: {A: 1}}", ".bad.headers.A", ["quotes"]),
    ('bad: {api: ollama, url: "http://h", headers: {A: "x\\ny"}}', ".bad.headers.A", ["break"]),
    ("bad: {api: ollama, url: 'http://h', headers: {A b: x}}", ".bad.headers.A b", ["'A b'"]),
    ("bad: {api: ollama, url: 'http://h', headers: {Host: x}}", ".bad.headers.Host", ["remove"]),
    ("Bad: {api: ollama, url: 'http://h'}", ".Bad", ["'Bad'", "a-z"]),
    # a target named like a key of the model
    ("headers: {api: ollama, url: 5}", ".headers.url", ["5", "quotes"]),
]

# (the target, a secret in it, path below $.targets)
SECRETS = [
    ("bad: {api: ollama, url: 'http://u:s3cret@h'}", "s3cret", ".bad.url"),
    ("bad: {api: ollama, url: 's3cret@h'}", "s3cret", ".bad.url"),
    ("bad: {api: ollama, url: 'http://h/?key=s3cret'}", "s3cret", ".bad.url"),
    ("bad: {api: ollama, url: 'http://h', api_key_env: sk-s3cret}", "s3cret", ".bad.api_key_env"),
    (
        "bad: {api: ollama, url: 'http://h', headers: {Authorization: s3cret}}",
        "s3cret",
        ".bad.headers.Authorization",
    ),
    ("bad: {api: ollama, url: 'http://h', headers: {X-Key: 53217}}", "53217", ".bad.headers.X-Key"),
]


def refused(text: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "f.yaml", Path("/nowhere"))
    return caught.value


def with_target(target: str) -> str:
    return BASE.replace("models:\n", f"  {target}\nmodels:\n")


@pytest.mark.parametrize(("tail", "line", "path", "parts"), BAD_TAILS)
def test_a_wrong_file_is_refused_with_line_path_value_and_way_out(
    tail: str, line: int, path: str, parts: list[str]
) -> None:
    error = refused(BASE + tail + "\n")
    assert (error.file, error.line, error.path) == ("f.yaml", line, path)
    assert str(error).startswith(f"f.yaml:{line}: {path}: ")
    assert all(part in str(error) for part in parts), str(error)


@pytest.mark.parametrize(("target", "path", "parts"), BAD_TARGETS)
def test_a_wrong_target_is_refused_with_its_own_line(
    target: str, path: str, parts: list[str]
) -> None:
    error = refused(with_target(target))
    assert (error.line, error.path) == (5, f"$.targets{path}")
    assert all(part in str(error) for part in parts), str(error)


@pytest.mark.parametrize(("target", "secret", "path"), SECRETS)
def test_a_secret_in_a_file_is_refused_and_not_repeated(
    target: str, secret: str, path: str
) -> None:
    error = refused(with_target(target))
    assert error.path == f"$.targets{path}"
    assert secret not in str(error)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("", None, "empty"),  # nothing
        ("# only a remark\n", None, "empty"),
        ("name: [", 1, "not valid YAML"),  # an open bracket
        ("name: a\n\tb: 1\n", 2, "not valid YAML"),  # a tab
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),  # two documents
        ("name: !!python/object/apply:os.getpid []\n", 1, "constructor"),  # code
        ("name: *x\n", 1, "undefined alias"),
        ("? [a]\n: 1\n", 1, "not valid YAML"),  # a key that is a list
        ("name: \x07\n", None, "not valid YAML"),  # not a printable character
        ("seed: " + "9" * 5000, None, "put it in quotes"),  # Python refuses to read it
        ("- " * 2000, None, "nested too deeply"),
        ("a: &a [*a]\n", None, "aliases"),  # a cycle
        ("- a\n- b\n", 1, "give a mapping"),  # a list
        ("#" * (1 << 20) + "\n", None, "at most 1048576"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused(text: str, line: int | None, part: str) -> None:
    error = refused(text)
    assert error.line == line
    assert part in str(error)


def test_aliases_that_multiply_are_refused_before_they_are_expanded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases expand" in str(refused("\n".join(lines)))


def test_merged_keys_are_read_and_a_wrong_one_is_found_where_it_stands() -> None:
    text = BASE + "    output: &short {tokens: 5}\n  - &b {name: b, target: box, model: m}\n"
    merged = parse(text + "  - {<<: *b, name: c, output: *short}\n")
    assert (merged.models[2].model, merged.models[2].output) == ("m", Output(tokens=5))
    error = refused(text.replace("model: m", "model: m, weight: -1") + "  - {<<: *b, name: c}\n")
    assert (error.line, error.path) == (10, "$.models[1].weight")


def test_a_message_shows_no_more_than_the_beginning_of_a_long_value() -> None:
    error = refused(BASE + f"    prompt: {'x' * 5000}\n")
    assert len(str(error)) < 200


def test_defaults_are_filled_in() -> None:
    scenario = parse(BASE)
    assert scenario.models[0] == Model(name="a", target="box", model="a:1b")
    assert scenario.load == ClosedLoad(users=1)
    assert scenario.targets["lab"] == Target(api="openai", url="http://h:2/base")


def test_an_ollama_target_takes_every_endpoint() -> None:
    for endpoint in ("chat", "generate", "completions", "embeddings"):
        assert parse(BASE + f"    endpoint: {endpoint}\n").models[0].endpoint == endpoint


@pytest.mark.parametrize("value", ["5m", "1h30m", "-1m", "0.5s", -1, 0, 300, 1.5])
def test_keep_alive_takes_go_durations_and_seconds(value: str | float) -> None:
    assert parse(BASE + f"    keep_alive: {value}\n").models[0].keep_alive == value


def test_a_missing_file_is_named_with_the_nearest_there_is(tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(BASE)
    with pytest.raises(ScenarioError, match=r"mix\.yml: no such file.*did you mean .*mix\.yaml"):
        load(tmp_path / "mix.yml")
    with pytest.raises(ScenarioError, match="is a directory"):
        load(tmp_path)


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: a\n# caf\xe9\n")
    with pytest.raises(ScenarioError, match=r"latin\.yaml:2: not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_a_file_beyond_the_bound_is_refused_without_reading_it_whole(tmp_path: Path) -> None:
    with (tmp_path / "big.yaml").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ScenarioError, match="at most 1048576"):
        load(tmp_path / "big.yaml")


# -- prompt files

PROMPTS = [
    # a line is a prompt; empty ones are skipped, other separators stay inside
    ("p.txt", b"one\n\n  \ntwo\r\nthr\xe2\x80\xa8ee", "prompt", ["one", "two", "thr\u2028ee"]),
    # a byte order mark
    ("p.txt", b"\xef\xbb\xbfone\n", "prompt", ["one"]),
    # JSON lines
    ("p.jsonl", b'{"prompt": "one"}\n\n{"prompt": "t\\nwo", "x": 1}\n', "prompt", ["one", "t\nwo"]),
    # another field
    ("p.jsonl", b'{"q": "one", "prompt": "no"}\n', "q", ["one"]),
]

BAD_PROMPTS = [
    ("p.txt", None, ["p.txt: no such file", "relative to the scenario"]),
    ("p.txt", b"\n \n", ["p.txt: no prompt", "write one a line"]),
    ("p.txt", b"ok\n\xff\n", ["p.txt:2: not UTF-8"]),
    (
        "p.jsonl",
        b'{"prompt": "a"}\n\n{"text": "b"}\n',
        ["p.jsonl:3", "'prompt'", "'text'", "field"],
    ),
    ("p.jsonl", b'{"prompt": "a"}\n{"prompt": 5}\n', ["p.jsonl:2", "'prompt'"]),
    ("p.jsonl", b'{"prompt": " "}\n', ["p.jsonl:1", "'prompt'"]),
    ("p.jsonl", b'["a"]\n', ["p.jsonl:1", "no object"]),
    ("p.jsonl", b'{"prompt": "a"}\n{"prompt"\n', ["p.jsonl:2: not JSON"]),
]


@pytest.mark.parametrize(("name", "content", "field", "texts"), PROMPTS)
def test_a_prompt_file_is_read_when_resolved(
    tmp_path: Path, name: str, content: bytes, field: str, texts: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    file = tmp_path / "s.yaml"
    file.write_text(BASE + f"    prompt: {{kind: file, path: {name}, field: {field}}}\n")
    scenario = load(file)
    assert scenario.models[0].prompt == FilePrompt(path=name, field=field)
    assert resolve(scenario, tmp_path).models[0].prompt == InlinePrompt(texts=texts)


@pytest.mark.parametrize(("name", "content", "parts"), BAD_PROMPTS)
def test_a_wrong_prompt_file_is_refused_with_its_own_line(
    tmp_path: Path, name: str, content: bytes | None, parts: list[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        parse(BASE + f"    prompt:\n      kind: file\n      path: {name}\n", "f.yaml", tmp_path)
    assert (caught.value.line, caught.value.path) == (11, "$.models[0].prompt.path")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_prompt_file_must_be_a_file_of_bounded_size(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)  # sparse
    for name, part in (("dir", "not a file"), ("big", "at most 16777216")):
        with pytest.raises(ScenarioError, match=part):
            parse(BASE + f"    prompt: {{kind: file, path: {name}}}\n", "", tmp_path)


# -- to and from data

SLUGS = st.from_regex(r"[a-z0-9_-]{1,12}", fullmatch=True).filter(lambda name: name != "none")
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
LENGTHS = st.integers(1, 1000) | st.builds(
    Spread, mean=st.floats(10, 20), std=st.floats(0, 9), min=st.just(1), max=st.just(40)
)
INLINE: st.SearchStrategy[Prompt] = st.builds(
    InlinePrompt, texts=st.lists(TEXTS, min_size=1, max_size=3)
)
ANY_PROMPT = INLINE | st.builds(SyntheticPrompt, tokens=LENGTHS) | st.builds(TextPrompt, text=TEXTS)
LOADS = st.builds(ClosedLoad, users=st.integers(1, 99), think_s=st.floats(0, 9)) | st.builds(
    OpenLoad,
    rate=st.floats(0.1, 99),
    arrivals=st.just("gamma"),
    burstiness=st.floats(0.1, 9),
)
OPTIONS = st.dictionaries(
    st.sampled_from(["temperature", "stop", "seed", "raw", "format"]),
    st.floats(0, 2) | st.integers(0, 9) | st.booleans() | st.lists(TEXTS, max_size=2) | TEXTS,
)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    names = draw(st.lists(SLUGS, min_size=1, max_size=3, unique=True))
    models = [
        Model(
            name=name,
            target="t",
            model=draw(TEXTS),
            weight=draw(st.floats(0.1, 9)),
            prompt=draw(ANY_PROMPT),
            output=Output(tokens=draw(LENGTHS)),
            options=draw(OPTIONS),
            slo=draw(st.none() | st.builds(Slo, ttft_s=st.floats(0.1, 9))),
        )
        for name in names
    ]
    target = Target(api="ollama", url="http://[::1]:1", headers={"X-A": "secret"})
    return Scenario(
        name=draw(SLUGS),
        targets={"t": target},
        models=models,
        load=draw(LOADS),
        seed=draw(st.integers(0, 2**53)),
    )


@given(scenarios())
def test_a_scenario_survives_the_way_through_json_and_msgpack(scenario: Scenario) -> None:
    data = to_dict(scenario)
    assert from_dict(data) == scenario
    assert from_dict(msgspec.json.decode(msgspec.json.encode(data))) == scenario
    assert from_dict(msgspec.msgpack.decode(msgspec.msgpack.encode(data))) == scenario


def test_data_that_is_no_scenario_is_refused() -> None:
    data = to_dict(parse(BASE))
    data["models"][0]["weight"] = -1
    with pytest.raises(ScenarioError, match=r"^\$\.models\[0\]\.weight: -1 is out of range"):
        from_dict(data)
    with pytest.raises(ScenarioError, match="give a mapping"):
        from_dict(["a"])


def test_what_is_published_has_no_header_values() -> None:
    scenario = parse(with_target("key: {api: ollama, url: 'http://h', headers: {X-Key: s3cret}}"))
    assert "s3cret" not in str(published(scenario))
    assert published(scenario)["targets"]["key"]["headers"] == {"X-Key": "***"}
