"""COUNT connections through a proxy, each of which asks again a second after its answer, until standard input ends.

busy_connections.py PROXY_PORT CA PORT COUNT PATH
Prints a line once each has been answered, then how many requests were.
"""

import asyncio
import json
import random
import ssl
import sys


async def connect(proxy_port, port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy_port)
    writer.write(f"CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(context, server_hostname="localhost")
    return reader, writer


async def ask(reader, writer, port, path):
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"answered {head}")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))


async def main(proxy_port, ca, port, count, path):
    context = ssl.create_default_context(cafile=ca)
    limit = asyncio.Semaphore(50)  # of handshakes at once
    answered = 0
    over = asyncio.Event()

    async def one(number):
        nonlocal answered
        async with limit:
            reader, writer = await connect(proxy_port, port, context)
        while not over.is_set():
            await ask(reader, writer, port, f"{path}/{number}")
            answered += 1
            if answered == count:
                print("all", flush=True)
            await asyncio.sleep(1 if answered > count else random.random())
        writer.close()

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    over.set()
    await asyncio.gather(*tasks)
    print(json.dumps({"requests": answered}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
