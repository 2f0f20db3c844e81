"""Policy: who may go where. What is refused never reaches the origin, whose access log says so.

The kernel's rules hold for the whole host, so each of them names a port or a program of the test's own.
"""

import errno
import hashlib
import http.client
import json
import pathlib
import re
import shutil
import signal
import socket
import ssl
import unittest

from harness import clients
from harness.agent import AS_NOBODY, NOBODY, WEIR
from harness.case import EndToEndTest
from harness.certificates import GOOD_NAMES
from harness.processes import check, run, wait_until

REQUESTS = """default: allow
rules:
  - {deny: by-host, host: refused.localhost}
  - {deny: by-suffix, host: .below.localhost}
  - {deny: by-address, address: [127.0.0.0/8, "::1"], port: CLEAR}
  - {deny: by-port, port: OTHER}
  - {deny: by-method, method: DELETE, host: localhost}
  - {deny: by-path, path: [/secret, /admin/*]}
  - {deny: by-header, header: "x-env: prod"}
  - {deny: by-executable, executable: PROGRAM}
  - {deny: by-user, user: NOBODY, port: GOOD}
  - {deny: by-cgroup, cgroup: CGROUP}
  - {deny: by-container, container: CONTAINER}
  - {deny: by-container-name, container: proxied-web}
  - {deny: by-namespace, namespace: proxied-prod}
  - {log: by-log, path: /told}
"""
CONNECTIONS = """default: allow
rules:
  - {deny: by-port, port: OTHER}
  - {deny: by-address, address: 127.0.0.0/8, executable: addressed-curl}
  - {deny: by-executable, executable: DIRECTORY/refused-curl}
  - {deny: by-directory, executable: DIRECTORY/below/*}
  - {deny: by-user, user: NOBODY, port: GOOD}
  - {deny: by-cgroup, cgroup: CGROUP}
  - {deny: by-datagram, port: DATAGRAMS}
  - {log: by-log, executable: told-curl, port: GOOD}
"""
# Of processes that know no proxy: by names alone, by requests in the clear, by requests in TLS.
STEERED = """default: allow
rules:
  - {deny: by-host, host: refused.localhost, port: GOOD}
  - {deny: by-suffix, host: .below.localhost, port: GOOD}
  - {deny: by-method, method: DELETE, port: CLEAR}
  - {deny: by-path, path: /secret/*, port: CLEAR}
  - {deny: by-header, header: "x-env: prod", port: CLEAR}
  - {deny: by-container, container: CONTAINER, port: GOOD}
  - {deny: by-container-name, container: steered-web, port: GOOD}
  - {deny: by-namespace, namespace: steered-prod, port: GOOD}
  - {deny: in-tls, path: /in-tls, port: OTHER}
"""
# What only the proxy can judge leaves the kernel with the default, which is here to be felt on one port alone.
DEFAULT = """default: deny
rules:
  - {allow: below, port: 1-BELOW}
  - {allow: above, port: ABOVE-65535}
  - {allow: named, host: localhost, path: /allowed}
"""


class Cgroup:
    """Below the root of cgroup v2, wherever that is mounted."""

    def __init__(self, name):
        mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
        root = next(line.split()[4] for line in mounts if " - cgroup2 " in line)
        self.path = f"/{name}"
        self._directory = pathlib.Path(root) / name
        self._directory.mkdir()

    def enter(self):
        return ["sh", "-c", f'echo $$ > {self._directory}/cgroup.procs; exec "$@"', "sh"]

    def _is_gone(self):
        try:
            self._directory.rmdir()
        except OSError:
            return False
        return True

    def remove(self):
        wait_until(self._is_gone, 10, f"{self._directory} can't be removed")


class PolicyTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        names = GOOD_NAMES + ",DNS:refused.localhost,DNS:*.below.localhost"
        return {"good": cls.authority.leaf("good", names), "other": cls.authority.leaf("other"), "clear": None}

    def policy(self, text, **more):
        ports = {name.upper(): port for name, port in self.origin.ports.items()}
        for word, value in {**ports, "NOBODY": NOBODY, **more}.items():
            text = re.sub(rf"\b{word}\b", str(value), text)
        file = self.directory / f"{self.id().rpartition('.')[2]}.yaml"
        file.write_text(text)
        return file

    def curl(self, path, *options, server="good", host="localhost", prefix=(), program=clients.CURL):
        """Prints the status of the answer, and of that to CONNECT; "000": there was none."""
        scheme = "http" if server == "clear" else "https"
        command = [*prefix, program, "-sS4", "-m", "20", "-o", "/dev/null", "-w", "%{http_code} %{http_connect}"]
        if "exec" not in prefix:
            command += ["--cacert", self.ca]
        url = f"{scheme}://{host}:{self.origin.ports[server]}{path}"
        return run([*map(str, command), *options, url], timeout=30)

    def cgroup(self, name):
        made = Cgroup(name)
        self.addCleanup(made.remove)
        return made

    def container(self, name):
        """A cgroup such as a container's runtime makes, and the id in its name."""
        container_id = hashlib.sha256(f"{name}-{self.origin.port}".encode()).hexdigest()
        return self.cgroup(f"docker-{container_id}.scope"), container_id

    def named_containers(self, prefix):
        """One of docker's with the name PREFIX-web, one of containerd's in Kubernetes' namespace PREFIX-prod, and the
        options for an agent that finds what their runtimes would have written."""
        root = self.directory / f"{prefix}-state"
        web, web_id = self.container(f"{prefix}-web")
        pod, pod_id = self.container(f"{prefix}-pod")
        annotations = {"io.kubernetes.cri.sandbox-namespace": f"{prefix}-prod", "io.kubernetes.cri.sandbox-name": "pod-1"}
        for place, state in {
            f"containers/{web_id}/config.v2.json": {"Name": f"/{prefix}-web", "Config": {"Image": "nginx:1"}},
            f"k8s.io/{pod_id}/config.json": {"ociVersion": "1.1.0", "annotations": annotations},
        }.items():
            (root / place).parent.mkdir(parents=True)
            (root / place).write_text(json.dumps(state))
        configuration = self.directory / f"{prefix}-containers.yaml"
        configuration.write_text(f"container_state: [{root}]\n")
        return web, pod, ("--config", configuration)

    def copy_of_curl(self, name):
        copy = self.directory / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(clients.CURL, copy)
        return copy

    def paths(self):
        return {request["path"] for request in self.origin.requests()}

    def policy_record(self, agent, rule, pid):
        """The one policy record of that rule and process."""

        def found():
            return [
                record
                for record in agent.feed.records()
                if record["weir.record"] == "policy"
                and (record.get("weir.policy.rule"), record.get("process.pid")) == (rule, pid)
            ]

        agent.wait_for(found, f"no policy record of {rule} and {pid}")
        self.assertEqual(len(found()), 1)
        return found()[0]

    def test_proxied_clients(self):
        program = self.copy_of_curl("proxied-curl")
        cgroup = self.cgroup(f"weir-test-proxied-{self.origin.port}")
        container, container_id = self.container("proxied")
        words = {"PROGRAM": program, "CGROUP": cgroup.path, "CONTAINER": container_id}
        web, pod, options = self.named_containers("proxied")
        agent = self.start_agent("--no-native", *options, "--policy", self.policy(REQUESTS, **words))
        prefix = agent.exec_command()
        explicit = ("-x", f"http://{agent.proxy_address()}")
        cases = {
            "by-host": {"host": "refused.localhost"},
            "by-suffix": {"host": "a.below.localhost"},
            "by-address": {"server": "clear"},
            "by-port": {"server": "other"},
            "by-method": {"options": ("-X", "DELETE")},
            "by-path": {"path": "/y/../%61dmin//by-path", "options": ("--path-as-is",)},
            "by-header": {"options": ("-H", "X-Env: prod")},
            "by-executable": {"program": program},
            "by-user": {"prefix": AS_NOBODY, "options": explicit},
            "by-cgroup": {"prefix": cgroup.enter(), "options": explicit},
            "by-container": {"prefix": container.enter(), "options": explicit},
            "by-container-name": {"prefix": web.enter(), "options": explicit},
            "by-namespace": {"prefix": pod.enter(), "options": explicit},
        }
        for rule, case in cases.items():
            with self.subTest(rule):
                more = {"prefix": prefix, **case}
                ended = self.curl(more.pop("path", f"/{rule}"), *more.pop("options", ()), **more)
                self.assertIn("403", ended.stdout, ended.stderr)
                record = self.policy_record(agent, rule, ended.pid)
                self.assertEqual(record["weir.decision"], "refused")
                self.assertEqual(record["weir.source"], ["proxy"])
        for path, options in {"/told": (), "/secretive": (), "/put": ("-X", "PUT", "-d", "x")}.items():
            ended = self.curl(path, *options, prefix=prefix)
            self.assertEqual(ended.stdout.split()[:1], ["200"], ended.stderr)
            if path == "/told":
                record = self.policy_record(agent, "by-log", ended.pid)
                self.assertEqual((record["weir.decision"], record["url.path"]), ("logged", "/told"))
        self.assertEqual({path for path in self.paths() if "by-" in path}, set())
        self.assertTrue({"/told", "/secretive", "/put"} <= self.paths())
        self.assertEqual(agent.status()["policy"]["rules"], 14)

    def test_a_server_name_that_no_connect_named(self):
        text = "default: allow\nrules:\n  - {deny: by-host, host: refused.localhost}\n"
        agent = self.start_agent("--no-native", "--policy", self.policy(text))
        command = ["openssl", "s_client", "-proxy", agent.proxy_address(), "-servername", "refused.localhost"]
        ended = run([*command, "-connect", f"127.0.0.1:{self.origin.port}"], timeout=30)
        self.assertRegex(ended.stderr, "alert access denied")
        self.policy_record(agent, "by-host", ended.pid)

    def test_what_a_rule_wants_to_see_is_opened(self):
        """No list of names to pass through, and no tunnel, keeps a request from a rule that asks for its path."""
        file = self.policy("default: allow\nrules:\n  - {deny: by-path, path: /by-path-*}\n")
        configuration = self.directory / "passthrough.yaml"
        configuration.write_text(f"policy: {file}\nproxy:\n  passthrough: [localhost]\n")
        agent = self.start_agent("--no-native", "--config", configuration)
        prefix = agent.exec_command()
        self.assertIn("403", self.curl("/by-path-tls", prefix=prefix).stdout)
        self.curl("/by-path-tunnel", "--proxytunnel", server="clear", prefix=prefix)
        self.assertEqual({path for path in self.paths() if "by-path" in path}, set())
        agent.wait_for_exchanges(self.origin.port, 1)

    def test_native_clients(self):
        cgroup = self.cgroup(f"weir-test-{self.origin.port}")
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(receiver.close)
        receiver.bind(("127.0.0.1", 0))
        address = receiver.getsockname()
        file = self.policy(CONNECTIONS, DIRECTORY=self.directory, CGROUP=cgroup.path, DATAGRAMS=address[1])
        agent = self.start_agent("--policy", file)
        cases = {
            "by-port": {"server": "other"},
            "by-address": {"program": self.copy_of_curl("addressed-curl")},
            "by-executable": {"program": self.copy_of_curl("refused-curl")},
            "by-directory": {"program": self.copy_of_curl("below/curl")},
            "by-user": {"prefix": AS_NOBODY},
            "by-cgroup": {"prefix": cgroup.enter()},
        }
        for rule, case in cases.items():
            with self.subTest(rule):
                ended = self.curl(f"/native-{rule}", **case)
                self.assertEqual((ended.status, ended.stdout), (7, "000 000"), ended.stderr)
                record = self.policy_record(agent, rule, ended.pid)
                self.assertEqual((record["weir.decision"], record["weir.source"]), ("refused", ["native"]))
                self.assertEqual(record["network.peer.port"], self.origin.ports[case.get("server", "good")])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for send in (lambda: sender.sendto(b"x", address), lambda: sender.connect(address)):
                with self.assertRaises(PermissionError) as refused:
                    send()
                self.assertEqual(refused.exception.errno, errno.EPERM)
        receiver.setblocking(False)
        self.assertRaises(BlockingIOError, receiver.recv, 1)
        told = self.curl("/native-told", program=self.copy_of_curl("told-curl"))
        self.assertEqual(told.status, 0, told.stderr)
        self.assertEqual(self.policy_record(agent, "by-log", told.pid)["weir.decision"], "logged")
        # Whom the kernel refuses, the proxy refuses, too; and it is no way around: the proxy's own socket isn't the
        # client's.
        ended = self.curl("/native-by-port", server="other", prefix=agent.exec_command())
        self.assertIn("403", ended.stdout)
        self.policy_record(agent, "by-port", ended.pid)
        self.assertEqual({path for path in self.paths() if path.startswith("/native-by")}, set())
        self.assertIn("/native-told", self.paths())
        self.assertGreaterEqual(agent.counters()["native"]["policy_denied"], len(cases) + 2)

    def test_native_clients_are_steered_to_who_can_judge(self):
        container, container_id = self.container("steered")
        web, pod, options = self.named_containers("steered")
        agent = self.start_agent(*options, "--policy", self.policy(STEERED, CONTAINER=container_id))
        names = {
            "by-host": ("refused.localhost", ()),
            "by-suffix": ("a.below.localhost", ()),
            "by-container": ("localhost", container.enter()),
            "by-container-name": ("localhost", web.enter()),
            "by-namespace": ("localhost", pod.enter()),
        }
        for rule, (host, prefix) in names.items():
            with self.subTest(rule):
                ended = self.curl(f"/steered-{rule}", host=host, prefix=prefix)
                record = self.policy_record(agent, rule, ended.pid)
                self.assertEqual(record["weir.decision"], "refused")
                self.assertEqual(ended.stdout, "000 000")
                # Who it is, is known before any name is: then the connection is reset.
                if not prefix:
                    self.assertIn("access denied", ended.stderr)
                    self.assertEqual(record["server.address"], host)
        requests = {"by-method": ("-X", "DELETE"), "by-path": (), "by-header": ("-H", "X-Env: prod")}
        for rule, options in requests.items():
            with self.subTest(rule):
                ended = self.curl("/secret/steered" if rule == "by-path" else f"/steered-{rule}", *options, server="clear")
                self.assertEqual(ended.stdout, "403 000", ended.stderr)
                self.policy_record(agent, rule, ended.pid)
        weir = ("--cacert", str(agent.state_dir / "ca" / "ca.crt"))
        ended = self.curl("/in-tls", *weir, server="other")
        self.assertEqual(ended.stdout, "403 000", ended.stderr)
        self.policy_record(agent, "in-tls", ended.pid)
        self.assertEqual({path for path in self.paths() if "steered" in path or "in-tls" in path}, set())

        # What no rule refuses comes through: unopened, or opened where a rule asks for requests.
        for server, options, source, decision in (
            ("good", (), "native", "tunnelled"),
            ("clear", (), "proxy", "redirected"),
            ("other", weir, "proxy", "bumped"),
        ):
            with self.subTest(server):
                ended = self.curl(f"/passes-{server}", *options, server=server)
                self.assertEqual(ended.stdout, "200 000", ended.stderr)
                found = lambda: [r for r in agent.exchanges() if r.get("url.full", "").endswith(f"/passes-{server}")]
                agent.wait_for(found, f"no record of /passes-{server}")
                (record,) = found()
                self.assertEqual(record["process.pid"], ended.pid)
                self.assertEqual((record["weir.source"], record["weir.decision"]), ([source], decision))
                self.assertEqual(record["network.peer.port"], self.origin.ports[server])
        counters = agent.counters()
        self.assertEqual((counters["redirection"]["steered_connections"], counters["native"]["policy_unjudged"]), (12, 0))

    def test_what_nobody_can_judge_the_default_decides(self):
        port = self.origin.port
        configuration = self.directory / "unsteered.yaml"
        configuration.write_text("transparent: {steer: false}\n")
        file = self.policy(DEFAULT, BELOW=port - 1, ABOVE=port + 1)
        agent = self.start_agent("--config", configuration, "--policy", file)
        self.assertEqual(self.curl("/allowed").status, 7)
        self.assertEqual(self.curl("/allowed", prefix=agent.exec_command()).stdout.split()[:1], ["200"])
        self.assertIn("403", self.curl("/default-refused", prefix=agent.exec_command()).stdout)
        self.assertNotIn("/default-refused", self.paths())

    def test_reload(self):
        link, program = self.directory / "linked-program", self.directory / "program"
        shutil.copy("/bin/true", program)
        link.symlink_to(program)
        linked = f", executable: {link}}}"
        file = self.policy("default: allow\nrules:\n  - {deny: first, path: /reload-first}\n"
                           "  - {deny: linked, path: /linked" + linked + "\n")
        agent = self.start_agent("--no-native", "--policy", file)
        told = f"deny 'linked': executable: {link} is a link on this host and matches no process of it: write {program}"
        self.assertIn(f"{file}:4: {told}", agent.log.read_text())
        self.assertIn("native.enabled: false", run([WEIR, "status", "--state-dir", agent.state_dir]).stdout)
        self.assertIn(f"{file}:4: {told}", check([WEIR, "policy", "check", file]).stderr)
        prefix = agent.exec_command()
        self.assertIn("403", self.curl("/reload-first", prefix=prefix).stdout)
        # One connection before and after.
        client = http.client.HTTPSConnection(*agent.proxy_address().split(":"), context=self.trusting(agent), timeout=20)
        self.addCleanup(client.close)
        client.set_tunnel("localhost", self.origin.port)
        self.assertEqual(self.get(client, "/reload-kept"), 200)
        socket_before = client.sock.fileno()
        file.write_text("default: allow\nrules:\n  - {deny: second, path: /reload-second}\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for(lambda: "second" in self.curl_text("/reload-second", prefix), "the policy was not read again")
        self.assertEqual(self.get(client, "/reload-kept"), 200)
        self.assertEqual(client.sock.fileno(), socket_before)
        self.assertEqual(self.get(client, "/reload-second"), 403)
        self.assertEqual(self.curl("/reload-first", prefix=prefix).stdout.split()[:1], ["200"])

        file.write_text("default: allow\nrules:\n  - {deny: third, prot: 1}\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for(lambda: "error" in agent.status()["policy"], "status does not tell")
        told = agent.status()["policy"]
        self.assertEqual((told["state"], told["rules"]), ("outdated", 1))
        self.assertIn(f"{file}:3: unknown key 'prot'", told["error"])
        self.assertIn("unknown key 'prot'", agent.log.read_text())
        self.assertIn(f"{file}:3", check([WEIR, "status", "--state-dir", agent.state_dir]).stdout)
        self.assertIn("403", self.curl("/reload-second", prefix=prefix).stdout)

    def trusting(self, agent):
        return ssl.create_default_context(cafile=agent.state_dir / "ca" / "ca.crt")

    def get(self, client, path):
        client.request("GET", path)
        response = client.getresponse()
        response.read()
        return response.status

    def curl_text(self, path, prefix):
        return run([*map(str, prefix), str(clients.CURL), "-sS4", self.url(path)], timeout=30).stdout

    def test_an_agent_does_not_start_with_an_invalid_policy(self):
        file = self.policy("default: allow\nrules:\n  - {deny: a, host: 10.0.0.1}\n")
        ended = run([WEIR, "agent", "--state-dir", self.directory / "unused", "--policy", file], timeout=10)
        self.assertEqual(ended.status, 1)
        self.assertIn(f"{file}:3: host: '10.0.0.1' is an address", ended.stderr)

    def test_check_and_explain(self):
        file = self.policy(REQUESTS, PROGRAM="/usr/bin/proxied", CGROUP="/proxied", CONTAINER="a" * 64)
        shown = check([WEIR, "policy", "check", file]).stdout
        self.assertIn(f"{file}:3: deny 'by-host': by the egress proxy (host), to which", shown)
        self.assertIn(f"{file}:6: deny 'by-port': in the kernel, at connect", shown)
        explain = [WEIR, "policy", "explain", file, "--exe", "/usr/bin/curl", "--user", "0"]
        shown = check([*explain, "--dest", "x.example:443", "--method", "GET", "--path", "/admin/"]).stdout
        self.assertIn(f"{file}:8: deny 'by-path': matches", shown)
        self.assertIn("denied by 'by-path'", shown)
        self.assertIn(f"{file}:3: deny 'by-host': passed over: host is x.example", shown)
        # Written as clients may, and read as the proxy does.
        shown = check([*explain, "--dest", "Refused.Localhost.:443"]).stdout
        self.assertIn("denied by 'by-host'", shown)
        shown = check([*explain, "--dest", "x.example", "--header", "X-Env: \t prod \t"]).stdout
        self.assertIn("denied by 'by-header'", shown)
        shown = check([*explain, "--dest", "x.example", "--header", "X-Env: "]).stdout
        self.assertNotIn("denied by 'by-header'", shown)
        file.write_text("default: allow\nrules:\n  - {deny: a, port: 0}\n")
        ended = run([WEIR, "policy", "check", file])
        self.assertEqual((ended.status, ended.stdout), (1, ""))
        self.assertIn(f"{file}:3: port: ", ended.stderr)
        # One rule beyond what the kernel holds.
        addresses = [f"192.0.2.{last}" for last in range(1, 201)]
        file.write_text(f"default: allow\nrules:\n  - {{deny: a, address: {addresses}, port: {list(range(1, 61))}}}\n")
        ended = run([WEIR, "policy", "check", file])
        self.assertEqual((ended.status, ended.stdout), (1, ""))
        self.assertIn(f"{file}: too large for the kernel: addresses times ports", ended.stderr)


if __name__ == "__main__":
    unittest.main()
