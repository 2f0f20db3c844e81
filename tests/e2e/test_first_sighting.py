"""Programs and libraries that nobody has seen before: each client runs once, at once, from a file that was just made,
and its first exchange is read. What is missed says that it was late.

Prints a table: of how many first exchanges how many were read, with a new program, and with a new library, too.
"""

import collections
import dataclasses
import os
import pathlib
import shutil
import subprocess
import unittest

from harness.case import SOAK, EndToEndTest
from harness.clients import BUILT, CURL, PYTHON
from harness.go import go_program
from harness.matrix import GO_SHAPES, PROGRAMS, nss_database, typed
from harness.processes import clean_environment

ROUNDS = int(os.environ.get("WEIR_E2E_ROUNDS", "50" if SOAK else "2"))
# Of all that are new alike. The short form is of too few for that, and must only have said what it missed.
AT_LEAST = {"program": 0.99, "library": 0.95} if SOAK else {"program": 0.75, "library": 0.75}
# A new library is not waited for: who loads it late and asks at once may be faster than its probes.
AT_LEAST_EACH = {"program": 0.94, "library": 0.4} if SOAK else {"program": 0.5, "library": 0.5}
SHORT = ("curl", "wget", "go stripped", "static OpenSSL")
WANTED = os.environ.get("WEIR_E2E_ROWS", "")

# A Go program may end before its last write is back: what is looked at is its first.
GO_COUNT = "2"
LIBRARIES = pathlib.Path("/usr/lib/x86_64-linux-gnu")
OPENSSL = [LIBRARIES / "libssl.so.3", LIBRARIES / "libcrypto.so.3"]
GNUTLS = [LIBRARIES / "libgnutls.so.30"]
NSS = [LIBRARIES / name for name in ("libssl3.so", "libnss3.so", "libnssutil3.so", "libsmime3.so", "libfreebl3.so",
                                     "libfreeblpriv3.so", "libsoftokn3.so")]


@dataclasses.dataclass
class Kind:
    """One request to BASE/0, or to what is below it."""

    name: str
    program: str
    arguments: list
    libraries: list = dataclasses.field(default_factory=list)  # its TLS library's files
    environment: dict = dataclasses.field(default_factory=dict)
    typed: str = ""
    stays: bool = False  # doesn't end with the answer


def kinds(origin, ca, directory):
    port = str(origin.port)

    def base(name):
        return f"https://localhost:{port}/{name.replace(' ', '-')}"

    def script(file, *arguments):
        return [PROGRAMS / file, *arguments, ca, "1"]

    go = {shape: go_program(directory, "1.21", PROGRAMS / "requests_by.go", shape, GO_SHAPES[shape])
          for shape in ("symbols", "stripped")}
    made = [
        Kind("curl", CURL, ["-q", "-sS", "-o", "/dev/null", "--cacert", ca, base("curl") + "/0"], OPENSSL),
        Kind("wget", "/usr/bin/wget",
             ["-q", "--no-config", "-O", "/dev/null", f"--ca-certificate={ca}", base("wget") + "/0"], GNUTLS),
        Kind("git", "/usr/lib/git-core/git-remote-http", ["origin", base("git") + "/0"], GNUTLS,
             {"GIT_SSL_CAINFO": str(ca)}, "list\n\n"),
        Kind("openssl", "/usr/bin/openssl", ["s_client", "-quiet", "-CAfile", ca, "-connect", f"localhost:{port}"],
             OPENSSL, typed=typed(base("openssl"), 1)),
        Kind("gnutls-cli", "/usr/bin/gnutls-cli", [f"--x509cafile={ca}", "-p", port, "localhost"], GNUTLS,
             typed=typed(base("gnutls-cli"), 1)),
        Kind("python3", PYTHON, ["-B", *script("requests_by.py", "http.client", base("python3"))], OPENSSL,
             {"PYTHONHOME": "/usr"}),
        Kind("node", shutil.which("node"), script("requests_by.js", "https", base("node"))),
        Kind("ruby", "/usr/bin/ruby", script("requests_by.rb", base("ruby")), OPENSSL),
        Kind("php", "/usr/bin/php", script("requests_by.php", "streams", base("php")), OPENSSL),
        Kind("perl", "/usr/bin/perl", script("requests_by.pl", base("perl")), OPENSSL),
        Kind("go", go["symbols"], ["h1", base("go"), ca, GO_COUNT]),
        Kind("go stripped", go["stripped"], ["h1", base("go stripped"), ca, GO_COUNT]),
        Kind("static OpenSSL", BUILT / "tls_client_static", ["--ca", ca, "localhost", port, "GET:/static-OpenSSL/0"]),
        Kind("nss tstclnt", "/usr/bin/tstclnt",
             ["-h", "localhost", "-p", port, "-4", "-o", "-d", nss_database(directory), "-C"], NSS,
             typed=typed(base("nss tstclnt"), 1), stays=True),
    ]
    return [kind for kind in made if WANTED in kind.name and (SOAK or WANTED or kind.name in SHORT)]


class FirstSightingTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        cls.kinds = kinds(cls.origin, cls.ca, cls.directory)

    def test_the_first_exchange_is_read(self):
        runs = {}  # (kind, what is new) -> pids
        for kind in self.kinds:
            for new in ("program", "library") if kind.libraries else ("program",):
                runs[kind.name, new] = [self.run_new(kind, new) for _ in range(ROUNDS)]
        table, wrong = self.judge(runs)
        print("\n| client | new | first exchanges read | opened before attach | nothing said |")
        print("\n".join(table))
        counters = self.agent.counters()["native"]
        print(f"{counters['execs_held']} starts held, {counters['execs_let_go_late']} let go late")
        self.assert_no_mismatch(wrong)

    def run_new(self, kind, new):
        """A pid. All that is new is made for this run alone."""
        place = self.directory / "new"
        place.mkdir()
        try:
            program = shutil.copy(os.path.realpath(kind.program), place / pathlib.Path(kind.program).name)
            environment = clean_environment() | {"HOME": str(self.directory)} | kind.environment
            if new == "library":
                for library in kind.libraries:
                    shutil.copy(os.path.realpath(library), place / library.name)
                environment["LD_LIBRARY_PATH"] = str(place)
            return self.run_client(kind, [program, *kind.arguments], environment)
        finally:
            shutil.rmtree(place)

    def run_client(self, kind, command, environment):
        process = subprocess.Popen([str(part) for part in command], env=environment, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        with process:
            process.stdin.write(kind.typed)
            process.stdin.flush()
            said = ""
            # Some leave without the answer once their input ends.
            while line := process.stdout.readline():
                said += line
                if kind.stays and f"{kind.name.replace(' ', '-')}/0" in line:
                    process.kill()
        if not kind.typed and process.returncode != 0:
            raise AssertionError(f"{command}: {process.returncode}: {said[-2000:]}")
        return process.pid

    def judge(self, runs):
        found = collections.defaultdict(list)
        pids = {pid for some in runs.values() for pid in some}

        def all_over():
            found.clear()
            for record in self.agent.feed.records():
                found[record.get("process.pid")].append(record)
            return all(any(record["weir.record"] == "connection" for record in found[pid]) for pid in pids)

        self.agent.wait_for(all_over, "each connection's record", timeout=20)
        table, wrong = [], []
        all_read, all_runs = collections.Counter(), collections.Counter()
        for (name, new), some in runs.items():
            outcomes = collections.Counter(self.outcome(name, found[pid]) for pid in some)
            read, late = outcomes.pop("read", 0), outcomes.pop("opened before attach", 0)
            table.append(f"| {name} | {new} | {read} of {len(some)} | {late} | {dict(outcomes) or ''} |")
            wrong += [f"{name}, new {new}: {what} ({count} times)" for what, count in outcomes.items()]
            all_read[new] += read
            all_runs[new] += len(some)
            if read < AT_LEAST_EACH[new] * len(some):
                wrong.append(f"{name}, new {new}: {read} of {len(some)} first exchanges were read")
        for new, count in all_runs.items():
            table.append(f"| all | {new} | {all_read[new]} of {count} |")
            if all_read[new] < AT_LEAST[new] * count:
                wrong.append(f"new {new}: {all_read[new]} of {count} first exchanges were read")
        return table, wrong

    def outcome(self, name, records):
        exchanges = [record for record in records if f"/{name.replace(' ', '-')}/0" in record.get("url.full", "")]
        if not exchanges:
            reasons = [record["weir.opaque.reason"] for record in records if "weir.opaque.reason" in record]
            return reasons[0] if reasons else "nothing"
        if len(exchanges) > 1:
            return f"{len(exchanges)} exchanges"
        told = exchanges[0]
        return "read" if told.get("http.response.status_code") == 200 and "weir.incomplete" not in told else "exchange " + str({key: told.get(key) for key in (
            "url.full", "http.response.status_code", "weir.incomplete", "weir.gap.bytes")})


if __name__ == "__main__":
    unittest.main()
