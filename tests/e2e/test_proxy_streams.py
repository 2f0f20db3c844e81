"""What streams through the proxy isn't held up: the first event, frame or message of an answer that stays open is with
the client within 5 ms, in the median."""

import json
import statistics
import subprocess
import unittest

from harness import clients
from harness.case import EndToEndTest
from harness.processes import end, spawn

PROGRAMS = clients.SOURCES / "streams"
COUNT = 100
MOST_MILLISECONDS = 5


class StreamsTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        leaf = cls.authority.leaf("streams")
        command = [clients.PYTHON, "-B", PROGRAMS / "origin.py", leaf.certificate, leaf.key]
        server = spawn(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(end, server)
        cls.addClassCleanup(server.stdout.close)
        cls.ports = json.loads(server.stdout.readline())

    def begin_streams(self, way, port):
        command = [clients.PYTHON, "-B", PROGRAMS / "client.py", way, port, COUNT]
        finished, [said] = clients.run_json(self.agent.exec_command(*command), timeout=60)
        self.assertEqual(len(said["milliseconds"]), COUNT)
        self.assertLessEqual(statistics.median(said["milliseconds"]), MOST_MILLISECONDS, said)
        return finished.pid

    def records(self, path, port, pid, count=COUNT):
        """The final ones, each of which is the client's and the proxy's."""
        def found():
            return [record for record in self.agent.exchanges(port)
                    if record["url.full"].endswith(path) and record["weir.final"]]

        self.agent.wait_for(lambda: len(found()) >= count, f"{count} records of {path}")
        self.assertEqual(len(found()), count)
        self.assertEqual({(record["process.pid"], *record["weir.source"]) for record in found()}, {(pid, "proxy")})
        return found()

    def test_events(self):
        pid = self.begin_streams("sse", self.ports["port"])
        for record in self.records("/events", self.ports["port"], pid):
            self.assertEqual(record["http.response.status_code"], 200)

    def test_websocket(self):
        pid = self.begin_streams("websocket", self.ports["port"])
        for record in self.records("/socket", self.ports["port"], pid):
            self.assertEqual(record["http.response.status_code"], 101)

    def test_grpc(self):
        port = self.ports["grpc_port"]
        pid = self.begin_streams("grpc", port)
        for record in self.records("/t.Streams/First", port, pid):
            self.assertEqual(record["network.protocol.version"], "2")
            self.assertEqual(record["rpc.method"], "t.Streams/First")
        [echo] = self.records("/t.Streams/Echo", port, pid, count=1)
        self.assertEqual(echo["rpc.response.status_code"], "OK")


if __name__ == "__main__":
    unittest.main()
