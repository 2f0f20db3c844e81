"""A recorded event stream, replayed by an ordinary user without eBPF, gives the live exchange records."""

import json
import unittest

from harness import clients
from harness.agent import AS_NOBODY, readable_copy
from harness.case import EndToEndTest
from harness.processes import check

# Times and ids: a replay has its own.
VARYING = (
    "timestamp",
    "process.creation.time",
    "weir.duration_ns",
    "host.id",
    "weir.boot.id",
    "weir.record.id",
    "weir.connection.id",
)


def comparable(records):
    """Exchange records without what may differ, in an order of their own."""
    kept = [
        {key: value for key, value in record.items() if key not in VARYING}
        for record in records
        if record["weir.record"] == "exchange"
    ]
    return sorted(kept, key=lambda record: (record.get("url.full", ""), json.dumps(record, sort_keys=True)))


class ReplayTest(EndToEndTest):
    def make_traffic(self, agent):
        """Gives the number of exchanges."""
        for i in range(5):
            check(clients.curl_command(self.url(f"/curl/{i}", "127.0.0.1"), ca=self.ca))
            check(agent.exec_command(*clients.curl_command(self.url(f"/proxied/{i}"))))
        check(clients.python_command(self.origin.port, self.ca, "/python", 20))
        requests = [f"PUT:/uploads/replay/32769={self.origin.file(32769)}", "GET:/files/replay/5000000"]
        check(clients.tls_client_command(self.origin.port, *requests, ca=self.ca))
        return 5 + 5 + 20 + 2

    def replay_as_nobody(self, recording):
        recording.chmod(0o644)
        replayed = check([*AS_NOBODY, readable_copy(self.directory), "replay", recording])
        return clients.json_lines(replayed.stdout)

    def test_replay_gives_the_same_exchanges(self):
        recording = self.directory / "recording"
        agent = self.start_agent("--record", recording)
        count = self.make_traffic(agent)
        agent.wait_for_exchanges(self.origin.port, count)
        agent.stop()
        live = comparable(agent.exchanges(self.origin.port))
        self.assertEqual(len(live), count)
        replayed = comparable(self.replay_as_nobody(recording))
        marker = f":{self.origin.port}/"
        self.assertEqual([record for record in replayed if marker in record.get("url.full", "")], live)


if __name__ == "__main__":
    unittest.main()
