"""Bodies of awkward sizes, both ways, through every form of the library's calls: each recorded body is the
one that was sent. Under more load than the tap must bear, each missing byte is accounted for."""

import concurrent.futures
import hashlib
import os
import signal
import unittest

from harness import clients
from harness.case import EndToEndTest
from harness.processes import check, wait_until

SIZES = (1, 8191, 8192, 8193, 16384, 32769, 5_000_000)
MANY = 64
SIZE_OF_MANY = 1_000_000
PROCESSES_WHILE_STOPPED = 800
EMPTY = (0, hashlib.sha256(b"").hexdigest())

# Each way of calling libssl, with tls_client's options for it.
VARIANTS = {
    "blocking": ["--touched", "--partial"],
    "blocking-untouched": ["--ex", "--untouched"],
    "nonblocking": ["--touched", "--ex", "--nonblocking"],
    "nonblocking-untouched": ["--nonblocking", "--untouched"],
    "partial": ["--touched", "--nonblocking", "--partial", "--read-size", "100000"],
    "partial-untouched": ["--ex", "--nonblocking", "--partial", "--untouched", "--read-size", "8192"],
}


def sent_and_received(record):
    """The recorded bodies as (size, SHA-256); an empty one may be left out."""
    return record.get("weir.request.body", EMPTY), record.get("weir.response.body", EMPTY)


class BodyTransfers(EndToEndTest):
    """Sends and fetches bodies, and compares them with the records."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent(*cls.agent_options())

    @classmethod
    def agent_options(cls):
        return ["--bodies"]

    def transfers(self, name, sizes):
        """What each path carries: (sent, received) as (size, SHA-256)."""
        for size in sizes:
            body = (size, self.origin.hashes[size])
            yield f"/uploads/{name}/{size}", (body, EMPTY)
            yield f"/files/{name}/{size}", (EMPTY, body)

    def run_tls_client(self, name, options, sizes=SIZES, prefix=(), **where):
        """PUTs and GETs each size over one connection."""
        requests = []
        for size in sizes:
            requests += [f"PUT:/uploads/{name}/{size}={self.origin.file(size)}", f"GET:/files/{name}/{size}"]
        command = clients.tls_client_command(self.origin.port, *options, *requests, **where)
        _, answers = clients.run_json([*prefix, *command], timeout=120)
        for size, put, get in zip(sizes, answers[0::2], answers[1::2]):
            self.assertEqual(put["status"], 201)
            self.assertEqual(self.origin.uploaded_hash(put["path"]), self.origin.hashes[size])
            self.assertEqual((get["size"], get["sha256"]), (size, self.origin.hashes[size]))
        return answers

    def records_by_path(self, name):
        records = [r for r in self.agent.exchanges(self.origin.port) if f"/{name}/" in r["url.full"]]
        by_path = {self.origin.path_of(record["url.full"]): record for record in records}
        self.assertEqual(len(by_path), len(records), "a path was recorded twice")
        return by_path

    def wait_for_records(self, name, count):
        wait_until(
            lambda: len(self.records_by_path(name)) >= count,
            60,
            lambda: f"{count} exchanges of {name}; there are {len(self.records_by_path(name))}",
        )
        return self.records_by_path(name)

    def assert_recorded(self, name, source, sizes=SIZES):
        transfers = dict(self.transfers(name, sizes))
        by_path = self.wait_for_records(name, len(transfers))
        self.assertEqual(by_path.keys(), transfers.keys())
        for path, (sent, received) in transfers.items():
            record = by_path[path]
            self.assertEqual(sent_and_received(record), (sent, received), path)
            self.assertEqual(record["http.request.body.size"], sent[0], path)
            self.assertEqual(record["http.response.body.size"], received[0], path)
            self.assertEqual(record["weir.source"], [source], path)
            self.assertNotIn("weir.incomplete", record, path)
            self.assertFalse(record.get("weir.body.truncated"), path)

    def run_many(self):
        """As many clients at once; gives each one's last answer by its name."""
        with concurrent.futures.ThreadPoolExecutor(MANY) as pool:
            options = VARIANTS["partial"]
            runs = {
                name: pool.submit(self.run_tls_client, name, options, [SIZE_OF_MANY], ca=self.ca)
                for name in (f"many-{i}" for i in range(MANY))
            }
            return {name: run.result()[-1] for name, run in runs.items()}

    def connection_gaps(self, cookies):
        """Each cookie's gap bytes, as its connection record has them; None while one is missing."""
        gaps = {
            record["weir.socket.cookie"]: record.get("weir.gap.bytes", 0)
            for record in self.agent.feed.records()
            if record["weir.record"] == "connection" and record["weir.final"]
        }
        return {cookie: gaps[cookie] for cookie in cookies} if gaps.keys() >= cookies else None

    def assert_nothing_lost_unsaid(self, ends):
        """Gives the connections' gap bytes."""
        cookies = {end["cookie"] for end in ends.values()}
        gaps = self.agent.wait_for(lambda: self.connection_gaps(cookies), "each connection's record", 60)
        for name, end in ends.items():
            with self.subTest(name):
                recorded = self.records_by_path(name)
                gap = gaps[end["cookie"]]
                of_exchanges = sum(record.get("weir.gap.bytes", 0) for record in recorded.values())
                self.assertLessEqual(of_exchanges, gap)
                self.assertLessEqual(gap, end["plaintext"])
                for path, bodies in self.transfers(name, [SIZE_OF_MANY]):
                    whole = path in recorded and sent_and_received(recorded[path]) == bodies
                    if not whole:
                        self.assertGreater(gap, 0, f"{path} has neither its whole record nor a gap")
                    if not whole and path in recorded:
                        self.assert_gap_explains(recorded[path], bodies)
        counted = self.agent.status()["counters"]
        seen = counted["native"]["bytes"] + counted["engine"]["gap_bytes"]
        self.assertGreaterEqual(seen, sum(end["plaintext"] for end in ends.values()))
        return gaps

    def assert_gap_explains(self, record, bodies):
        """What the recorded bodies lack, the gap accounts for."""
        self.assertEqual(record["weir.incomplete"], "gap")
        (kept_sent, _), (kept_received, _) = sent_and_received(record)
        (sent, _), (received, _) = bodies
        missing = sent - kept_sent
        # Without its head an answer can't be told from other bytes, so what was seen of it isn't counted.
        if "http.response.status_code" in record:
            missing += received - kept_received
        self.assertGreaterEqual(record.get("weir.gap.bytes", 0), missing, record["url.full"])


