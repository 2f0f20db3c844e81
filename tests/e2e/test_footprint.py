"""What the agent takes, and that it gives it back. Prints its figures; bench/footprint prints them with a peer's."""

import unittest

from harness import clients, footprint
from harness.case import SOAK, EndToEndTest
from harness.load import HeldConnections, come_and_go

PROCESSES, SECONDS, CONNECTIONS = 2000, 20, 5000
# An open connection that waits for its next request takes no more.
NATIVE_KIB, PROXY_KIB, CACHES_KIB = 16, 48, 16 * 1024
MEMORY_AGAIN = 1.10
KEPT_SECONDS = 75  # longer than what is known of a process or a connection stays after its end


@unittest.skipUnless(SOAK, "takes minutes: scripts/test --soak")
class FootprintTest(EndToEndTest):
    def setUp(self):
        self.agent = self.start_agent(name="footprint")
        both = self.ca.read_bytes() + (self.agent.state_dir / "ca" / "ca.crt").read_bytes()
        self.bundle = self.directory / "both.pem"
        self.bundle.write_bytes(both)
        self.exchanges = 0

    def tell(self, what):
        for name, process in footprint.processes(self.agent).items():
            print(f"{what}: {name} {process.private_kib / 1024:.1f} MiB, {process.descriptors} descriptors", flush=True)

    def wait_for_exchanges(self, more):
        self.exchanges += more
        self.agent.wait_for(
            lambda: len(self.agent.exchanges(self.origin.port)) >= self.exchanges, "exchanges are missing", 60
        )

    def hold(self, name, ca, kib_each, *options):
        before = footprint.processes(self.agent)["worker"].private_kib
        with HeldConnections(self.origin, ca, CONNECTIONS, f"/held/{name}", *options):
            self.wait_for_exchanges(CONNECTIONS)
            self.tell(f"{name}: {CONNECTIONS} connections held")
            taken = footprint.processes(self.agent)["worker"].private_kib - before
        self.assertLess(taken, CONNECTIONS * kib_each + CACHES_KIB, name)

    def load_natively(self, name):
        def command(number):
            return clients.tls_client_command(self.origin.port, f"GET:/{name}/{number}", ca=self.ca)

        took = come_and_go(command, PROCESSES, SECONDS)
        print(f"{name}: {PROCESSES} processes in {took:.1f} s", flush=True)
        self.wait_for_exchanges(PROCESSES)
        self.hold(f"{name}/native", self.ca, NATIVE_KIB)

    def load_both_ways(self, name):
        self.load_natively(name)
        self.hold(f"{name}/proxy", self.bundle, PROXY_KIB, "--proxy", self.agent.proxy_address())

    def held(self):
        """Descriptors and BPF objects. The latter grow with libraries that others on this host map meanwhile."""
        descriptors = {name: process.descriptors for name, process in footprint.processes(self.agent).items()}
        return descriptors, footprint.held_objects(self.agent)

    def memory_is_like(self, before, pids):
        now = footprint.of_pids(pids)
        return all(now[name].private_kib <= before[name].private_kib * MEMORY_AGAIN for name in now)

    def gives_back(self, before, what):
        pids = footprint.pids(self.agent)
        self.agent.wait_for(lambda: self.memory_is_like(before, pids), f"{what}: more memory than {before}", 180)
        self.tell(f"after {what}")

    def test_gives_back_what_it_took(self):
        held = self.held()
        ready = footprint.processes(self.agent)
        self.tell("ready")
        self.load_natively("first")
        self.gives_back(ready, "the first")
        # What is kept on purpose (Asio's descriptors, TLS contexts) is there after a first round through the proxy;
        # another must add nothing.
        self.load_both_ways("second")
        used = footprint.settled(self.agent, seconds=KEPT_SECONDS, timeout=300)
        self.tell("after the second")
        self.load_both_ways("third")
        self.gives_back(used, "the third")
        self.agent.wait_for(lambda: self.held() == held, f"not {held} again")
        self.agent.wait_for(lambda: not footprint.stale_entries(self.agent), "map entries stay")
        self.agent.stop()


if __name__ == "__main__":
    unittest.main()
