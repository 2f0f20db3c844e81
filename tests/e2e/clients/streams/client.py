"""Begins COUNT streams, one after the other, and prints one JSON object: the milliseconds between the sending of each
one's first piece and its arrival. Proxy and CA come from the environment.

Usage: client.py sse|websocket|grpc PORT COUNT
"""

import asyncio
import json
import queue
import sys
import time

way, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def since(sent):
    return (time.monotonic_ns() - int(sent)) / 1e6


async def by_aiohttp():
    import aiohttp
    import yarl

    took = []
    async with aiohttp.ClientSession(trust_env=True) as session:
        for _ in range(count):
            if way == "sse":
                async with session.get(f"https://localhost:{port}/events") as answer:
                    line = await answer.content.readuntil(b"\n\n")
                    took.append(since(line.split()[1]))
                    answer.close()
                continue
            # A session of its own asks for the proxy's environment only with HTTP's methods.
            proxy = aiohttp.helpers.get_env_proxy_for_url(yarl.URL(f"https://localhost:{port}"))[0]
            async with session.ws_connect(f"https://localhost:{port}/socket", proxy=proxy) as socket:
                await socket.send_str("time")
                took.append(since((await socket.receive()).data))
                await socket.send_str("x" * 100_000)
                assert len((await socket.receive()).data) == 100_000
    return took


def by_grpc():
    import os

    import grpc

    with open(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"], "rb") as roots:
        credentials = grpc.ssl_channel_credentials(roots.read())
    took = []
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        first = channel.unary_stream("/t.Streams/First")
        for _ in range(count):
            answer = first(b"")
            took.append(since(next(answer)))
            answer.cancel()

        # Both ways at once: each answer is awaited before the next message is sent.
        class Messages:
            def __init__(self):
                self.turn = queue.Queue()

            def __iter__(self):
                return iter(self.turn.get, None)

        messages = Messages()
        echo = channel.stream_stream("/t.Streams/Echo")(iter(messages))
        for i in range(20):
            message = bytes([i]) * (i * 5000 + 1)
            messages.turn.put(message)
            assert next(echo) == message
        messages.turn.put(None)
        assert next(echo, None) is None
        assert echo.code() is grpc.StatusCode.OK
    return took


took = by_grpc() if way == "grpc" else asyncio.run(by_aiohttp())
print(json.dumps({"milliseconds": took}))
