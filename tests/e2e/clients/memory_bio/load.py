"""Asks BASE/0 to BASE/COUNT-1, AT_ONCE at a time, half of them over kept connections. Usage: load.py BASE CA COUNT
AT_ONCE"""

import asyncio
import ssl
import sys

import aiohttp

BASE, CA = sys.argv[1:3]
COUNT, AT_ONCE = map(int, sys.argv[3:])


async def main():
    context = ssl.create_default_context(cafile=CA)
    room = asyncio.Semaphore(AT_ONCE)
    kept, fresh = aiohttp.TCPConnector(limit=0), aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=kept) as first, aiohttp.ClientSession(connector=fresh) as second:

        async def ask(number):
            async with room, (first, second)[number // 2 % 2].get(f"{BASE}/{number}", ssl=context) as answer:
                assert answer.status == 200 and await answer.text() == f"this is {answer.url.path}\n"

        await asyncio.gather(*map(ask, range(COUNT)))


asyncio.run(main())
