"""What both taps can see gives one record; what comes thick and fast is neither missed nor doubled."""

import collections
import concurrent.futures
import os
import shutil
import unittest

from harness import clients
from harness.agent import AS_NOBODY, NOBODY, readable_copy
from harness.case import EndToEndTest
from harness.processes import check

FRESH_PROCESSES = 1000
AT_ONCE = 4


class BothTapsTest(EndToEndTest):
    def assert_one_record(self, agent, path):
        """The path's only record, after the agent has ended and can add none."""
        agent.wait_for_exchanges(self.origin.port, 1)
        agent.stop()
        records = agent.exchanges(self.origin.port)
        self.assertEqual([record["url.full"] for record in records], [self.url(path)])
        return records[0]

    def run_proxied_curl(self, agent, path, ca=None):
        """Gives the cookie of curl's socket."""
        noted = self.directory / f"{self.id()}-cookies"
        command = clients.curl_command(self.url(path), ca=ca)
        check(agent.exec_command(*clients.with_cookies(noted), *command))
        (connect,) = clients.cookies_of(noted)
        return connect["cookie"]

    def test_bumped_curl(self):
        agent = self.start_agent()
        cookie = self.run_proxied_curl(agent, "/bumped")
        record = self.assert_one_record(agent, "/bumped")
        self.assertEqual(record["weir.source"], ["proxy"])
        self.assertEqual(record["weir.decision"], "bumped")
        self.assertEqual(record["weir.socket.cookie"], cookie)
        self.assertEqual(record["process.executable.name"], "curl")

    def test_tunnelled_curl(self):
        configuration = self.directory / "passthrough.yaml"
        configuration.write_text("proxy:\n  passthrough:\n    - localhost\n")
        agent = self.start_agent("--config", configuration)
        cookie = self.run_proxied_curl(agent, "/tunnelled", ca=self.ca)
        record = self.assert_one_record(agent, "/tunnelled")
        self.assertEqual(record["weir.source"], ["native"])
        self.assertIn(record["weir.decision"], ("tunnelled", "passed_through"))
        self.assertEqual(record["weir.socket.cookie"], cookie)
        self.assertEqual(record["network.peer.address"], "127.0.0.1")
        self.assertEqual(record["network.peer.port"], self.origin.port)
        self.assertEqual(record["server.address"], "localhost")


class ProxyAloneTest(EndToEndTest):
    """Without the native tap the proxy still knows who its clients are."""

    def assert_attributed(self, agent, as_user=()):
        noted = self.directory / f"{self.id()}-cookies"
        noted.touch()
        noted.chmod(0o666)
        # The build directory may be closed to the user.
        preload = shutil.copy(clients.PRELOAD, self.directory / "cookie_preload.so")
        command = clients.curl_command(self.url("/alone"))
        curl = check([*as_user, *agent.exec_command(*clients.with_cookies(noted, preload), *command)])
        (record,) = agent.wait_for_exchanges(self.origin.port, 1)
        (connect,) = clients.cookies_of(noted)
        self.assertEqual(record["weir.source"], ["proxy"])
        self.assertEqual(record["process.pid"], curl.pid)
        self.assertEqual(record["process.executable.name"], "curl")
        self.assertEqual(record["weir.socket.cookie"], connect["cookie"])
        agent.stop()

    def test_as_root(self):
        self.assert_attributed(self.start_agent("--no-native"))

    def test_as_an_ordinary_user(self):
        home = self.directory / "home"
        home.mkdir()
        weir = readable_copy(home)
        os.chown(home, NOBODY, NOBODY)
        agent = self.start_agent(directory=home, start=[*AS_NOBODY, weir])
        self.assert_attributed(agent, AS_NOBODY)


class ManyProcessesTest(EndToEndTest):
    def command(self, kind, path):
        if kind == "curl":
            return clients.curl_command(self.url(path, "127.0.0.1"), ca=self.ca)
        return clients.tls_client_command(self.origin.port, f"GET:{path}", ca=self.ca)

    def run_one(self, request):
        kind, path = request
        return path, check(self.command(kind, path)).pid

    def test_fresh_processes(self):
        agent = self.start_agent()
        requests = [(kind, f"/{kind}/{i}") for i in range(FRESH_PROCESSES) for kind in ("curl", "tls-client")]
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            pids = dict(pool.map(self.run_one, requests))
        agent.wait_for_exchanges(self.origin.port, len(requests))
        agent.stop()
        records = agent.exchanges(self.origin.port)
        recorded = collections.Counter(record["url.full"] for record in records)
        expected = collections.Counter(self.url(path, "127.0.0.1") for path in pids)
        self.assertEqual(recorded - expected, collections.Counter(), "doubled")
        self.assertEqual(expected - recorded, collections.Counter(), "missed")
        self.assert_no_mismatch(
            [
                f"{record['url.full']} is said to be of pid {record.get('process.pid')}"
                for record in records
                if record.get("process.pid") != pids[self.origin.path_of(record["url.full"])]
            ]
        )
        self.assertEqual(len({record["weir.socket.cookie"] for record in records}), len(requests))


if __name__ == "__main__":
    unittest.main()
