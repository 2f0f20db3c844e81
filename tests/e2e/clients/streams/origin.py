"""An origin of streams over TLS: /events (text/event-stream), /socket (WebSocket), and gRPC's /t.Streams/First and
/t.Streams/Echo. The first thing that each answer says is the time (CLOCK_MONOTONIC, ns) at which it was sent; then the
answer stays open until the client goes. Prints its two ports.

Usage: origin.py CERTIFICATE KEY
"""

import asyncio
import json
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from aiohttp import web

certificate, key = sys.argv[1:3]


def now():
    return str(time.monotonic_ns())


async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    await answer.write(f"data: {now()}\n\n".encode())
    try:
        while True:
            await asyncio.sleep(30)
            await answer.write(b": still here\n\n")
    except (ConnectionResetError, asyncio.CancelledError):
        return answer


async def socket(request):
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    async for message in answer:
        await answer.send_str(now() if message.data == "time" else message.data)
    return answer


class Streams(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/t.Streams/First":
            return grpc.unary_stream_rpc_method_handler(self.first)
        if details.method == "/t.Streams/Echo":
            return grpc.stream_stream_rpc_method_handler(self.echo)
        return None

    @staticmethod
    def first(request, context):
        yield now().encode()
        while context.is_active():
            time.sleep(0.01)

    @staticmethod
    def echo(requests, context):
        for request in requests:
            yield request


async def main():
    application = web.Application()
    application.add_routes([web.get("/events", events), web.get("/socket", socket)])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]

    server = grpc.server(ThreadPoolExecutor(8), handlers=[Streams()])
    with open(key, "rb") as key_file, open(certificate, "rb") as certificate_file:
        credentials = grpc.ssl_server_credentials([(key_file.read(), certificate_file.read())])
    grpc_port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(json.dumps({"port": port, "grpc_port": grpc_port}), flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
