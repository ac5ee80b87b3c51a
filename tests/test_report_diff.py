"""Two runs side by side: equal ones differ by noise, different ones do not."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.synthetic_run import manifest, request, scenario, story, write_run
from tests.test_analysis_run import small
from tests.written_summary import HOSTILE
from tokenswarm.analysis.bootstrap import (
    DRAWS,
    enough,
    histogram,
    interval,
    mean_draws,
    percentile_draws,
    share_draws,
)
from tokenswarm.analysis.compare import Comparison, Difference, Unlike
from tokenswarm.analysis.percentiles import nearest_rank
from tokenswarm.errors import UsageError
from tokenswarm.report.diff import FORMS, compared


def found(c: Comparison, model: str, stratum: str, figure: str) -> Difference:
    (d,) = [d for d in c.differences if (d.model, d.stratum, d.figure) == (model, stratum, figure)]
    return d


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of the same kind, and one with room for all models."""
    made = []
    for i, (seed, slots) in enumerate([(1, 2), (2, 2), (3, 3)]):
        told = story(seed=seed, slots=slots, users=6, duration_s=60)
        facts = manifest(told, seed=seed)
        made.append(write_run(tmp_path_factory.mktemp(f"run{i}"), told, facts).path)
    return made


def test_a_run_does_not_differ_from_itself(runs: list[Path]) -> None:
    c = compared(runs[0], runs[0])
    assert c.real == []
    assert c.unlike == []
    assert len(c.judged) > 20
    assert all(d.a == d.b and d.n_a == d.n_b for d in c.differences)


def test_room_for_all_models_stands_out_and_is_better(runs: list[Path]) -> None:
    c = compared(runs[0], runs[2])
    for figure in ("ttft_s.p50", "ttft_s.p95", "e2e_s.p95"):
        d = found(c, "tinyllama", "all", figure)
        assert (d.says, d.better) == ("lower", True)
        assert d.low is not None
        assert d.high is not None
        assert d.low < (d.b or 0) - (d.a or 0) < d.high < 0
    assert found(c, "tinyllama", "all", "output_tok_s").better
    swaps = found(c, "", "all", "swaps.per_minute")
    assert (swaps.b, swaps.says, swaps.better) == (0, "lower", True)
    assert found(c, "tinyllama", "all", "itl_s.p50").says == "noise"  # decoding is as fast


def test_figures_are_those_of_the_summary(runs: list[Path]) -> None:
    c = compared(runs[0], runs[1])
    models = msgspec.json.decode((runs[0] / "summary.json").read_bytes())["models"]
    for name, m in models.items():
        for figure in ("ttft_s", "e2e_s", "tpot_s", "itl_s"):
            for point in ("p50", "p95"):
                d = found(c, name, "all", f"{figure}.{point}")
                assert (d.a, d.n_a) == (m[figure][point], m[figure]["n"])
        for stratum, s in m["strata"].items():
            if s["requests"]:
                assert found(c, name, stratum, "requests").a == s["requests"]
                assert found(c, name, stratum, "ttft_s.p95").a == s["ttft_s"]["p95"]
        assert found(c, name, "all", "output_tok_s").a == m["output_tok_s"]


def test_the_same_runs_give_the_same_intervals(runs: list[Path]) -> None:
    assert compared(runs[0], runs[1]) == compared(runs[0], runs[1])


def test_what_is_not_alike_is_named(runs: list[Path], tmp_path: Path) -> None:
    assert [u.what for u in compared(runs[0], runs[1]).unlike] == ["seed"]
    told = story(seed=1, users=6, duration_s=60)
    other = manifest(
        told, seed=1, tokenswarm="9.9", host="elsewhere",
        scenario=scenario(load={"kind": "closed", "users": 99}),
        targets={"box": {"engine": "ollama", "version": "1.0", "simulated": True}},
    )  # fmt: skip
    run = write_run(tmp_path, told, other)
    wanted = {"tokenswarm", "host", "load", "engines", "settings"}
    assert {u.what for u in compared(runs[0], run.path).unlike} == wanted


