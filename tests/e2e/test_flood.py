"""A ring that is flooded on purpose: what was read and what was lost make up, to the byte, what the clients moved, and
afterwards records are right again."""

import contextlib
import json
import os
import signal
import subprocess
import unittest

from harness import clients
from harness.agent import WEIR
from harness.case import SOAK, EndToEndTest
from harness.processes import check, end, spawn

# Of payload, the ring takes half a megabyte.
RING_BYTES = 1 << 20
ROUNDS = 20 if SOAK else 1
PLAINTEXT_PRELOAD = clients.BUILT / "plaintext_preload.so"

FLOOD = ("PUT:/uploads/{name}/{round}:1000000", "GET:/files/{name}-{round}/1000000", "GET:/small/{name}/{round}")
AFTER = {
    "/uploads/{name}/after/{round}": ("PUT", 40_000),
    "/after/{name}/{round}": ("GET", 0),
    "/files/{name}-after-{round}/32769": ("GET", 0),
}
ANSWERED = {"files": 32769}


class KeptConnection:
    """A client with one connection that does what it is told."""

    def __init__(self, test, name, server, command):
        self.name = name
        self.port = test.origin.ports[server]
        self.process = spawn(
            [*command, "localhost", self.port, test.ca], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        test.addCleanup(end, self.process)
        test.addCleanup(self.process.stdout.close)
        test.addCleanup(self.process.stdin.close)

    def begin(self, *requests):
        self.process.stdin.write(" ".join(requests) + "\n")
        self.process.stdin.flush()

    def wait(self, count):
        line = self.process.stdout.readline()
        if line != f"{count}\n":
            raise AssertionError(f"{self.name}: {line!r} instead of {count} answers")

    def do(self, *requests):
        self.begin(*requests)
        self.wait(len(requests))

    def finish(self):
        """What it counted: pid, sent, received."""
        self.process.stdin.close()
        counted = json.loads(self.process.stdout.readline())
        self.process.wait(20)
        return counted


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class FloodTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good"), "h2": cls.authority.leaf("h2")}

    def start_small(self):
        """Watches the origin's ports alone: what else the machine does is not in the sums."""
        only = ", ".join(f"port:{port}" for port in self.origin.ports.values())
        configuration = self.directory / "flood.yaml"
        configuration.write_text(f"native:\n  ring_bytes: {RING_BYTES}\n  only: [{only}]\n")
        return self.start_agent("--config", configuration)

    def curl(self, server, *options, path="/small/curl"):
        """A connection that begins and ends here; its counts come by the preload."""
        url = f"https://localhost:{self.origin.ports[server]}{path}"
        prefix = ["/usr/bin/env", f"LD_PRELOAD={PLAINTEXT_PRELOAD}", f"WEIR_TEST_PLAINTEXT={self.noted}"]
        check([*prefix, *clients.curl_command(url, *options, ca=self.ca)])

    def curl_flood(self, server):
        options = ["--http2"] if server == "h2" else ["--http1.1"]
        base = f"https://localhost:{self.origin.ports[server]}"
        upload = ["--upload-file", self.origin.file(1_000_000), f"{base}/uploads/curl-{server}"]
        self.curl(server, *options, *upload, "--next", "--cacert", self.ca, "--output", "/dev/null",
                  path=f"/files/curl-{server}/1000000")  # fmt: skip

    def wait_until_caught_up(self):
        """The worker has read what the ring held when one that came after it is recorded."""
        paths = []

        def one_is_recorded():
            paths.append(f"/catching-up/{len(self.caught_up)}")
            self.caught_up.append(paths[-1])
            self.curl("good", path=paths[-1])
            return any(self.recorded(path) for path in paths)

        self.agent.wait_for(one_is_recorded, "nothing is recorded since the worker was stopped")

    def recorded(self, path):
        return [record for record in self.agent.exchanges() if record.get("url.full", "").endswith(path)]

    def setUp(self):
        self.noted = self.directory / "plaintext"
        self.caught_up = []
        self.agent = self.start_small()
        python = [clients.PYTHON, "-B", clients.SOURCES / "flood_client.py"]
        node = ["node", clients.SOURCES / "flood_client.js"]
        self.kept = [
            KeptConnection(self, "python1", "good", python),
            KeptConnection(self, "python2", "good", python),
            KeptConnection(self, "node", "h2", node),
        ]

    def flood(self, number):
        with stopped(self.agent.worker_pid()):
            requests = {
                client: [request.format(name=client.name, round=number) for request in FLOOD] for client in self.kept
            }
            for client, list_ in requests.items():
                client.begin(*list_)
            self.curl_flood("good")
            self.curl_flood("h2")
            for client, list_ in requests.items():
                client.wait(len(list_))
        self.wait_until_caught_up()

    def check_afterwards(self, number):
        """On the very connections that lost something: each exchange once, and whole. What HTTP/2's compression says
        by pointing at header fields that were lost is left out, and the exchange says that it lacks something."""
        expected = {}
        for client in self.kept:
            for path, (method, size) in AFTER.items():
                expected[path.format(name=client.name, round=number)] = (client, method, size)
        for client in self.kept:
            own = [(path, made) for path, made in expected.items() if made[0] is client]
            client.do(*[f"{method}:{path}:{size}" if size else f"{method}:{path}" for path, (_, method, size) in own])
        self.agent.wait_for(lambda: all(map(self.recorded, expected)), "not all that came after it is recorded")
        wrong = []
        for path, (client, method, size) in expected.items():
            records = self.recorded(path)
            got = [
                (record.get("http.request.method"), record["http.request.body.size"], record["process.pid"],
                 record["http.response.status_code"] // 100, record.get("weir.incomplete", ""))
                for record in records
            ]  # fmt: skip
            whole = (method, size, client.process.pid, 2, "")
            lacking = [whole[:-1] + ("gap",), (None, *whole[1:-1], "gap")] if client.name == "node" else []
            if len(got) != 1 or got[0] not in [whole, *lacking]:
                wrong.append(f"{path} of {client.name}: {got}")
        self.assert_no_mismatch(wrong)

    def check_new_connections(self, number):
        for server, version in (("good", "1.1"), ("h2", "2")):
            path = f"/new/{server}/{number}"
            self.curl(server, path=path)
            self.agent.wait_for(lambda: self.recorded(path), f"{path} is not recorded")
            (record,) = self.recorded(path)
            self.assertEqual(record["http.request.method"], "GET")
            self.assertEqual(record["http.response.status_code"], 200)
            self.assertEqual(record["network.protocol.version"], version)
            self.assertEqual(record["url.full"], f"https://localhost:{self.origin.ports[server]}{path}")
            self.assertNotIn("weir.incomplete", record)

    def connections(self):
        return [
            record
            for record in self.agent.feed.records()
            if record["weir.record"] == "connection" and record["network.peer.port"] in self.origin.ports.values()
        ]

    def check_sums(self, counted):
        """Of each connection, and of all of them."""
        wait = lambda: len(self.connections()) >= len(counted)
        self.agent.wait_for(wait, f"{len(counted)} connections")
        records = {record["process.pid"]: record for record in self.connections()}
        self.assertEqual(set(records), {one["pid"] for one in counted})
        wrong = []
        for one in counted:
            record = records[one["pid"]]
            for direction in ("sent", "received"):
                read = record.get(f"weir.plaintext.{direction}", 0)
                lost = record.get(f"weir.gap.{direction}", 0)
                if read + lost != one[direction]:
                    wrong.append(f"{one} {direction}: {read} read, {lost} lost: {record}")
        self.assert_no_mismatch(wrong)
        for client in self.kept:
            self.assertGreater(records[client.process.pid].get("weir.gap.sent", 0), 0, client.name)
            self.assertGreater(records[client.process.pid].get("weir.gap.received", 0), 0, client.name)
            self.assertEqual(records[client.process.pid]["weir.incomplete"], "gap")
        native = self.agent.counters()["native"]
        by_cause = [native[f"dropped_{cause}_bytes"] for cause in ("ring_full", "unreadable", "unaddressed")]
        self.assertEqual(sum(by_cause), sum(record.get("weir.gap.bytes", 0) for record in records.values()))
        self.assertEqual(by_cause[0], sum(by_cause), "the ring alone lost something")
        self.assertEqual(native["lost_calls"], 0)

    def test_what_is_lost_is_counted_to_the_byte(self):
        for client in self.kept:
            client.do(f"GET:/before/{client.name}")
        for number in range(ROUNDS):
            self.flood(number)
            self.check_afterwards(number)
            self.check_new_connections(number)
        counted = [client.finish() for client in self.kept] + clients.json_lines(self.noted.read_text())
        self.check_sums(counted)
        shown = check([WEIR, "status", "--state-dir", self.agent.state_dir]).stdout
        self.assertRegex(shown, r"native\.dropped_ring_full_bytes: [1-9]")


if __name__ == "__main__":
    unittest.main()
