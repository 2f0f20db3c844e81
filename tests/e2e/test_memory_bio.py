"""Programs whose TLS library never touches a socket (Node, Python's asyncio), as servers that ask others over TLS
themselves, with many connections open on both sides at once: each record is of the socket that carried its request,
never of another one of the same process."""

import collections
import json
import subprocess
import unittest

from harness import clients
from harness.case import SOAK, EndToEndTest
from harness.processes import check, end, spawn, wait_until

PROGRAMS = clients.SOURCES / "memory_bio"
SERVERS = {"node": ["node", PROGRAMS / "server.js"], "aiohttp": [clients.PYTHON, "-B", PROGRAMS / "server.py"]}
# Of one request after the other, over kept connections and fresh ones: clients/matrix/.
REQUESTS_BY = {
    "node": ["node", clients.SOURCES / "matrix/requests_by.js", "https"],
    "aiohttp": [clients.PYTHON, "-B", clients.SOURCES / "matrix/requests_by.py", "aiohttp"],
    "http.client": [clients.PYTHON, "-B", clients.SOURCES / "matrix/requests_by.py", "http.client"],
}
AT_ONCE = 200
COUNT = 4_000 if SOAK else 200
COUNT_ASKED_ITSELF = 2_000 if SOAK else 40
COUNT_THROUGH_RELAY = 20


def method_of(number):
    """As the servers have it."""
    return "POST" if number % 4 > 1 else "GET"


class Server:
    """One of the servers, and what it says of itself. Its connects are noted by the preload."""

    def __init__(self, kind, directory, files, ca, origin_port):
        self.cookies = directory / f"{kind}-cookies.jsonl"
        self._output = directory / f"{kind}-output.jsonl"
        command = [*clients.with_cookies(self.cookies), *SERVERS[kind]]
        command += [files.certificate, files.key, ca, f"https://localhost:{origin_port}"]
        with open(self._output, "wb") as output:
            self.process = spawn(command, stdin=subprocess.DEVNULL, stdout=output)
        self.port = wait_until(lambda: self.notes("port"), 20, f"{kind} does not listen")[0]["port"]

    @property
    def pid(self):
        return self.process.pid

    def notes(self, key):
        lines = self._output.read_text()
        notes = [json.loads(line) for line in lines[: lines.rfind("\n") + 1].splitlines()]
        return [note for note in notes if key in note]

    def ports_of(self, key, value):
        """What it noted of each path."""
        return {note[key]: note[value] for note in self.notes(key)}


class MemoryBioTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good"), "plain": None}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.files = cls.authority.leaf("server")

    def start_server(self, kind):
        server = Server(kind, self.directory, self.files, self.ca, self.origin.port)
        self.addCleanup(end, server.process)
        return server

    def load(self, server, path, count):
        """Runs the load; gives its pid and its noted connects."""
        cookies = self.directory / f"{path.replace('/', '-')}-load-cookies.jsonl"
        base = f"https://localhost:{server.port}/{path}"
        command = [*clients.with_cookies(cookies), clients.PYTHON, "-B", PROGRAMS / "load.py"]
        command += [base, self.ca, count, AT_ONCE]
        process = spawn(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.addCleanup(end, process)
        error = process.communicate(timeout=300)[1]
        self.assertEqual(process.returncode, 0, error[-4000:])
        return process.pid, clients.cookies_of(cookies)

    def start_relay(self):
        command = [clients.PYTHON, "-B", PROGRAMS / "relay.py", self.origin.port]
        relay = spawn(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.addCleanup(relay.stdout.close)
        self.addCleanup(end, relay)
        return relay.pid, int(relay.stdout.readline())

    def records_of(self, port, prefix):
        base = f"https://localhost:{port}{prefix}/"
        return [r for r in self.agent.exchanges(port) if r.get("url.full", "").startswith(base)]

    def assert_records(self, pid, peer_port, prefix, count, ports, connects, method):
        """One right record for each of the requests for `prefix`/N, of the socket with the local port that `ports` has
        for it."""
        what = f"{count} records of {prefix}"
        self.agent.wait_for(lambda: len(self.records_of(peer_port, prefix)) >= count, what, timeout=20)
        cookies = collections.defaultdict(set)
        for connect in connects:
            if connect["peer_port"] == peer_port:
                cookies[connect["local_port"]].add(connect["cookie"])
        wrong, found = [], collections.Counter()
        for record in self.records_of(peer_port, prefix):
            path = record["url.full"].partition(f":{peer_port}")[2]
            number = int(path.rpartition("/")[2])
            found[number] += 1
            expected = {
                "process.pid": pid,
                "weir.source": ["native"],
                "weir.tls.library": "openssl",
                "network.local.port": ports.get(path),
                "network.peer.address": "127.0.0.1",
                "network.peer.port": peer_port,
                "http.request.method": method(number),
                "http.response.status_code": 200,
                "http.request.body.size": number if method(number) == "POST" else 0,
                "http.response.body.size": len(f"this is {path}\n"),
                "weir.incomplete": None,
            }
            wrong += [f"{path}: {k} is {record.get(k)!r}, not {v!r}" for k, v in expected.items() if record.get(k) != v]
            if record["weir.socket.cookie"] not in cookies[ports.get(path)]:
                wrong.append(f"{path}: cookie {record['weir.socket.cookie']}, not of {cookies[ports.get(path)]}")
        wrong += [f"{prefix}/{number}: {found[number]} records" for number in range(count) if found[number] != 1]
        self.assert_no_mismatch(wrong)

    def assert_nothing_else(self, server, peer_port):
        """What the server was asked is its clients' egress, not its own: it has no record of that."""
        others = [
            (r["weir.record"], r.get("network.peer.port"), r.get("url.full"))
            for r in self.agent.feed.records()
            if r.get("process.pid") == server.pid and r.get("network.peer.port") not in (peer_port, None)
        ]
        self.assertEqual(others, [])

    def ports_that_the_origin_saw(self, kind):
        def ports():
            return {r["path"]: r["client_port"] for r in self.origin.requests() if r["path"].startswith(f"/{kind}/")}

        wait_until(lambda: len(ports()) >= COUNT, 10, "the origin did not note every request")
        return ports()

    def assert_relayed(self, kind):
        server = self.start_server(kind)
        load, connects = self.load(server, f"relay/{kind}", COUNT)
        own = server.ports_of("path", "local_port")
        answered = self.ports_that_the_origin_saw(kind)
        self.assertEqual(own, answered, "the server and the origin disagree about its ports")
        self.assertLess(len(set(answered.values())), COUNT * 3 // 4, "no connection was kept")
        self.assert_records(
            server.pid, self.origin.port, f"/{kind}", COUNT, answered, clients.cookies_of(server.cookies), method_of
        )
        asked = server.ports_of("asked", "peer_port")
        self.assert_records(load, server.port, f"/relay/{kind}", COUNT, asked, connects, lambda n: "GET")
        self.assert_nothing_else(server, self.origin.port)

    def test_node_relays(self):
        self.assert_relayed("node")

    def test_aiohttp_relays(self):
        self.assert_relayed("aiohttp")

    def assert_asks_itself(self, kind):
        """Both ends of a TLS session in one process: its two objects hold the same random bytes."""
        server, count = self.start_server(kind), COUNT_ASKED_ITSELF
        load, connects = self.load(server, f"self/{kind}", count)
        asked = server.ports_of("asked", "peer_port")
        noted = clients.cookies_of(server.cookies)
        self.assert_records(server.pid, server.port, f"/leaf/{kind}", count, asked, noted, method_of)
        self.assert_records(load, server.port, f"/self/{kind}", count, asked, connects, lambda n: "GET")
        self.assert_nothing_else(server, server.port)

    def test_node_asks_itself(self):
        self.assert_asks_itself("node")

    def test_aiohttp_asks_itself(self):
        self.assert_asks_itself("aiohttp")

    def test_through_a_relay(self):
        """Who passes a TLS session on sends its ClientHello, too: the records are of the client's sockets."""
        (relay, port), count = self.start_relay(), COUNT_THROUGH_RELAY
        for name, command in REQUESTS_BY.items():
            noted = self.directory / f"relay-{name}-cookies.jsonl"
            base = f"https://localhost:{port}/through/{name}"
            client = check([*clients.with_cookies(noted), *command, base, self.ca, count])
            self.agent.wait_for(lambda: len(self.records_of(port, f"/through/{name}")) >= count, f"{name}: {count} records")
            sockets = {(str(c["cookie"]), c["local_port"]) for c in clients.cookies_of(noted) if c["peer_port"] == port}
            records = self.records_of(port, f"/through/{name}")
            self.assertEqual({r["process.pid"] for r in records}, {client.pid})
            recorded = {(r["weir.socket.cookie"], r["network.local.port"]) for r in records}
            self.assertLessEqual(recorded, sockets)
            self.assertGreater(len(recorded), count // 2)
            numbers = sorted(int(r["url.full"].rpartition("/")[2]) for r in records)
            self.assertEqual(numbers, list(range(count)))
        self.assertEqual([r for r in self.agent.exchanges() if r["process.pid"] == relay], [])

    def start_kept(self, base):
        """A client that has asked BASE/0, and its noted connects."""
        noted = self.directory / f"{base.partition(':')[0]}-old-cookies.jsonl"
        command = [*clients.with_cookies(noted), clients.PYTHON, "-B", PROGRAMS / "kept.py", base, self.ca]
        client = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(end, client)
        self.assertEqual(client.stdout.readline(), "0\n")
        return client, clients.cookies_of(noted)

    def test_older_than_the_agent(self):
        """Whose a connection's encrypted bytes are is told by the ciphertext; both kinds are read from then on."""
        plain = f"http://localhost:{self.origin.ports['plain']}/old"
        started = [self.start_kept(self.url("/old")), self.start_kept(plain)]
        agent = self.start_agent()
        for client, _ in started:
            self.assertEqual(client.communicate(timeout=20)[0], "1\n")

        def records_of(client, kind):
            found = [r for r in agent.feed.records() if r.get("process.pid") == client.pid]
            return [r for r in found if r["weir.record"] == kind]

        for (client, (connect,)), port in zip(started, (self.origin.port, self.origin.ports["plain"])):
            agent.wait_for(lambda client=client: records_of(client, "connection"), "a record of the connection")
            (record,) = records_of(client, "connection")
            self.assertEqual(record["weir.socket.cookie"], connect["cookie"])
            self.assertEqual(record["network.local.port"], connect["local_port"])
            self.assertEqual(record["network.peer.port"], port)
        for (client, _), base in zip(started, (self.url("/old"), plain)):
            self.assertEqual(records_of(client, "connection")[0]["weir.incomplete"], "joined_midstream")
            self.assertEqual([r["url.full"] for r in records_of(client, "exchange")], [f"{base}/1"])


if __name__ == "__main__":
    unittest.main()
