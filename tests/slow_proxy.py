"""A link that is far away: `python -m tests.slow_proxy LISTEN_IP PORT TO_IP PORT`.

Every byte is 20 ms on its way, and every other second everything stands still for 200 ms.
"""

import asyncio
import contextlib
import sys
import time

DELAY_S = 0.02
STALL_S = 0.2
STALL_EVERY_S = 2.0
CHUNK = 1 << 16


def arrival_s(sent_s: float) -> float:
    """When what was sent at `sent_s` comes out."""
    out_s = sent_s + DELAY_S
    into_s = out_s % STALL_EVERY_S
    return out_s + STALL_S - into_s if into_s < STALL_S else out_s


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass bytes on in order, each at its time; any number on the way."""
    way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            at_s, part = await way.get()
            await asyncio.sleep(max(at_s - time.monotonic(), 0))
            if not part:
                break
            sink.write(part)
            await sink.drain()

    delivery = asyncio.create_task(deliver())
    with contextlib.suppress(OSError):
        while part := await source.read(CHUNK):
            way.put_nowait((arrival_s(time.monotonic()), part))
    way.put_nowait((arrival_s(time.monotonic()), b""))
    with contextlib.suppress(OSError):
        await delivery
    sink.close()


async def serve(listen: tuple[str, int], to: tuple[str, int]) -> None:
    async def accept(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, forth = await asyncio.open_connection(*to)
        await asyncio.gather(pump(near, forth), pump(far, back))

    async with await asyncio.start_server(accept, *listen) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    ip, port, to_ip, to_port = sys.argv[1:]
    asyncio.run(serve((ip, int(port)), (to_ip, int(to_port))))
