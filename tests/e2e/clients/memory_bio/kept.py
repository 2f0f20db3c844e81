"""Asks BASE/0, prints a line, and asks BASE/1 over the same connection when its input has ended. Usage: kept.py BASE
CA"""

import asyncio
import ssl
import sys

import aiohttp

BASE, CA = sys.argv[1:]


async def main():
    context = ssl.create_default_context(cafile=CA)
    async with aiohttp.ClientSession() as session:
        for number in range(2):
            async with session.get(f"{BASE}/{number}", ssl=context) as answer:
                assert answer.status == 200 and await answer.read()
            print(number, flush=True)
            if number == 0:
                await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
