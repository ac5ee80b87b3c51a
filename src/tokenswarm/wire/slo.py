"""Did one request meet its SLO? Every figure that the SLO names must be met."""

from tokenswarm.scenario.model import Slo
from tokenswarm.wire.record import RequestRecord
from tokenswarm.wire.row import output_tokens
from tokenswarm.wire.times import derive


def met(slo: Slo | None, record: RequestRecord) -> bool | None:
    """None without an SLO; a failed request meets none; an undefined figure is not held against it
    only where it cannot exist (TPOT below two tokens)."""
    if slo is None:
        return None
    if record.ending.status != "ok":
        return False
    tokens, _ = output_tokens(record.counts)
    figures = derive(record.stamps, record.token_times[:1] + record.token_times[-1:], tokens)
    pairs = (
        (figures.ttft_s, slo.ttft_s),
        (figures.ttft_user_s, slo.ttft_user_s),
        (figures.tpot_s, slo.tpot_s),
        (figures.e2e_s, slo.e2e_s),
    )
    return all(limit is None or value is None or value <= limit for value, limit in pairs)