def test_few_requests_are_too_few_to_tell_and_none_are_nothing(tmp_path: Path) -> None:
    few = small(*(request("tinyllama", float(i), 0.1 + i / 100) for i in range(12)))
    c = compared(write_run(tmp_path / "a", few).path, write_run(tmp_path / "b", few).path)
    assert found(c, "tinyllama", "all", "ttft_s.p50").says == "noise"
    assert found(c, "tinyllama", "all", "ttft_s.p95").says == "too_few"
    d = found(c, "", "all", "swaps.latency_s.p50")
    assert (d.a, d.b, d.says, d.low) == (None, None, "nothing", None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_shows_figures_and_stays_text(runs: list[Path], form: str) -> None:
    c = compared(runs[0], runs[2])
    c = msgspec.structs.replace(c, unlike=[Unlike("host", HOSTILE, "b|c")])
    made = FORMS[form](c)
    assert "ttft" in made
    assert "\x1b" not in made
    if form == "json":
        assert msgspec.json.decode(made, type=Comparison) == c
    else:
        assert "stand out" in made
        assert "lower" in made
    if form == "markdown":
        assert "<script" not in made.replace("\\<script", "")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(UsageError, match="give the directory of one run"):
        compared(runs[0], tmp_path)


# -- the intervals themselves ---------------------------------------------------------------------
def test_percentiles_drawn_by_rank_are_those_of_samples_drawn_one_by_one() -> None:
    rng = np.random.default_rng(7)
    values = np.sort(rng.lognormal(0, 1, 60))
    drawn = np.sort(percentile_draws(values, 0.9, rng))
    samples = values[rng.integers(0, 60, (DRAWS, 60))]
    plain = np.sort([nearest_rank(row, 0.9) or 0.0 for row in samples])
    for q in (0.025, 0.25, 0.5, 0.75, 0.975):
        at = int(q * DRAWS)
        # as ranks among the values: both distributions are over the same sixty
        a, b = np.searchsorted(values, drawn[at]), np.searchsorted(values, plain[at])
        assert abs(int(a) - int(b)) <= 1


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_runs_of_the_same_kind_stand_out_as_seldom_as_promised(p: float) -> None:
    rng = np.random.default_rng(11)
    out = 0
    for _ in range(400):
        a, b = (np.sort(rng.lognormal(0, 0.5, 200)) for _ in range(2))
        found = interval(percentile_draws(a, p, rng), percentile_draws(b, p, rng), 0.95)
        out += not found.low <= 0 <= found.high
    assert out <= 0.08 * 400  # 0.05 were it perfect


def test_a_shift_larger_than_the_noise_is_found() -> None:
    rng = np.random.default_rng(3)
    a = np.sort(rng.normal(1.0, 0.1, 500))
    found = interval(percentile_draws(a, 0.5, rng), percentile_draws(a + 0.05, 0.5, rng), 0.95)
    assert 0.02 < found.low < 0.05 < found.high < 0.08
    shares = interval(share_draws(990, 1000, rng), share_draws(900, 1000, rng), 0.95)
    assert shares.high < -0.05
    blocks = rng.normal(100, 5, 50)
    means = interval(mean_draws(blocks, rng), mean_draws(blocks + 10, rng), 0.95)
    assert 5 < means.low < 10 < means.high < 15


def test_gaps_of_one_request_are_drawn_together() -> None:
    rng = np.random.default_rng(5)
    usual = np.repeat(rng.lognormal(np.log(10_000), 0.3, 50), 100)  # each request has its own pace
    gaps = np.asarray(usual, dtype=np.int64)
    requests = histogram(gaps, np.repeat(np.arange(50), 100), 50)
    alone = histogram(gaps, np.arange(5000), 5000)
    assert requests is not None
    assert alone is not None
    spread = [float(np.std(h.draws(0.5, rng))) for h in (requests, alone)]
    assert spread[0] > 3 * spread[1]
    middle = float(np.median(requests.draws(0.5, rng)))
    assert middle == pytest.approx(float(np.median(gaps)) / 1e6, rel=0.1)
    assert histogram(gaps[:0], gaps[:0], 1) is None


@pytest.mark.parametrize(
    ("n", "p", "told"),
    [(9, 0.5, False), (10, 0.5, True), (59, 0.95, False), (60, 0.95, True), (300, 0.99, True)],
)
def test_a_percentile_needs_values_beyond_it(n: int, p: float, told: bool) -> None:
    assert enough(n, p) == told
