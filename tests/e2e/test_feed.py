"""In one agent's life four kinds of client make 200 requests each, and the feed holds exactly one true record
for each: curl's and Python's from the native tap, Java's from the proxy."""

import collections
import concurrent.futures
import dataclasses
import os
import unittest

from harness import clients
from harness.case import EndToEndTest
from harness.origin import small_body
from harness.processes import check

COUNT = 200


@dataclasses.dataclass
class Expected:
    """What the client itself says of one request."""

    path: str
    pid: int
    executable: str
    connections: dict  # the process's socket cookies, as the kernel names them, with their local ports
    source: str
    host: str

    def url(self, port):
        return f"https://{self.host}:{port}{self.path}"


def run_curl(test):
    """Fresh processes, each ended as soon as it has its answer."""
    noted = test.directory / "curl-cookies"

    def one(path):
        url = f"https://origin.test:{test.origin.port}{path}"
        command = clients.curl_command(url, *clients.direct(test.origin.port), ca=test.ca)
        return path, check([*clients.with_cookies(noted), *command]).pid

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        pids = dict(pool.map(one, [f"/curl/{i}" for i in range(COUNT)]))
    cookies = {entry["pid"]: {entry["cookie"]: entry["local_port"]} for entry in clients.cookies_of(noted)}
    executable = os.path.realpath(clients.CURL)
    return [
        Expected(path, pid, executable, cookies[pid], "native", "origin.test") for path, pid in pids.items()
    ]


def run_python(test):
    """One connection; its cookie is read by the client itself."""
    finished, answers = clients.run_json(clients.python_command(test.origin.port, test.ca, "/python", COUNT))
    executable = os.path.realpath(clients.PYTHON)
    return [
        Expected(
            answer["path"],
            finished.pid,
            executable,
            {answer["cookie"]: answer["local_port"]},
            "native",
            "127.0.0.1",
        )
        for answer in answers
    ]


def run_java(test, main, name):
    noted = test.directory / f"{name}-cookies"
    command = clients.java_command(test.classes, main, test.url(f"/{name}"), COUNT)
    _, answers = clients.run_json(
        test.agent.exec_command(*clients.with_cookies(noted), *command), timeout=120
    )
    proxy_port = int(test.agent.proxy_address().rpartition(":")[2])
    connections = {
        entry["cookie"]: entry["local_port"]
        for entry in clients.cookies_of(noted)
        if entry["pid"] == answers[0]["pid"] and entry["peer_port"] == proxy_port
    }
    executable = os.path.realpath("/usr/bin/java")
    return [
        Expected(answer["path"], answer["pid"], executable, connections, "proxy", "localhost")
        for answer in answers
    ]


def socket_of(record):
    return record.get("weir.socket.cookie"), record.get("network.local.port")


class FeedTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.classes = clients.compile_java(cls.directory)
        cls.agent = cls.start_class_agent()
        cls.own_pids = cls.agent.own_pids()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            runs = [
                pool.submit(run_curl, cls),
                pool.submit(run_python, cls),
                pool.submit(run_java, cls, "HttpClientRequests", "java-http"),
                pool.submit(run_java, cls, "UrlConnectionRequests", "java-url"),
            ]
            cls.expected = {one.path: one for run in runs for one in run.result()}
        cls.agent.wait_for_exchanges(cls.origin.port, len(cls.expected))
        cls.agent.stop()
        cls.records = cls.agent.feed.records()
        cls.by_path = {cls.path_of(record): record for record in cls.agent.exchanges(cls.origin.port)}

    @classmethod
    def path_of(cls, record):
        return cls.origin.path_of(record["url.full"])

    def each(self):
        for path, expected in self.expected.items():
            self.assertIn(path, self.by_path)
            yield expected, self.by_path[path]

    def assert_fields(self, fields_of):
        """`fields_of(expected)` gives the keys and values that its record must have."""
        self.assert_no_mismatch(
            [
                f"{expected.path}: {key} is {record.get(key)!r}, not {value!r}"
                for expected, record in self.each()
                for key, value in fields_of(expected).items()
                if record.get(key) != value
            ]
        )

    def test_the_clients_did_what_the_origin_saw(self):
        self.assertEqual(len(self.expected), 4 * COUNT)
        seen = collections.Counter(request["path"] for request in self.origin.requests())
        self.assertEqual(seen, collections.Counter(self.expected.keys()))

    def test_exactly_one_record_for_each_path(self):
        recorded = collections.Counter(map(self.path_of, self.agent.exchanges(self.origin.port)))
        self.assertEqual(recorded, collections.Counter(self.expected.keys()))

    def test_no_exchange_is_left_over(self):
        involved = {expected.pid for expected in self.expected.values()} | self.own_pids | self.origin.pids()
        left = [
            record
            for record in self.agent.exchanges()
            if f":{self.origin.port}/" not in record.get("url.full", "")
            and (
                record.get("process.pid") in involved
                or self.origin.port in (record.get("network.peer.port"), record.get("server.port"))
            )
        ]
        self.assertEqual(left, [])

    def test_process(self):
        self.assert_fields(
            lambda expected: {
                "process.pid": expected.pid,
                "process.executable.path": expected.executable,
                "process.executable.name": os.path.basename(expected.executable),
            }
        )

    def test_socket_cookie_and_local_port(self):
        self.assert_no_mismatch(
            [
                f"{expected.path}: {socket_of(record)} is none of {expected.connections}"
                for expected, record in self.each()
                if socket_of(record) not in expected.connections.items()
            ]
        )

    def test_java_kept_its_connections(self):
        for name in ("java-http", "java-url"):
            sockets = {socket_of(record) for path, record in self.by_path.items() if f"/{name}/" in path}
            self.assertLess(len(sockets), 5, name)

    def test_request_and_answer(self):
        self.assert_fields(
            lambda expected: {
                "http.request.method": "GET",
                "url.full": expected.url(self.origin.port),
                "http.response.status_code": 200,
                "http.request.body.size": 0,
                "http.response.body.size": len(small_body(expected.path)),
            }
        )

    def test_peer_is_the_origin(self):
        self.assert_fields(
            lambda expected: {
                "network.peer.address": "127.0.0.1",
                "network.peer.port": self.origin.port,
                "server.address": expected.host,
                "server.port": self.origin.port,
            }
        )

    def test_source(self):
        self.assert_fields(lambda expected: {"weir.source": [expected.source]})

    def test_exchanges_are_final_and_whole(self):
        self.assert_fields(lambda _: {"weir.final": True, "weir.incomplete": None, "weir.gap.bytes": None})

    def test_no_record_names_weir_or_the_origin(self):
        servers = self.own_pids | self.origin.pids()
        named = [record for record in self.records if record.get("process.pid") in servers]
        traffic = [record for record in named if record["weir.record"] != "process"]
        self.assertEqual(traffic, [])
        self.assertEqual([record for record in named if record.get("process.pid") in self.own_pids], [])


if __name__ == "__main__":
    unittest.main()
