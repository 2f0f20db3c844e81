"""Network namespaces with an interface to the host's, gone with the test."""

import itertools
import os

from harness.processes import check, run


class NetworkNamespace:
    """`outside` is the host's address in the network that both share, `inside` the namespace's. 198.18.0.0/15 is for such
    tests (RFC 2544)."""

    _numbers = itertools.count()

    def __init__(self):
        number = next(self._numbers)
        self._name = f"weir-{os.getpid()}-{number}"
        self._link = f"wr{os.getpid()}n{number}"
        network = f"198.{18 + number % 2}.{os.getpid() % 250}.{4 * (number // 2)}"
        base, _, last = network.rpartition(".")
        self.outside, self.inside = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
        check(["ip", "netns", "add", self._name])
        try:
            self._connect()
        except BaseException:
            self.clean_up()
            raise

    def _connect(self):
        check(["ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._name])
        check(["ip", "address", "add", f"{self.outside}/30", "dev", self._link])
        check(["ip", "link", "set", self._link, "up"])
        for command in (["address", "add", f"{self.inside}/30", "dev", "eth0"], ["link", "set", "eth0", "up"],
                        ["link", "set", "lo", "up"]):
            check(["ip", "-n", self._name, *command])

    def enter(self, *command):
        """The command that runs `command` there."""
        return ["ip", "netns", "exec", self._name, *command]

    @property
    def path(self):
        return f"/run/netns/{self._name}"

    def delete(self):
        """Its interfaces go with it, when nobody holds it any more."""
        check(["ip", "netns", "del", self._name])

    def is_there(self):
        return run(["ip", "link", "show", self._link]).status == 0

    def clean_up(self):
        run(["ip", "netns", "del", self._name])
        run(["ip", "link", "del", self._link])
