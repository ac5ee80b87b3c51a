"""vllm bench's formulas on raw stamps, against results computed by hand."""

from pathlib import Path

import numpy as np
import pytest

from tests.synthetic_run import RUN_ID, Row, request
from tokenswarm.analysis.vllm import Spread, Stamps, VllmFigures, spread, vllm_figures
from tokenswarm.report.compat import by_model, vllm_text
from tokenswarm.store.rundir import RunDir
from tokenswarm.store.spool import Writer

# Four requests. Sent, first event (a role-only chunk in the first), first token, gaps, end:
#   A  0.0   0.2  0.3   then +0.1 +0.1         last 0.5   end 0.6   3 tokens, prompt 10
#   B  0.5   0.9  0.9   then +0.3              last 1.2   end 1.2   the server counts 4, prompt 20
#   C  1.0   1.5  1.5   one token              last 1.5   end 2.5   1 token, prompt 30
#   D  0.1   failed
ROWS: list[Row] = [
    request("m", 0.0, 0.3, 3, gaps_us=[0, 100_000, 100_000], t_first_event_s=0.2, t_end_s=0.6,
            t_last_token_s=0.5, prompt_tokens=10),
    request("m", 0.5, 0.4, 2, gaps_us=[0, 300_000], t_first_event_s=0.9, t_last_token_s=1.2,
            t_end_s=1.2, output_tokens=4, prompt_tokens=20),
    request("k", 1.0, 0.5, 1, gaps_us=[0], t_first_event_s=1.5, t_last_token_s=1.5, t_end_s=2.5,
            prompt_tokens=30),
    request("k", 0.1, None, end=9.0, status="error", error_kind="http", prompt_tokens=5),
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, RUN_ID)
    with Writer(made.spool, "w0") as writer:
        writer.append([("request", row) for row in ROWS])
    made.manifest.write_text("{}")
    return made


def close(s: Spread, **wanted: float) -> None:
    for name, value in wanted.items():
        assert getattr(s, name) == pytest.approx(value, abs=1e-6), name


def figures(run: RunDir) -> dict[str, VllmFigures]:
    vllm_text(run.path)  # makes the columns
    return by_model(run)


def test_ttft_is_taken_at_the_first_chunk_even_when_it_is_empty(run: RunDir) -> None:
    # A 200 (its token came at 300), B 400, C 500 ms
    close(figures(run)["all models"].ttft_ms, n=3, mean=1100 / 3, median=400, p90=480, p99=498)


def test_e2el_ends_at_the_last_chunk_and_not_at_the_responses_end(run: RunDir) -> None:
    # A 500, B 700, C 500 ms; population std: sqrt(((-66.7)^2 * 2 + 133.3^2) / 3)
    close(figures(run)["all models"].e2el_ms, n=3, mean=1700 / 3, median=500, std=94.280904)


def test_tpot_divides_by_the_servers_count_less_one_and_leaves_out_single_tokens(
    run: RunDir,
) -> None:
    # A (500 - 200) / 2 = 150, B (700 - 400) / 3 = 100
    close(figures(run)["all models"].tpot_ms, n=2, mean=125, median=125, std=25, p99=149.5)


def test_itl_pools_the_gaps_and_counts_the_one_after_an_empty_chunk(run: RunDir) -> None:
    # A 100 (role to token), 100, 100; B 300
    close(figures(run)["all models"].itl_ms, n=4, mean=150, median=100, p90=240, p99=294)


def test_throughput_is_over_all_the_time_of_what_succeeded(run: RunDir) -> None:
    f = figures(run)["all models"]
    assert (f.completed, f.failed, f.total_input_tokens, f.total_output_tokens) == (3, 1, 60, 8)
    assert f.duration == pytest.approx(2.5)  # 0.0 to 2.5: the failed one counts nowhere
    assert f.request_throughput == pytest.approx(1.2)
    assert f.output_throughput == pytest.approx(3.2)
    assert f.total_token_throughput == pytest.approx(27.2)
    # chunks at 0.2 0.3 0.4 0.5 0.9 in the first second, 1.2 1.5 in the next
    assert f.max_output_tokens_per_s == 5


def test_each_model_has_figures_of_its_own(run: RunDir) -> None:
    found = figures(run)
    assert list(found) == ["all models", "k", "m"]
    assert (found["k"].completed, found["k"].failed, found["m"].completed) == (1, 1, 2)
    assert found["k"].tpot_ms == Spread(0)
    assert found["m"].duration == pytest.approx(1.2)


def test_the_text_has_vllms_lines_and_a_dash_for_what_is_unknown(run: RunDir) -> None:
    lines = vllm_text(run.path).splitlines()
    assert "Mean TTFT (ms):                           366.67" in lines
    assert "Mean TPOT (ms):                           125.00" in lines
    assert "Mean TPOT (ms):                           -" in lines  # of k


def test_a_run_in_which_nothing_succeeded_has_no_figures_and_no_zeros() -> None:
    nothing, zero = np.zeros(1) * np.nan, np.zeros(1)
    failed = Stamps(
        np.array([False]), zero, nothing, nothing, nothing, zero + 1, zero, nothing,
        np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64),
    )  # fmt: skip
    f = vllm_figures(failed)
    assert (f.completed, f.failed) == (0, 1)
    assert (f.duration, f.output_throughput, f.max_output_tokens_per_s) == (None, None, None)
    assert f.ttft_ms == Spread(0)


def test_percentiles_interpolate_as_numpy_does() -> None:
    values = np.array([1.0, 2.0, 4.0, np.nan])
    assert spread(values).median == 2.0
    assert spread(values).p90 == pytest.approx(3.6)
