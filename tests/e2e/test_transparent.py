"""Redirected by the kernel: no proxy variable, no route, no firewall rule; the client sees where it wanted to go, and
each request has one record, with the client's own process and the true peer."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

from harness import clients
from harness.agent import AS_NOBODY, NOBODY, WEIR, readable_copy
from harness.case import EndToEndTest
from harness.clients import PYTHON, SOURCES
from harness.containers import Podman
from harness.go import go_program
from harness.namespaces import NetworkNamespace
from harness.processes import check, children_of, end, run, spawn, wait_until

DIRECT_WITHIN = 2  # seconds
PROXY_VARIABLES = ("http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class SpeaksFirst:
    """A server on loopback that says to each client from which port it came, and ends the connection when that does."""

    def __init__(self, host="127.0.0.1"):
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = self._listener.getsockname()[1]
        self.clients = []  # their addresses
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            self.clients.append(address[0])
            with client:
                client.sendall(str(address[1]).encode())

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Peer:
    """clients/peer.py, kept: it connects when it is told."""

    def __init__(self, prefix, host, port, *options, python=PYTHON):
        self.process = spawn(
            [*prefix, python, "-B", SOURCES / "peer.py", host, str(port), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )

    def connect(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        if self.process.stdin.closed:
            return
        self.process.stdin.close()
        end(self.process)
        self.process.stdout.close()


def went_direct(told):
    """Whether the server saw the client's own socket."""
    return told.get("said") == str(told.get("local_port"))


class TransparentTest(EndToEndTest):
    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good"), "plain": None}

    def redirected(self, agent, *command):
        return [WEIR, "exec", "--state-dir", agent.state_dir, "--transparent", "--", *command]

    def peer(self, prefix, server, *options, host="127.0.0.1", **more):
        peer = Peer(prefix, host, server.port, *options, **more)
        self.addCleanup(peer.end)
        return peer

    def server(self, host="127.0.0.1"):
        server = SpeaksFirst(host)
        self.addCleanup(server.stop)
        return server

    def assert_recorded(self, pid, paths, server="good", decision="bumped", host="localhost", peer="127.0.0.1"):
        """Each path once, all by this process, if it is known."""
        scheme = "https" if server == "good" else "http"
        port = self.origin.ports[server]
        urls = {f"{scheme}://{host}:{port}{path}" for path in paths}

        def ours():
            return [record for record in self.agent.exchanges(port) if record["url.full"] in urls]

        self.agent.wait_for(lambda: len(ours()) >= len(urls), f"{paths} are not recorded")
        self.assertEqual(sorted(record["url.full"] for record in ours()), sorted(urls))
        for record in ours():
            self.assertEqual(record["process.pid"], pid or record["process.pid"])
            self.assertEqual(record["weir.source"], ["proxy"])
            self.assertEqual(record["weir.decision"], decision)
            self.assertEqual(record["http.response.status_code"], 200)
            self.assertEqual(record["network.peer.address"], peer)
            self.assertEqual(record["network.peer.port"], port)
            self.assertEqual(record["server.address"], host)
            self.assertNotEqual(record["network.local.port"], record["weir.upstream.local.port"])
        return ours()

    def assert_direct_soon(self, peer, since):
        """A connection that was under way may fail; none that begins later than that."""
        while time.monotonic() < since + DIRECT_WITHIN:
            if went_direct(peer.connect()):
                break
        for _ in range(20):
            told = peer.connect()
            self.assertTrue(went_direct(told), told)

    def records_of(self, agent, pid, kind):
        return [one for one in agent.feed.records() if one["weir.record"] == kind and one.get("process.pid") == pid]