class BodiesTest(BodyTransfers):
    def run_all_variants(self, source, more_options=(), **how):
        """Every variant, four connections at once."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            runs = [
                pool.submit(self.run_tls_client, f"{source}-{name}", [*options, *more_options], **how)
                for name, options in VARIANTS.items()
            ]
            for run in runs:
                run.result()
        for name in VARIANTS:
            with self.subTest(name):
                self.assert_recorded(f"{source}-{name}", source)

    def test_native(self):
        self.run_all_variants("native", ca=self.ca)

    def test_native_one_connection(self):
        for name, options in VARIANTS.items():
            with self.subTest(name):
                self.run_tls_client(f"alone-{name}", options, ca=self.ca)
                self.assert_recorded(f"alone-{name}", "native")

    def test_proxy(self):
        proxy = ["--proxy", self.agent.proxy_address()]
        self.run_all_variants("proxy", proxy, prefix=self.agent.exec_command(), host="localhost")

    def test_proxied_curl(self):
        for size in SIZES:
            upload, download = f"/uploads/curl/{size}", f"/files/curl/{size}"
            sending = clients.curl_command(self.url(upload), "--upload-file", self.origin.file(size))
            check(self.agent.exec_command(*sending))
            check(self.agent.exec_command(*clients.curl_command(self.url(download))))
            self.assertEqual(self.origin.uploaded_hash(upload), self.origin.hashes[size])
        self.assert_recorded("curl", "proxy")

    def test_text_is_recorded_as_text(self):
        path = "/text/body"
        check(clients.curl_command(self.url(path, "127.0.0.1"), ca=self.ca))
        record = self.wait_for_records("text", 1)[path]
        self.assertEqual(record["weir.response.body.encoding"], "utf8")

    def test_many_connections(self):
        self.assert_nothing_lost_unsaid(self.run_many())


class OverloadTest(BodyTransfers):
    """With a ring of 1 MiB about half of what passes is lost, and all of it must be said."""

    @classmethod
    def agent_options(cls):
        configuration = cls.directory / "small-ring.yaml"
        configuration.write_text("native:\n  ring_bytes: 1048576\n")
        return ["--bodies", "--config", configuration]

    def test_many_connections(self):
        gaps = self.assert_nothing_lost_unsaid(self.run_many())
        self.assertGreater(sum(gaps.values()), 0, "nothing was lost: this proves nothing")
        # The tap works again as if nothing had been.
        self.run_tls_client("afterwards", VARIANTS["blocking"], [1, 32769], ca=self.ca)
        self.assert_recorded("afterwards", "native", [1, 32769])

    def test_stopped_worker_misses_no_connection(self):
        """Nobody empties the ring, and it hasn't room for so many processes' lives."""
        noted = self.directory / "cookies-while-stopped"
        prefix = clients.with_cookies(noted)
        worker = self.agent.worker_pid()
        os.kill(worker, signal.SIGSTOP)
        try:
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                urls = [self.url(f"/while-stopped/{i}", "127.0.0.1") for i in range(PROCESSES_WHILE_STOPPED)]
                list(pool.map(lambda url: check([*prefix, *clients.curl_command(url, ca=self.ca)]), urls))
        finally:
            os.kill(worker, signal.SIGCONT)
        pids = {connect["cookie"]: connect["pid"] for connect in clients.cookies_of(noted)}
        self.assertEqual(len(pids), PROCESSES_WHILE_STOPPED)
        self.agent.wait_for(lambda: self.connection_gaps(pids.keys()), "each connection's record", 60)
        records = [
            record
            for record in self.agent.feed.records()
            if record["weir.record"] == "connection"
            and record["weir.final"]
            and record["weir.socket.cookie"] in pids
        ]
        self.assertEqual({record["weir.socket.cookie"]: record["process.pid"] for record in records}, pids)
        self.assertEqual(len(records), len(pids), "a connection was recorded twice")
        untold = self.agent.status()["counters"]["native"]["untold_connections"]
        self.assertGreater(untold, 0, "the ring had room for all: this proves nothing")


if __name__ == "__main__":
    unittest.main()
