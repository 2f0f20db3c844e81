"""GETs PREFIX/0 to PREFIX/COUNT-1 with http.client over one connection and prints one JSON object for each.

Usage: http_client.py HOST PORT CA PREFIX COUNT
"""

import http.client
import json
import os
import socket
import ssl
import sys

SO_COOKIE = 57  # asm-generic/socket.h; the socket module has no name for it


def main():
    host, port, ca, prefix, count = sys.argv[1:]
    connection = http.client.HTTPSConnection(
        host, int(port), context=ssl.create_default_context(cafile=ca), timeout=30
    )
    connection.connect()
    cookie = int.from_bytes(connection.sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
    local_port = connection.sock.getsockname()[1]
    for i in range(int(count)):
        path = f"{prefix}/{i}"
        connection.request("GET", path)
        answer = connection.getresponse()
        size = len(answer.read())
        print(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "cookie": str(cookie),
                    "local_port": local_port,
                    "path": path,
                    "status": answer.status,
                    "size": size,
                }
            )
        )
    connection.close()


if __name__ == "__main__":
    main()
