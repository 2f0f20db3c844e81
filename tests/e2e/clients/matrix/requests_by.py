"""Usage: requests_by.py http.client|requests|aiohttp BASE CA COUNT; CA "-": what each trusts by itself.

Requests BASE/0 to BASE/COUNT-1, even ones by GET, odd ones by POST with i bytes: the first half over one connection,
the rest each over its own. What all programs of this folder do.
"""

import http.client
import ssl
import sys
import urllib.parse


def with_http_client(base, ca, count):
    url = urllib.parse.urlsplit(base)
    context = ssl.create_default_context(cafile=ca)

    def connect():
        return http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=30)

    kept = connect()
    for i in range(count):
        connection = kept if i < count // 2 else connect()
        connection.request("POST" if i % 2 else "GET", f"{url.path}/{i}", b"b" * i if i % 2 else None)
        assert connection.getresponse().read()
        if connection is not kept:
            connection.close()


def with_requests(base, ca, count):
    import requests

    kept = requests.Session()
    for i in range(count):
        session = kept if i < count // 2 else requests.Session()
        answer = session.request("POST" if i % 2 else "GET", f"{base}/{i}", data=b"b" * i if i % 2 else None, verify=ca or True)
        assert answer.status_code == 200 and answer.content


def with_aiohttp(base, ca, count):
    import asyncio

    import aiohttp

    context = ssl.create_default_context(cafile=ca)

    async def request(session, i):
        data = b"b" * i if i % 2 else None
        async with session.request("POST" if i % 2 else "GET", f"{base}/{i}", data=data, ssl=context) as answer:
            assert answer.status == 200 and await answer.read()

    async def main():
        async with aiohttp.ClientSession(trust_env=True) as kept:
            for i in range(count // 2):
                await request(kept, i)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=True) as fresh:
            await asyncio.gather(*(request(fresh, i) for i in range(count // 2, count)))

    asyncio.run(main())


if __name__ == "__main__":
    way = {"http.client": with_http_client, "requests": with_requests, "aiohttp": with_aiohttp}[sys.argv[1]]
    way(sys.argv[2], None if sys.argv[3] == "-" else sys.argv[3], int(sys.argv[4]))
