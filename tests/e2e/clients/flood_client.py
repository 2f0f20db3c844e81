"""Speaks HTTP/1.1 over one TLS connection, as its input says, and counts each byte of plaintext that it moves.

Usage: flood_client.py HOST PORT CA

Each line of input holds requests, "GET:/path" or "PUT:/path:SIZE"; when all are answered, their number is printed.
At the end of the input the connection is closed and {"pid", "sent", "received"} printed.
"""

import json
import os
import socket
import ssl
import sys


class Connection:
    def __init__(self, host, port, ca):
        context = ssl.create_default_context(cafile=ca)
        self._socket = context.wrap_socket(socket.create_connection((host, port), 30), server_hostname=host)
        self._host = host
        self._read = b""
        self.sent = self.received = 0

    def _send(self, data):
        self._socket.sendall(data)
        self.sent += len(data)

    def _receive(self):
        data = self._socket.recv(65536)
        self.received += len(data)
        self._read += data
        if not data:
            raise EOFError("the server has closed the connection")

    def exchange(self, method, path, size=0):
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {size}\r\n\r\n"
        self._send(head.encode())
        body = os.urandom(int(size))
        for start in range(0, len(body), 50_000):
            self._send(body[start : start + 50_000])
        self._read_answer()

    def _read_answer(self):
        while b"\r\n\r\n" not in self._read:
            self._receive()
        head, _, body = self._read.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        left = int(fields.get(b"content-length", b"0")) - len(body)
        if not head.startswith(b"HTTP/1.1 2"):
            raise ValueError(head)
        while left > 0:
            self._read = b""
            self._receive()
            left -= len(self._read)
        self._read = b""

    def close(self):
        self._socket.close()


def main():
    host, port, ca = sys.argv[1:]
    connection = Connection(host, int(port), ca)
    for line in sys.stdin:
        requests = [request.split(":") for request in line.split()]
        for request in requests:
            connection.exchange(*request)
        print(len(requests), flush=True)
    connection.close()
    print(json.dumps({"pid": os.getpid(), "sent": connection.sent, "received": connection.received}), flush=True)


if __name__ == "__main__":
    main()
