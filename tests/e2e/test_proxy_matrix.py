"""Real clients through the proxy, by each way that they can be brought there: each works, and each of its requests
has exactly one right record, of the client's own process. Prints the table of docs/clients.md.
"""

import collections
import ctypes
import os
import subprocess
import unittest

from harness.agent import WEIR
from harness.case import EndToEndTest
from harness.processes import check, clean_environment
from harness.proxied import COUNT, HOST, rows

WAYS = {"exec": [], "mount": ["--inject", "mount"], "transparent": ["--transparent"]}
# Go, Ruby and others send nothing to a proxy that goes to loopback's addresses.
ADDRESS = "10.77.0.1"
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def enter_own_network(directory):
    """A network and mounts of this process's own, and of what it starts, in which HOST is ADDRESS."""
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n::1 localhost\n{ADDRESS} {HOST}\n")
    for call, arguments in (
        (_libc.unshare, (_CLONE_NEWNS | _CLONE_NEWNET,)),
        (_libc.mount, (b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)),
        (_libc.mount, (str(hosts).encode(), b"/etc/hosts", None, _MS_BIND, None)),
    ):
        if call(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{call.__name__}{arguments}")
    check(["ip", "link", "set", "lo", "up"])
    check(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"])


class ProxyMatrixTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        leaf = cls.authority.leaf("good")
        return {"good": leaf, "h2": leaf, "plain": None}

    @classmethod
    def origin_address(cls):
        enter_own_network(cls.directory)
        return ADDRESS

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.rows = rows(cls.origin, cls.directory, os.environ.get("WEIR_E2E_ROWS", ""))

    def test_every_client_by_every_way(self):
        table, wrong = [], []
        ways = [way for way in WAYS if os.environ.get("WEIR_E2E_WAYS", "") in way]
        for row in self.rows:
            cells = []
            for way in ways:
                faults = self.faults(row, way) if way in row.ways else None
                cells.append("-" if faults is None else "WRONG" if faults else "ok")
                wrong += [f"{row.name} by {way}: {fault}" for fault in faults or ()]
            table.append(f"| {row.name} | {' | '.join(cells)} |")
        print(f"\n| client | {' | '.join(ways)} |\n" + "\n".join(table))
        self.assert_no_mismatch(wrong)

    def faults(self, row, way):
        seen = len(self.records_of(row))
        pids = set()
        for arguments in row.commands:
            command = [WEIR, "exec", "--state-dir", self.agent.state_dir, *WAYS[way], "--", *arguments]
            environment = clean_environment() | {"HOME": str(self.directory)} | row.environment
            process = subprocess.Popen(
                [str(part) for part in command], env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
            )
            out, err = process.communicate(timeout=60)
            pids.add(process.pid)
            if process.returncode != 0 and not row.may_fail:
                return [f"{arguments}: {out[-1000:]}{err[-1000:]}"]
        try:
            self.agent.wait_for(lambda: len(self.records_of(row)) >= seen + COUNT, f"{COUNT} records", timeout=8)
        except AssertionError as error:
            return [f"{len(self.records_of(row)) - seen} of {COUNT} records. {str(error).splitlines()[0][:600]}"]
        return self.faults_of(row, self.records_of(row)[seen:], pids)

    def records_of(self, row):
        mark, port = "/" + row.name.replace(" ", "-") + "/", self.origin.ports[row.server]
        return [record for record in self.agent.exchanges(port) if mark in record["url.full"]]

    def faults_of(self, row, records, pids):
        faults, found = [], collections.Counter()
        scheme = "http" if row.server == "plain" else "https"
        for record in records:
            i = int(record["url.full"].split("/")[4].partition("?")[0])
            found[i] += 1
            expected = {
                "http.request.method": row.methods[i % 2],
                "http.response.status_code": 200,
                "network.protocol.version": row.version,
                "weir.source": ["proxy"],
                "network.peer.address": ADDRESS,
                "network.peer.port": self.origin.ports[row.server],
                "server.address": HOST,
            }
            if row.methods[i % 2] == "POST":
                expected["http.request.body.size"] = i
            if row.name not in ("git", "apt"):  # others' programs ask in their place
                expected["process.pid"] = record["process.pid"] if record["process.pid"] in pids else pids
            for key, value in expected.items():
                if record.get(key) != value:
                    faults.append(f"request {i}: {key} is {record.get(key)!r}, not {value!r}")
            if not record["url.full"].startswith(f"{scheme}://{HOST}:"):
                faults.append(f"request {i}: {record['url.full']}")
            if "weir.incomplete" in record:
                faults.append(f"request {i}: {record['weir.incomplete']}")
        return faults + [f"request {i}: {found[i]} records" for i in range(COUNT) if found[i] != 1]


if __name__ == "__main__":
    unittest.main()