class ClientsTest(TransparentTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()

    def test_curl(self):
        finished, (answer,) = clients.run_json(self.redirected(self.agent, *clients.curl_command(self.url("/curl"))))
        self.assertEqual(answer["status"], 200)
        self.assert_recorded(finished.pid, ["/curl"])

    def test_curl_in_the_clear(self):
        port = self.origin.ports["plain"]
        url = f"http://localhost:{port}/clear"
        finished, (answer,) = clients.run_json(self.redirected(self.agent, *clients.curl_command(url)))
        self.assertEqual(answer["status"], 200)
        self.assert_recorded(finished.pid, ["/clear"], server="plain", decision="redirected")
        (record,) = [one for one in self.agent.exchanges(port) if one["url.full"] == url]
        self.assertEqual(record["weir.tls.library"], "none")

    def test_python(self):
        ca = self.agent.state_dir / "ca" / "bundle.pem"
        command = [PYTHON, "-B", SOURCES / "http_client.py", "localhost", str(self.origin.port), ca, "/python", "3"]
        finished, answers = clients.run_json(self.redirected(self.agent, *command))
        self.assert_recorded(finished.pid, [answer["path"] for answer in answers])
        (cookie,) = {record["weir.socket.cookie"] for record in self.records_of(self.agent, finished.pid, "exchange")}
        self.assertEqual(cookie, answers[0]["cookie"])

    def test_go(self):
        program = go_program(self.directory, "1.21", SOURCES / "matrix" / "requests_by.go")
        ca = self.agent.state_dir / "ca" / "bundle.pem"
        finished = check(self.redirected(self.agent, program, "h1", self.url("/go"), ca, "4"))
        self.assert_recorded(finished.pid, [f"/go/{i}" for i in range(4)])

    def test_java(self):
        classes = clients.compile_java(self.directory)
        # Java sends no SNI for a name without a dot.
        hosts = self.directory / "hosts"
        hosts.write_text("127.0.0.1 origin.test\n")
        for main in ("UrlConnectionRequests", "HttpClientRequests"):
            java, *rest = clients.java_command(classes, main, self.url(f"/{main}", host="origin.test"), 2)
            command = [java, f"-Djdk.net.hosts.file={hosts}", *rest]
            finished, answers = clients.run_json(self.redirected(self.agent, *command), timeout=120)
            self.assertEqual([answer["status"] for answer in answers], [200, 200])
            self.assert_recorded(finished.pid, [answer["path"] for answer in answers], host="origin.test")

    def test_no_variable_names_the_proxy(self):
        finished = check(self.redirected(self.agent, "env"))
        given = dict(line.split("=", 1) for line in finished.stdout.splitlines() if "=" in line)
        self.assertFalse(set(PROXY_VARIABLES) & set(given))
        self.assertNotIn("proxyHost", given["JAVA_TOOL_OPTIONS"])
        self.assertIn("trustStore", given["JAVA_TOOL_OPTIONS"])

    def test_what_it_starts_is_redirected_and_what_others_start_is_not(self):
        curl = " ".join(f"'{word}'" for word in clients.curl_command(self.url("/child")))
        check(self.redirected(self.agent, "sh", "-c", f"{curl}; true"))
        other = check(clients.curl_command(self.url("/other"), ca=self.ca)).pid
        self.agent.wait_for(
            lambda: {self.url("/child"), self.url("/other")} <= {one.get("url.full") for one in self.agent.exchanges()},
            "not recorded",
        )
        by_url = {one.get("url.full"): one for one in self.agent.exchanges()}
        self.assertEqual(by_url[self.url("/child")]["weir.source"], ["proxy"])
        self.assertEqual(by_url[self.url("/other")]["weir.source"], ["native"])
        self.assertEqual(by_url[self.url("/other")]["process.pid"], other)
        self.assertNotIn("weir.decision", by_url[self.url("/other")])

    def test_a_server_that_speaks_first(self):
        for host in ("127.0.0.1", "::1"):
            for options in ((), ("non-blocking",)):
                with self.subTest(host, options=options):
                    server = self.server(host)
                    peer = self.peer(self.redirected(self.agent), server, *options, host=host)
                    told = peer.connect()
                    self.assertEqual(told.get("peer"), [host, server.port], told)
                    self.assertFalse(went_direct(told), told)
                    self.agent.wait_for(
                        lambda: self.records_of(self.agent, told["pid"], "connection"), "no connection's record"
                    )
                    (record,) = self.records_of(self.agent, told["pid"], "connection")
                    self.assertEqual(record["network.peer.address"], host)
                    self.assertEqual(record["network.peer.port"], server.port)
                    self.assertEqual(record["network.local.port"], told["local_port"])
                    self.assertEqual(record["weir.decision"], "tunnelled")
                    self.assertEqual(record["weir.bytes.received"], len(told["said"]))

    def test_nobody_listens_there(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            ended = run(self.redirected(self.agent, *clients.curl_command(f"https://localhost:{port}/")))
        self.assertNotEqual(ended.status, 0)
        pid = ended.pid
        self.agent.wait_for(lambda: self.records_of(self.agent, pid, "connection"), "no connection's record")
        for record in self.records_of(self.agent, pid, "connection"):
            self.assertEqual(record["error.type"], "connect_refused")
            self.assertEqual(record["network.peer.port"], port)

    def test_the_listener_serves_nobody_else(self):
        peer = self.peer([WEIR, "exec", "--state-dir", self.agent.state_dir, "--transparent", "--"], self.server())
        peer.connect()
        before = self.agent.status()["counters"]["proxy"]["refused_unresolved"]
        ports = self.listening_ports(self.agent.worker_pid())
        status = self.agent.status()
        ports -= {int(status[name]["address"].rpartition(":")[2]) for name in ("proxy", "api")}
        self.assertEqual(len(ports), 2)
        for port in ports:
            for host in ("127.0.0.1", "::1"):
                try:
                    with socket.create_connection((host, port), timeout=10) as client:
                        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        self.assertEqual(client.recv(1), b"")
                except ConnectionError:
                    continue
        self.agent.wait_for(
            lambda: self.agent.status()["counters"]["proxy"]["refused_unresolved"] == before + 2, "not counted"
        )

    @staticmethod
    def listening_ports(pid):
        lines = check(["ss", "-Htlnp"]).stdout.splitlines()
        return {int(line.split()[3].rpartition(":")[2]) for line in lines if f"pid={pid}," in line}

    def test_an_ordinary_user_asks_for_himself(self):
        weir = readable_copy(self.directory)
        command = [*AS_NOBODY, weir, "exec", "--state-dir", self.agent.state_dir, "--transparent", "--"]
        finished, (answer,) = clients.run_json([*command, *clients.curl_command(self.url("/nobody"))])
        self.assertEqual(answer["status"], 200)
        self.assert_recorded(finished.pid, ["/nobody"])


class ConfiguredTest(TransparentTest):
    def test_by_executable(self):
        curl = self.directory / "redirected-curl"
        shutil.copy(clients.CURL, curl)
        file = self.directory / "configured.yaml"
        file.write_text(f"transparent:\n  processes: ['process:{curl}']\n")
        agent = self.start_agent("--config", file)
        bundle = agent.state_dir / "ca" / "bundle.pem"
        _, *options = clients.curl_command(self.url("/by-executable"), ca=bundle)
        pid = check([curl, *options]).pid
        (record,) = agent.wait_for_exchanges(self.origin.port, 1)
        self.assertEqual((record["process.pid"], record["weir.source"]), (pid, ["proxy"]))
        self.assertEqual(agent.status()["counters"]["redirection"]["redirected_connections"], 1)

    def test_what_is_wrong_is_named(self):
        file = self.directory / "wrong.yaml"
        for line in ("processes: ['port:443']", "processes: ['library:go']", "refuse_quic: 7"):
            file.write_text(f"transparent:\n  {line}\n")
            ended = run([WEIR, "agent", "--state-dir", self.directory / "unused", "--config", file], timeout=10)
            self.assertEqual((ended.status, len(ended.stderr.splitlines())), (2, 1), ended.stderr)
            self.assertIn(f"{file}:2", ended.stderr)

    def test_without_what_it_takes_nothing_is_run(self):
        agent = self.start_agent("--no-native")
        ended = run(self.redirected(agent, "echo", "ran"))
        self.assertEqual((ended.status, ended.stdout), (1, ""))
        self.assertEqual(len(ended.stderr.splitlines()), 1, ended.stderr)
        self.assertIn("--no-native", ended.stderr)

    def test_with_an_agent_of_its_own(self):
        state = self.directory / "own-agent"
        url = f"http://localhost:{self.origin.ports['plain']}/own-agent"
        command = [WEIR, "exec", "--state-dir", state, "--transparent", "--", *clients.curl_command(url)]
        check(command)
        listed = check([WEIR, "ls", "--json", "--state-dir", state]).stdout
        records = [one for one in clients.json_lines(listed) if one.get("url.full") == url]
        self.assertEqual([one["weir.decision"] for one in records], ["redirected"])


class NamespaceTest(TransparentTest):
    """In a network namespace of its own, a process goes out from there."""

    @classmethod
    def setUpClass(cls):
        cls.elsewhere = NetworkNamespace()
        cls.addClassCleanup(cls.elsewhere.clean_up)
        super().setUpClass()

    @classmethod
    def origin_address(cls):
        return cls.elsewhere.outside

    @classmethod
    def certificates(cls):
        return {"good": cls.authority.leaf("good", f"IP:{cls.elsewhere.outside}")}

    def assert_through_the_namespace(self, agent, told, server, elsewhere):
        self.assertEqual(told.get("peer"), [elsewhere.outside, server.port], told)
        self.assertFalse(went_direct(told), told)
        self.assertEqual(server.clients[-1], elsewhere.inside)
        agent.wait_for(lambda: self.records_of(agent, told["pid"], "connection"), "no connection's record")
        record = self.records_of(agent, told["pid"], "connection")[-1]
        self.assertEqual(record["network.peer.address"], elsewhere.outside)
        self.assertEqual(record["network.peer.port"], server.port)
        self.assertEqual(record["weir.upstream.local.address"], elsewhere.inside)
        self.assertEqual(record["weir.decision"], "tunnelled")

    @staticmethod
    def java_of_its_own(directory):
        """No other java of this host is meant."""
        home = pathlib.Path(shutil.which("java")).resolve().parents[1]
        copy = directory / "java"
        (copy / "bin").mkdir(parents=True)
        shutil.copy(home / "bin" / "java", copy / "bin")
        for name in ("lib", "conf"):
            (copy / name).symlink_to(home / name)
        return copy / "bin" / "java"

    def commands_by_executable(self):
        """Of a JVM and of a Go program that an agent redirects, wherever they run, given a prefix of the paths."""
        directory = self.directory / self.id().rpartition(".")[2]
        directory.mkdir()
        java = self.java_of_its_own(directory)
        go = go_program(directory, "1.21", SOURCES / "matrix" / "requests_by.go")
        file = directory / "by-executable.yaml"
        file.write_text(f"transparent:\n  processes: ['process:{java}', 'process:{go}']\n")
        self.agent = self.start_agent("--config", file)
        ca = self.agent.state_dir / "ca"
        trust = [f"-Djavax.net.ssl.trustStore={ca / 'truststore.p12'}", "-Djavax.net.ssl.trustStorePassword=changeit"]
        classes = clients.compile_java(directory)
        host = self.elsewhere.outside

        def by_java(place):
            _, *rest = clients.java_command(classes, "HttpClientRequests", self.url(f"/{place}/java", host), 3)
            return [java, *trust, *rest]

        return by_java, lambda place: [go, "h1", self.url(f"/{place}/go", host), ca / "bundle.pem", "4"]

    def test_java_and_go_without_any_variable(self):
        by_java, by_go = self.commands_by_executable()
        host = self.elsewhere.outside
        for place, enter, source in (("host", lambda *command: list(command), self.elsewhere.outside),
                                     ("namespace", self.elsewhere.enter, self.elsewhere.inside)):
            with self.subTest(place):
                finished, answers = clients.run_json(enter(*by_java(place)), timeout=120)
                self.assertEqual([answer["status"] for answer in answers], [200] * 3)
                paths = [f"/{place}/java/{i}" for i in range(3)]
                java_records = self.assert_recorded(finished.pid, paths, host=host, peer=host)
                finished = check(enter(*by_go(place)))
                paths = [f"/{place}/go/{i}" for i in range(4)]
                records = java_records + self.assert_recorded(finished.pid, paths, host=host, peer=host)
                self.assertEqual({one["weir.upstream.local.address"] for one in records}, {source})
                seen = [one for one in self.origin.requests() if one["path"].startswith(f"/{place}/")]
                self.assertEqual([one["client_address"] for one in seen], [source] * 7)

    def test_java_and_go_in_a_container(self):
        by_java, by_go = self.commands_by_executable()
        podman = Podman(self.directory / "podman", ["/bin/sh"], {})
        self.addCleanup(podman.clean_up)
        volumes = [f"--volume={path}:{path}:ro" for path in ("/usr", "/etc/java-17-openjdk", self.directory)]
        container = podman.start(*volumes, network=f"ns:{self.elsewhere.path}")
        for command in (by_java("container"), by_go("container")):
            line = shlex.join(str(word) for word in command)
            container.shell(f"LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu {line}")
        host = self.elsewhere.outside
        paths = [f"/container/java/{i}" for i in range(3)] + [f"/container/go/{i}" for i in range(4)]
        for record in self.assert_recorded(None, paths, host=host, peer=host):
            self.assertEqual(record["container.id"], container.id)
            self.assertNotEqual(record["process.pid"], record["weir.process.inner_pid"])
            self.assertEqual(record["weir.upstream.local.address"], self.elsewhere.inside)

    def test_who_asks_is_redirected_at_once(self):
        agent = self.start_agent()
        server = self.server(self.elsewhere.outside)
        peer = self.peer(self.elsewhere.enter(*self.redirected(agent)), server, host=self.elsewhere.outside)
        self.assert_through_the_namespace(agent, peer.connect(), server, self.elsewhere)
        # Its namespace's loopback is not ours.
        nobody = self.peer(self.elsewhere.enter(*self.redirected(agent)), self.server())
        self.assertIn("error", nobody.connect())

    def test_who_is_named_is_redirected_soon_also_by_the_next_worker(self):
        python = self.directory / "redirected-python"
        shutil.copy(PYTHON, python)
        file = self.directory / "namespace.yaml"
        file.write_text(f"transparent:\n  processes: ['process:{python}']\n")
        agent = self.start_agent("--config", file)
        server = self.server(self.elsewhere.outside)
        peer = self.peer(self.elsewhere.enter(), server, host=self.elsewhere.outside, python=python)
        # Python takes a hundred times as long to start as the broker to listen there.
        self.assert_through_the_namespace(agent, peer.connect(), server, self.elsewhere)
        worker = agent.worker_pid()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: agent.worker_pid() not in (None, worker), 20, "no next worker")
        wait_until(lambda: not went_direct(told := peer.connect()) and "error" not in told, 20, "not redirected again")

    def test_nobody_can_use_up_the_namespaces(self):
        """Who is no root gets some: containers that are to be redirected still find room."""
        agent = self.start_agent()
        ask = f"""
import socket, sys
agent = socket.socket(socket.AF_UNIX)
agent.connect("{agent.state_dir}/agent.redirect")
print(agent.makefile().readline(), end="", flush=True)
sys.stdin.read()
"""
        inside = ["unshare", "-Urn", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", "/usr/bin/python3", "-c", ask]

        def answer():
            asker = spawn([*AS_NOBODY, *inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.addCleanup(end, asker)
            for pipe in (asker.stdin, asker.stdout):
                self.addCleanup(pipe.close)
            return asker.stdout.readline()

        self.assertEqual({answer() for _ in range(32)}, {"\n"})
        self.assertIn("too many network namespaces", answer())
        server = self.server(self.elsewhere.outside)
        peer = self.peer(self.elsewhere.enter(*self.redirected(agent)), server, host=self.elsewhere.outside)
        self.assert_through_the_namespace(agent, peer.connect(), server, self.elsewhere)

    def test_the_namespace_is_let_go(self):
        agent = self.start_agent()
        elsewhere = NetworkNamespace()
        self.addCleanup(elsewhere.clean_up)
        server = self.server(elsewhere.outside)
        peer = self.peer(elsewhere.enter(*self.redirected(agent)), server, host=elsewhere.outside)
        self.assert_through_the_namespace(agent, peer.connect(), server, elsewhere)
        worker = agent.worker_pid()
        peer.end()
        elsewhere.delete()
        wait_until(lambda: not elsewhere.is_there(), 20, "it is still there")
        self.assertEqual(agent.worker_pid(), worker)


class FaultTest(TransparentTest):
    """An agent that goes or hangs: the next connections go direct."""

    def start(self):
        agent = self.start_agent()
        peer = self.peer(self.redirected(agent), self.server())
        self.assertFalse(went_direct(peer.connect()))
        return agent, peer

    def test_broker_killed(self):
        agent, peer = self.start()
        os.kill(agent.pid, signal.SIGKILL)
        self.assert_direct_soon(peer, time.monotonic())

    def test_one_of_them_stopped(self):
        for name in ("broker", "worker"):
            with self.subTest(name):
                agent, peer = self.start() if name == "broker" else (agent, peer)
                pid = agent.pid if name == "broker" else agent.worker_pid()
                os.kill(pid, signal.SIGSTOP)
                try:
                    time.sleep(1.2)
                    self.assert_direct_soon(peer, time.monotonic())
                finally:
                    os.kill(pid, signal.SIGCONT)
                wait_until(lambda: not went_direct(peer.connect()), 10, "it is not redirected again")

    def test_worker_killed(self):
        agent, peer = self.start()
        worker = agent.worker_pid()
        os.kill(worker, signal.SIGKILL)
        deadline = time.monotonic() + 20
        direct = redirected = 0
        while redirected < 5 and time.monotonic() < deadline:
            told = peer.connect()
            self.assertNotEqual(told.get("error"), "ECONNREFUSED")
            direct += went_direct(told)
            redirected = 0 if went_direct(told) else redirected + 1
        self.assertEqual(redirected, 5, "the next worker does not take over")

    def test_agent_stopped_in_order(self):
        agent, peer = self.start()
        agent.stop()
        self.assertTrue(went_direct(peer.connect()))



class FailClosedTest(TransparentTest):
    """Who is redirected is refused when the agent is gone or hangs, and nobody else is."""

    PINS = pathlib.Path("/sys/fs/bpf/weir")

    @classmethod
    def setUpClass(cls):
        if not os.path.ismount("/sys/fs/bpf"):
            check(["mount", "-t", "bpf", "-o", "mode=0700", "bpf", "/sys/fs/bpf"])
            cls.addClassCleanup(check, ["umount", "--lazy", "/sys/fs/bpf"])
        super().setUpClass()
        cls.configuration = cls.directory / "fail-closed.yaml"
        cls.configuration.write_text("transparent:\n  fail_closed: true\n")

    def setUp(self):
        self.addCleanup(check, [WEIR, "release"])

    def start(self, state_dir=None, options=None):
        options = ("--config", self.configuration) if options is None else options
        return self.start_agent(*options, state_dir=state_dir or self.directory / f"{self.id()}-state")

    def redirected_peer(self, agent):
        peer = self.peer(self.redirected(agent), self.server())
        self.assertFalse(went_direct(peer.connect()))
        return peer

    def assert_refused_soon(self, peer, since):
        """What was under way may fail otherwise; nothing that begins later goes anywhere, and nothing goes direct."""
        while time.monotonic() < since + DIRECT_WITHIN:
            told = peer.connect()
            self.assertFalse(went_direct(told), told)
            time.sleep(0.02)
        for _ in range(20):
            self.assertEqual(peer.connect().get("error"), "ECONNREFUSED")

    def assert_nobody_else_is_refused(self):
        self.assertTrue(went_direct(self.peer([], self.server()).connect()))

    def marked(self):
        (table,) = self.PINS.glob("*/*/marked_processes")
        entries = json.loads(check(["bpftool", "--json", "map", "dump", "pinned", table]).stdout)
        return {int.from_bytes(bytes(int(byte, 16) for byte in entry["key"]), "little") for entry in entries}

    def release(self):
        check([WEIR, "release"])
        self.assertFalse(self.PINS.exists())

    def test_killed_and_released(self):
        agent = self.start()
        peer = self.redirected_peer(agent)
        script = f"read line; {PYTHON} -B {SOURCES}/peer.py 127.0.0.1 {self.server().port}; read line"
        shell = spawn([*self.redirected(agent), "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(shell.stdout.close)
        self.addCleanup(end, shell)
        self.addCleanup(shell.stdin.close)
        wait_until(lambda: shell.pid in self.marked(), 20, "it is not marked")
        os.kill(agent.pid, signal.SIGKILL)
        agent.process.wait(20)
        self.assert_refused_soon(peer, time.monotonic())
        self.assert_nobody_else_is_refused()
        # What it starts afterwards is meant, too, until it ends: its number may then be another's.
        shell.stdin.write("\n")
        shell.stdin.flush()
        wait_until(lambda: children_of(shell.pid), 20, "no child")
        (child,) = children_of(shell.pid)
        shell.stdin.write("\n")
        shell.stdin.flush()
        told = json.loads(shell.stdout.readline())
        self.assertEqual((told["pid"], told.get("error")), (child, "ECONNREFUSED"))
        self.assertLessEqual({shell.pid, child}, self.marked())
        shell.stdin.close()
        shell.wait(20)
        self.assertFalse({shell.pid, child} & self.marked())
        self.assertIn("refuses for want of an agent; start that agent, or `weir release`", run([WEIR, "doctor"]).stdout)
        self.release()
        for _ in range(5):
            self.assertTrue(went_direct(peer.connect()))
        check([WEIR, "release"])  # nothing is there any more

    def test_stopped_and_released(self):
        agent = self.start()
        peer = self.redirected_peer(agent)
        for name in ("broker", "worker"):
            with self.subTest(name):
                pid = agent.pid if name == "broker" else agent.worker_pid()
                os.kill(pid, signal.SIGSTOP)
                try:
                    time.sleep(1.2)
                    self.assert_refused_soon(peer, time.monotonic())
                    self.assert_nobody_else_is_refused()
                    if name == "worker":
                        self.release()
                        self.assertTrue(went_direct(peer.connect()))
                finally:
                    os.kill(pid, signal.SIGCONT)
                wait_until(lambda: not went_direct(told := peer.connect()) and "error" not in told, 10, "not redirected")
        # It was released: it refuses nobody from then on.
        os.kill(agent.pid, signal.SIGKILL)
        self.assert_direct_soon(peer, time.monotonic())

    def test_worker_killed(self):
        agent = self.start()
        peer = self.redirected_peer(agent)
        os.kill(agent.worker_pid(), signal.SIGKILL)
        deadline = time.monotonic() + 20
        redirected = 0
        while redirected < 5 and time.monotonic() < deadline:
            told = peer.connect()
            self.assertFalse(went_direct(told), told)
            redirected = 0 if "error" in told else redirected + 1
        self.assertEqual(redirected, 5, "the next worker does not take over")

    def test_a_stop_in_order_is_no_release(self):
        agent = self.start()
        peer = self.redirected_peer(agent)
        agent.stop()
        self.assert_refused_soon(peer, time.monotonic())
        self.assert_nobody_else_is_refused()

    def test_the_next_agent_takes_over(self):
        first = self.start()
        peer = self.redirected_peer(first)
        os.kill(first.pid, signal.SIGKILL)
        first.process.wait()
        self.assert_refused_soon(peer, time.monotonic())
        other = self.start_agent(name="other")  # of another state: none of its business
        self.assert_refused_soon(peer, time.monotonic())
        other.stop()
        second = self.start(first.state_dir)
        (place,) = self.PINS.iterdir()
        self.assertEqual([one.name for one in place.iterdir()], ["2"])
        wait_until(lambda: not went_direct(told := peer.connect()) and "error" not in told, 10, "not redirected")
        second.stop()
        self.assert_refused_soon(peer, time.monotonic())
        # One that doesn't fail closed leaves nothing.
        third = self.start(first.state_dir, options=())
        self.assertFalse(self.PINS.exists())
        wait_until(lambda: not went_direct(told := peer.connect()) and "error" not in told, 10, "not redirected")
        third.stop()
        self.assertTrue(went_direct(peer.connect()))

    def test_by_executable_without_an_agent(self):
        python = self.directory / "meant-python"
        shutil.copy(PYTHON, python)
        configuration = self.directory / "by-name.yaml"
        configuration.write_text(f"transparent:\n  processes: ['process:{python}']\n  fail_closed: true\n")
        agent = self.start(options=("--config", configuration))
        os.kill(agent.pid, signal.SIGKILL)
        agent.process.wait(20)
        self.assert_refused_soon(self.peer([], self.server(), python=python), time.monotonic())
        peer = self.peer([], self.server(), python=python)  # none that the agent has ever seen
        self.assertEqual(peer.connect().get("error"), "ECONNREFUSED")
        self.assert_nobody_else_is_refused()
        self.release()
        self.assertTrue(went_direct(peer.connect()))

    def test_nothing_is_pinned_without_it(self):
        agent = self.start(options=())
        self.redirected_peer(agent)
        self.assertFalse(self.PINS.exists())

    def test_it_does_not_start_where_it_would_fail_open(self):
        for options in (["--no-native"], ["--no-proxy"]):
            command = [WEIR, "agent", "--state-dir", self.directory / "none", "--config", self.configuration, *options]
            ended = run(command, timeout=20)
            self.assertEqual((ended.status, len(ended.stderr.splitlines())), (1, 1), ended.stderr)
            self.assertIn("transparent.fail_closed", ended.stderr)
        hidden = "mount -t tmpfs none /sys/fs/bpf && exec \"$@\""
        agent = [WEIR, "agent", "--state-dir", self.directory / "none", "--config", self.configuration]
        ended = run(["unshare", "--mount", "sh", "-c", hidden, "sh", *agent], timeout=30)
        self.assertEqual((ended.status, len(ended.stderr.splitlines())), (1, 1), ended.stderr)
        self.assertIn("mount -t bpf -o mode=0700 bpf /sys/fs/bpf", ended.stderr)


if __name__ == "__main__":
    unittest.main()
