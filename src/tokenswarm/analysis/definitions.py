"""What each figure means, in one sentence; report.html prints them."""

DEFINITIONS: dict[str, str] = {
    "TTFT": "time to first token: from the first byte of the request handed to the socket to the "
    "first content, reasoning or tool call; a role-only chunk or a ping is no token",
    "user TTFT": "the same from the moment when the schedule wanted the request sent, so that "
    "waiting for a slot counts",
    "E2E": "from sent to the last token; a usage chunk or the end of the response is not a token",
    "TPOT": "(last token - first token) / (output tokens - 1), none below two tokens",
    "ITL": "gaps between token arrivals, pooled over all requests",
    "output tok/s": "tokens by arrival over the run without drain, each request scaled to the "
    "server's own count",
    "goodput": "requests that met every SLO of their model, per second of load; in brackets their "
    "share of all requests, failed ones included",
    "cold out": "the share of warm requests that are goodput: cold ones left out on both sides",
    "percentiles": "nearest rank, ceil(p x n), over requests that ended ok; n is given beside "
    "them; nothing is averaged",
    "cold start": "demand brought a model into device memory",
    "swap": "a cold start that displaced another model",
    "swap latency": "from the sending of the request that caused it to that request's first token",
    "penalty": "TTFT of that request minus the warm median of its model and prompt length",
    "swap tax": "share of the time under load in which a model was coming in and no token of "
    "anybody came for a quarter of a second or more",
    "swap trigger": "the earliest request for the model that came in",
    "swap waiter": "another request for it, sent between demand (t0) and ready (t4), unless it was "
    "still served before the load began",
    "swap collateral": "a request for another model that overlaps [t0, t4] and whose wait for the "
    "first token, or longest stall, exceeds max(50 ms, 3 x its model's warm P99)",
    "warm": "every other request",
    "confidence": "confirmed: two of client, engine and GPU saw it; probable: the engine alone; "
    "hint: client or GPU alone",
    "warm-up": "requests labelled warm-up are in every figure: cold data is never deleted",
}
