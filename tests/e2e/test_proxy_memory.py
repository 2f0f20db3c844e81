"""What the worker's memory is while much passes through the proxy, while many connections are open, and while a side
doesn't read. Prints its figures."""

import socket
import ssl
import subprocess
import threading
import unittest

from harness import clients
from harness.case import SOAK, EndToEndTest
from harness.footprint import private_kib
from harness.load import HeldConnections
from harness.processes import end, spawn

BODY = (10 if SOAK else 1) << 30
IDLE, BUSY = (5000, 500) if SOAK else (1000, 100)
BODY_MIB, CONNECTION_KIB = 64, 48
# What lies in sockets' buffers between a side that doesn't read and one that is to be held back.
HELD_BACK = 16 << 20


class Highest:
    """The most private memory that a process had between entry and end."""

    def __init__(self, pid):
        self._pid = pid
        self.before = self.kib = private_kib(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _look(self):
        while not self._over.wait(0.1):
            self.kib = max(self.kib, private_kib(self._pid))

    def growth_mib(self):
        return (self.kib - self.before) / 1024


class BusyConnections:
    """clients/busy_connections.py, from the first answer of each to the end of the block."""

    def __init__(self, *arguments):
        self._command = [clients.PYTHON, "-B", clients.SOURCES / "busy_connections.py", *map(str, arguments)]

    def __enter__(self):
        self._process = spawn(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout.readline() != "all\n":
            raise AssertionError("busy connections failed")
        return self

    def __exit__(self, *_):
        try:
            self._process.communicate(timeout=60)
        finally:
            end(self._process)
        if self._process.returncode != 0:
            raise AssertionError("busy connections failed")


class ProxyMemoryTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.bundle = cls.directory / "both.pem"
        cls.bundle.write_bytes(cls.ca.read_bytes() + (cls.agent.state_dir / "ca" / "ca.crt").read_bytes())
        cls.worker = cls.agent.worker_pid()

    def tell(self, text):
        print(text, flush=True)

    def test_a_large_body(self):
        with open(self.origin.file(BODY), "wb") as file:
            file.truncate(BODY)
        command = clients.curl_command(self.url(f"/files/large/{BODY}"), "--max-time", "600")
        with Highest(self.worker) as memory:
            _, (answer,) = clients.run_json(self.agent.exec_command(*command), timeout=600)
        self.assertEqual((answer["status"], answer["size"]), (200, BODY))
        self.tell(f"a body of {BODY >> 30} GiB: {memory.growth_mib():.1f} MiB more than {memory.before >> 10} MiB")
        self.assertLess(memory.growth_mib(), BODY_MIB)

    def test_many_connections(self):
        proxy = self.agent.proxy_address()
        # What is made once, for the first connection of all.
        with HeldConnections(self.origin, self.bundle, 50, "/first", "--proxy", proxy):
            pass
        before = private_kib(self.worker)
        port = proxy.rpartition(":")[2]
        with HeldConnections(self.origin, self.bundle, IDLE, "/idle", "--proxy", proxy):
            self.agent.wait_for(lambda: len(self.of("/idle/")) >= IDLE, "records are missing", 60)
            idle = private_kib(self.worker)
            with BusyConnections(port, self.bundle, self.origin.port, BUSY, "/busy"):
                with Highest(self.worker) as memory:
                    self.agent.wait_for(lambda: len(self.of("/busy/")) >= 3 * BUSY, "records are missing", 60)
        self.tell(f"{IDLE} idle: {(idle - before) / IDLE:.1f} KiB each; with {BUSY} busy: "
                  f"{(memory.kib - before) / (IDLE + BUSY):.1f} KiB each; before: {before >> 10} MiB")
        self.assertLess((memory.kib - before) / (IDLE + BUSY), CONNECTION_KIB)

    def of(self, prefix):
        return [record for record in self.agent.exchanges(self.origin.port) if prefix in record["url.full"]]

    def connect(self, port):
        """A connection to the origin at `port`, through the proxy."""
        host, _, proxy_port = self.agent.proxy_address().rpartition(":")
        raw = socket.create_connection((host, int(proxy_port)), timeout=20)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.addCleanup(raw.close)
        raw.sendall(f"CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self.assertTrue(raw.recv(200).startswith(b"HTTP/1.1 200 "))
        context = ssl.create_default_context(cafile=self.bundle)
        secured = context.wrap_socket(raw, server_hostname="localhost")
        self.addCleanup(secured.close)
        return secured

    def start_origin(self, serve):
        """An origin whose one connection `serve` gets."""
        leaf = self.authority.leaf(f"slow-{serve.__name__}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.certificate, leaf.key)
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def run():
            raw, _ = listener.accept()
            with raw, context.wrap_socket(raw, server_side=True) as secured:
                secured.settimeout(5)
                serve(secured)

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)
        return listener.getsockname()[1]

    def send_until_held_back(self, connection):
        """How much the other side's end takes before nothing moves for two seconds."""
        connection.settimeout(2)
        piece, sent = bytes(1 << 16), 0
        try:
            while sent < 4 * HELD_BACK:
                connection.sendall(piece)
                sent += len(piece)
        except TimeoutError:
            pass
        return sent

    def test_a_client_that_does_not_read_holds_the_origin_back(self):
        sent = []

        def endless(connection):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            sent.append(self.send_until_held_back(connection))

        port = self.start_origin(endless)
        with Highest(self.worker) as memory:
            client = self.connect(port)
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.agent.wait_for(lambda: sent, "the origin is not held back")
        self.tell(f"a client that doesn't read: {sent[0] >> 10} KiB sent to it, {memory.growth_mib():.1f} MiB more")
        self.assertLess(sent[0], HELD_BACK)
        self.assertLess(memory.growth_mib(), BODY_MIB)

    def test_an_origin_that_does_not_read_holds_the_client_back(self):
        over = threading.Event()
        self.addCleanup(over.set)

        def deaf(connection):
            connection.recv(100)
            over.wait(60)

        with Highest(self.worker) as memory:
            client = self.connect(self.start_origin(deaf))
            client.sendall(b"PUT /deaf HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n")
            sent = self.send_until_held_back(client)
        over.set()
        self.tell(f"an origin that doesn't read: {sent >> 10} KiB sent to it, {memory.growth_mib():.1f} MiB more")
        self.assertLess(sent, HELD_BACK)
        self.assertLess(memory.growth_mib(), BODY_MIB)


if __name__ == "__main__":
    unittest.main()
