"""Connects to HOST PORT again and again and prints for each time one JSON object: the error, if it failed; what the
server said first; and both ends as the client sees them. A line on standard input makes it connect once.

Usage: peer.py HOST PORT [non-blocking]
"""

import errno
import json
import os
import select
import socket
import sys


def connect(host, port, blocking):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(20)
        told = {"pid": os.getpid()}
        try:
            if blocking:
                client.connect((host, port))
            else:
                client.setblocking(False)
                error = client.connect_ex((host, port))
                if error not in (0, errno.EINPROGRESS):
                    raise OSError(error, os.strerror(error))
                select.select([], [client], [], 20)
                client.settimeout(20)
            told["peer"] = client.getpeername()[:2]
            told["local_port"] = client.getsockname()[1]
            told["said"] = client.recv(100).decode()
        except OSError as error:
            told["error"] = errno.errorcode.get(error.errno, str(error))
        return told


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    for _ in sys.stdin:
        print(json.dumps(connect(host, port, "non-blocking" not in sys.argv)), flush=True)


if __name__ == "__main__":
    main()
