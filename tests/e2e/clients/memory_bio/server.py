"""What server.js is, by aiohttp. Usage: server.py CERTIFICATE KEY CA ORIGIN"""

import asyncio
import json
import ssl
import sys

import aiohttp
from aiohttp import web

CERTIFICATE, KEY, CA, ORIGIN = sys.argv[1:]
own = []  # its base, once it listens
CLIENT = ssl.create_default_context(cafile=CA)


def say(what):
    print(json.dumps(what), flush=True)


class NotedConnector(aiohttp.TCPConnector):
    """Says which connection a request gets: the answer may have given it back before its reader can look."""

    async def connect(self, request, *arguments, **options):
        connection = await super().connect(request, *arguments, **options)
        say({"path": request.url.path, "local_port": connection.transport.get_extra_info("sockname")[1]})
        return connection


async def ask(sessions, base, path, number):
    posts = number % 4 > 1
    session = sessions[number % 2]
    data = b"b" * number if posts else None
    async with session.request("POST" if posts else "GET", base + path, data=data, ssl=CLIENT) as answer:
        await answer.read()
        return answer.status


async def serve(request):
    say({"asked": request.path, "peer_port": request.transport.get_extra_info("peername")[1]})
    _, what, name, number = request.path.split("/")
    status = 200
    if what == "relay":
        status = await ask(request.app["sessions"], ORIGIN, f"/{name}/{number}", int(number))
    elif what == "self":
        status = await ask(request.app["sessions"], own[0], f"/leaf/{name}/{number}", int(number))
    return web.Response(status=status, text=f"this is {request.path}\n")


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, KEY)
    kept, fresh = NotedConnector(limit=20), NotedConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=kept) as first, aiohttp.ClientSession(connector=fresh) as second:
        app = web.Application()
        app["sessions"] = (first, second)
        app.router.add_route("*", "/{path:.*}", serve)
        runner = web.AppRunner(app, keepalive_timeout=3600)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context, backlog=1000).start()
        port = runner.addresses[0][1]
        own.append(f"https://localhost:{port}")
        say({"port": port})
        await asyncio.Event().wait()


asyncio.run(main())
