"""Usage: transfer.py WAY CA HOST PORT [PUT:/path=FILE | GET:/path]...

Sends and fetches bodies over one connection, and prints of each what tls_client does: method, path, status, size and
SHA-256 of the answer's body. WAY is a module of this folder or one of Python's own ways, and after a colon a variant:
which of the library's functions move the bytes.
"""

import asyncio
import hashlib
import importlib
import json
import pathlib
import socket
import ssl
import sys

RECEIVED_AT_ONCE = 100_000


class Blocking:
    """Python's ssl on a socket: SSL_write_ex and SSL_read_ex with a socket BIO."""

    def __init__(self, ca, host, port, variant):
        raw = socket.create_connection((host, port), timeout=60)
        self._socket = ssl.create_default_context(cafile=ca).wrap_socket(raw, server_hostname=host)
        self.close = self._socket.close

    def send(self, data):
        self._socket.sendall(data)

    def receive(self):
        return self._socket.recv(RECEIVED_AT_ONCE)


class Asyncio:
    """Python's ssl on memory BIOs: the event loop moves the ciphertext."""

    def __init__(self, ca, host, port, variant):
        self._loop = asyncio.new_event_loop()
        opening = asyncio.open_connection(host, port, ssl=ssl.create_default_context(cafile=ca))
        self._reader, self._writer = self._loop.run_until_complete(opening)

    def send(self, data):
        self._writer.write(data)
        self._loop.run_until_complete(self._writer.drain())

    def receive(self):
        return self._loop.run_until_complete(self._reader.read(RECEIVED_AT_ONCE))

    def close(self):
        self._writer.close()
        self._loop.run_until_complete(self._writer.wait_closed())
        self._loop.close()


class Cleartext:
    """Variants: "send"; "sendfile": the body goes from file to socket inside the kernel; "peek": each piece is looked
    at before it is read; "vectors": in several pieces of memory at once."""

    def __init__(self, ca, host, port, variant):
        self._socket = socket.create_connection((host, port), timeout=60)
        self._variant = variant
        self.close = self._socket.close

    def send(self, data):
        if self._variant == "vectors" and len(data) > 2:
            third = len(data) // 3
            view = memoryview(data)
            sent = self._socket.sendmsg([view[:third], view[third : 2 * third], view[2 * third :]])
            data = view[sent:]
        self._socket.sendall(data)

    def send_file(self, file):
        if self._variant != "sendfile":
            self.send(file.read_bytes())
            return
        with open(file, "rb") as opened:
            self._socket.sendfile(opened)

    def receive(self):
        if self._variant == "peek":
            self._socket.recv(RECEIVED_AT_ONCE, socket.MSG_PEEK)
        return self._socket.recv(RECEIVED_AT_ONCE)


def connect(way, ca, host, port):
    name, _, variant = way.partition(":")
    own = {"blocking": Blocking, "asyncio": Asyncio, "cleartext": Cleartext}
    kind = own.get(name) or importlib.import_module(name).Connection
    return kind(ca, host, port, variant)


class Answers:
    """Reads one answer after the other; each has a Content-Length."""

    def __init__(self, connection):
        self._connection = connection
        self._left = bytearray()

    def _more(self):
        piece = self._connection.receive()
        if not piece:
            raise AssertionError("the connection ended too early")
        return piece

    def next(self):
        """Gives the status, and the body's size and SHA-256."""
        while (end := self._left.find(b"\r\n\r\n")) < 0:
            self._left += self._more()
        head = bytes(self._left[:end]).decode("latin-1").lower()
        size = int(next(line for line in head.split("\r\n") if line.startswith("content-length:")).split(":")[1])
        body = hashlib.sha256()
        piece = bytes(self._left[end + 4 :])
        left = size
        while True:
            body.update(piece[:left])
            if len(piece) >= left:
                break
            left -= len(piece)
            piece = self._more()
        self._left = bytearray(piece[left:])
        return int(head.split(" ")[1]), size, body.hexdigest()


def main(way, ca, host, port, *requests):
    connection = connect(way, ca, host, int(port))
    answers = Answers(connection)
    for request in requests:
        method, _, target = request.partition(":")
        path, _, name = target.partition("=")
        file = pathlib.Path(name) if name else None
        size = file.stat().st_size if file else 0
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {size}\r\n\r\n"
        connection.send(head.encode())
        if file and hasattr(connection, "send_file"):
            connection.send_file(file)
        elif file:
            connection.send(file.read_bytes())
        status, received, sha256 = answers.next()
        told = {"method": method, "path": path, "status": status, "size": received, "sha256": sha256}
        print(json.dumps(told), flush=True)
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
