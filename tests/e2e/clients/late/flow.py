"""Clients in full flow: each requests PREFIX/CLIENT/0, 1, ... over its own kept connections until standard input ends.

Says "flowing" once each has had an answer, and at the end prints one JSON object for each request.

Usage: flow.py blocking|asyncio|mixed CLIENTS PREFIX TLS-PORT CLEARTEXT-PORT CA

blocking  a thread for each client, the library's own socket BIO
asyncio   all clients on one thread, through memory BIOs
mixed     a thread for each client, which takes turns between a connection in the clear and one with TLS
"""

import asyncio
import http.client
import json
import socket
import ssl
import sys
import threading
import time

mode, count, prefix, tls_port, cleartext_port, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
stopping = threading.Event()
flowing = threading.Semaphore(0)
log = []


def method_of(i):
    return ("GET", 0) if i % 3 else ("POST", 100 + i)


def note(path, began, local_port, i, status, size):
    method, sent = method_of(i)
    log.append(
        {"path": path, "began": began, "ended": time.time(), "local_port": local_port, "method": method, "sent": sent,
         "status": status, "size": size}
    )


def blocking(client):
    connections = [http.client.HTTPSConnection("localhost", int(tls_port), context=context)]
    if mode == "mixed":
        connections.insert(0, http.client.HTTPConnection("localhost", int(cleartext_port)))
    i = 0
    while not stopping.is_set() or i < 2:
        connection = connections[i % len(connections)]
        scheme = "tls" if connection is connections[-1] else "cleartext"
        path = f"{prefix}/{scheme}/{client}/{i}"
        method, sent = method_of(i)
        began = time.time()
        connection.request(method, path, body=b"b" * sent if sent else None)
        local_port = connection.sock.getsockname()[1]
        answer = connection.getresponse()
        note(path, began, local_port, i, answer.status, len(answer.read()))
        i += 1
        if i == 2:
            flowing.release()
        time.sleep(0.02)


async def one_of_asyncio(client):
    reader, writer = await asyncio.open_connection("localhost", int(tls_port), ssl=context, family=socket.AF_INET)
    local_port = writer.get_extra_info("sockname")[1]
    i = 0
    while not stopping.is_set() or i < 2:
        path = f"{prefix}/tls/{client}/{i}"
        method, sent = method_of(i)
        began = time.time()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost:{tls_port}\r\nContent-Length: {sent}\r\n\r\n"
        writer.write(head.encode() + b"b" * sent)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
        note(path, began, local_port, i, int(answer.split()[1]), len(body))
        i += 1
        if i == 2:
            flowing.release()
        await asyncio.sleep(0.02)
    writer.close()


async def all_of_asyncio():
    await asyncio.gather(*(one_of_asyncio(client) for client in range(int(count))))


def main():
    if mode == "asyncio":
        threads = [threading.Thread(target=lambda: asyncio.run(all_of_asyncio()))]
    else:
        threads = [threading.Thread(target=blocking, args=(client,)) for client in range(int(count))]
    for thread in threads:
        thread.start()
    for _ in range(int(count)):
        flowing.acquire()
    print("flowing", flush=True)
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()
    for entry in log:
        print(json.dumps(entry))


main()
