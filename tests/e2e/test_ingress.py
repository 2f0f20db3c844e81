"""`ingress: true`: what a server was asked is a record of the server's own, beside its client's."""

import collections
import unittest

from harness import clients
from harness.case import EndToEndTest
from harness.processes import check

PATHS = [f"/{number}" for number in range(5)]


class IngressTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good"), "h2": cls.authority.leaf("h2"), "plain": None}

    def get_all(self, server):
        """All paths by one curl, over one connection; gives its pid."""
        scheme = "http" if server == "plain" else "https"
        urls = [f"{scheme}://localhost:{self.origin.ports[server]}{path}" for path in PATHS]
        command = [clients.CURL, "-sS", "--noproxy", "*", "--cacert", self.ca]
        for url in urls:
            command += [url, "-o", "/dev/null"]
        return check(command).pid, urls

    def test_a_servers_side(self):
        configuration = self.directory / "ingress.yaml"
        configuration.write_text("ingress: true\n")
        agent = self.start_agent("--config", configuration)
        by_server = {server: self.get_all(server) for server in self.origin.ports}
        sides = 2
        for server, port in self.origin.ports.items():
            agent.wait_for_exchanges(port, sides * len(PATHS))
        for server, (curl, urls) in by_server.items():
            with self.subTest(server):
                self.check_sides(agent, server, curl, urls)

    def check_sides(self, agent, server, curl, urls):
        port = self.origin.ports[server]
        records = agent.exchanges(port)
        asked = [record for record in records if record["process.pid"] == curl]
        served = [record for record in records if record["process.pid"] != curl]
        for side in (asked, served):
            self.assertEqual(collections.Counter(record["url.full"] for record in side), collections.Counter(urls))
            self.assertEqual({record["http.response.status_code"] for record in side}, {200})
            self.assertEqual({tuple(record["weir.source"]) for record in side}, {("native",)})
        self.assertLessEqual({record["process.pid"] for record in served}, self.origin.pids())
        (client_port,) = {record["network.local.port"] for record in asked}
        self.assertEqual({record["network.peer.port"] for record in served}, {client_port})
        self.assertEqual({record["network.local.port"] for record in served}, {port})
        self.assertEqual(len({record["weir.socket.cookie"] for record in records}), 2)
        agent.wait_for(
            lambda: {record["process.pid"] for record in self.connections_of(agent, port)}
            >= {curl, *(record["process.pid"] for record in served)},
            "a side's connection has no record",
        )

    def connections_of(self, agent, port):
        return [
            record
            for record in agent.feed.records()
            if record["weir.record"] == "connection"
            and port in (record.get("network.local.port"), record.get("network.peer.port"))
        ]

    def test_left_out_unless_asked_for(self):
        agent = self.start_agent()
        curl, _ = self.get_all("good")
        agent.wait_for_exchanges(self.origin.port, len(PATHS))
        agent.wait_for(
            lambda: curl in {record["process.pid"] for record in self.connections_of(agent, self.origin.port)},
            "curl's connection has no record",
        )
        self.assertEqual({record["process.pid"] for record in agent.exchanges(self.origin.port)}, {curl})
        self.assertEqual(
            {record["process.pid"] for record in self.connections_of(agent, self.origin.port)}, {curl}
        )


if __name__ == "__main__":
    unittest.main()
