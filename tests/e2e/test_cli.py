"""The command line as a person meets it: help, wrong use, filters, the child of `weir exec`."""

import fcntl
import functools
import json
import os
import signal
import socket
import subprocess
import time
import unittest
import urllib.parse

from harness import clients
from harness.agent import AS_NOBODY, WEIR, Agent, bpf_objects, readable_copy
from harness.case import EndToEndTest
from harness.processes import alive, check, end, kill_group, run, spawn, wait_until

SUBCOMMANDS = ("agent", "exec", "env", "ca", "status", "tail", "ls", "coverage", "doctor", "replay", "release")
WRONG_USES = (
    [],
    ["no-such-command"],
    ["agent", "--no-such-option"],
    ["agent", "--proxy-listen", "nonsense"],
    ["agent", "surplus"],
    ["exec"],
    ["exec", "--"],
    ["env", "--format", "no-such-format"],
    ["ca", "no-such-command"],
    ["status", "--wait", "soon"],
    ["doctor", "--pid", "none"],
    ["doctor", "--pid", "1", "--processes"],
    ["ls", "--pid", "none"],
    ["ls", "--status", "many"],
    ["ls", "--status", "6xx"],
    ["ls", "--limit", "0"],
    ["ls", "--limit", "-1"],
    ["ls", "--pid", "0"],
    ["tail", "--pid", "0"],
    ["tail", "--limit", "1"],
    ["tail", "--status", "6xx"],
    ["coverage", "--pid", "1"],
    ["ls", "--since", "whenever"],
    ["replay"],
    ["agent", "--state-dir=", "--no-native"],
    ["ls", "--process=", "--limit", "1"],
)
FORMATS = ("sh", "fish", "dotenv", "json", "systemd", "docker")


class UsageTest(EndToEndTest):
    def test_help_has_an_example(self):
        for words in ([], *([name] for name in SUBCOMMANDS)):
            with self.subTest(words):
                shown = check([WEIR, *words, "--help"])
                self.assertRegex(shown.stdout, r"(?i)example")
                self.assertIn(" ".join(["weir", *words]), shown.stdout)
                self.assertEqual(shown.stderr, "")

    def test_help_names_each_subcommand(self):
        shown = check([WEIR, "--help"]).stdout
        for name in SUBCOMMANDS:
            self.assertRegex(shown, rf"(?m)^\s+{name}\s")

    def test_wrong_use(self):
        for words in WRONG_USES:
            with self.subTest(words):
                ended = run([WEIR, *words], timeout=10)
                self.assertEqual(ended.status, 2, ended.stderr)
                self.assertEqual(ended.stdout, "")
                self.assertNotEqual(ended.stderr.strip(), "")

    def test_what_is_wrong_is_named(self):
        for words in (["no-such-command"], ["ca", "no-such-command"], ["agent", "--no-such-option"], ["\x1b[2J"]):
            with self.subTest(words):
                ended = run([WEIR, *words], timeout=10)
                self.assertIn(words[-1].strip("\x1b"), ended.stderr)
                self.assertNotIn("\x1b", ended.stderr)
        # What ends the options is nobody's mistake.
        for words in (["exec", "--"], ["exec", "--no-such-option", "--", "true"], ["exec"]):
            with self.subTest(words):
                ended = run([WEIR, *words], timeout=10)
                self.assertEqual(ended.status, 2)
                self.assertIn("not expected: --no-such-option\n" if len(words) > 2 else "command is required\n", ended.stderr)

    def test_files_that_are_none(self):
        """Neither a wait nor a crash: one line that names the file."""
        garbage = self.directory / "garbage"
        garbage.write_bytes(os.urandom(4096))
        agent = ["agent", "--state-dir", self.directory / "unused", "--proxy-listen", "127.0.0.1:0"]
        agent += ["--api-listen", "127.0.0.1:0"]
        for words in (["replay"], [*agent, "--config"], [*agent, "--upstream-ca"]):
            for file in (garbage, self.directory, "/dev/zero", self.directory / "absent"):
                with self.subTest([*words, file]):
                    ended = run([WEIR, *words, file], timeout=30)
                    self.assertIn(ended.status, (1, 2), ended.stderr)
                    self.assertEqual(ended.stdout, "")
                    self.assertEqual(len(ended.stderr.splitlines()), 1, ended.stderr)
                    self.assertIn(str(file), ended.stderr)

    def test_output_that_is_lost_is_a_failure(self):
        check([WEIR, "ca", "init", "--state-dir", self.directory / "full"])
        for words in (["--help"], ["ca", "show", "--state-dir", self.directory / "full"], ["doctor"]):
            for where in (">/dev/full", ">&-"):
                with self.subTest([*words, where]):
                    ended = run(["sh", "-c", f'exec "$@" {where}', "sh", WEIR, *words], timeout=30)
                    self.assertEqual(ended.status, 1, ended.stderr)
                    self.assertIn("standard output", ended.stderr)

    def test_without_standard_descriptors(self):
        """What the agent opens must not take their place."""
        agent = Agent(self.directory, self.ca, name="closed", options=["--no-native"])
        agent.command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *agent.command]
        self.addCleanup(agent.clean_up)
        agent.start()
        for pid in agent.own_pids():
            for number in range(3):
                self.assertEqual(os.readlink(f"/proc/{pid}/fd/{number}"), "/dev/null")
        self.assertEqual((agent.state_dir / "agent.lock").read_text().strip(), str(agent.pid))

    def test_no_agent(self):
        for words in (["status"], ["tail"], ["env"]):
            with self.subTest(words):
                ended = run([WEIR, *words, "--state-dir", self.directory / "nothing-here"], timeout=10)
                self.assertEqual(ended.status, 1)
                self.assertEqual(len(ended.stderr.splitlines()), 1, ended.stderr)
                self.assertIn("start one with `weir agent --state-dir", ended.stderr)

    def test_no_certificate_authority(self):
        nothing = self.directory / "no-authority"
        for words in (["show"], ["export"], ["install"], ["rotate"], ["rotate", "--finish"]):
            with self.subTest(words):
                ended = run([WEIR, "ca", *words, "--state-dir", nothing])
                self.assertEqual(ended.status, 1)
                self.assertIn("make one with `weir ca init`", ended.stderr)
                self.assertFalse(nothing.exists())

    def test_nobody_else_can_write_what_is_made(self):
        above = self.directory / "umask"
        check(["sh", "-c", f"umask 000; exec {WEIR} ca init --state-dir {above / 'state'}"])
        for path in (above, above / "state", above / "state" / "ca"):
            self.assertEqual(path.stat().st_mode & 0o7777, 0o755, path)

    def test_configuration_error_names_the_line(self):
        file = self.directory / "wrong.yaml"
        file.write_text("bodies: true\nproxy:\n  no_such_key: 1\n")
        ended = run([WEIR, "agent", "--state-dir", self.directory / "unused", "--config", file], timeout=10)
        self.assertIn(ended.status, (1, 2))
        self.assertIn(f"{file}:3", ended.stderr)
        self.assertIn("no_such_key", ended.stderr)

    def test_the_ca_of_another_user(self):
        """Its certificate is for all; what needs its key is its owner's, and nobody is told to take that over."""
        state = self.directory / "roots"
        weir = readable_copy(self.directory)
        shown = check([WEIR, "ca", "init", "--state-dir", state]).stdout
        other = [*AS_NOBODY, weir, "ca"]
        self.assertEqual(check([*other, "show", "--state-dir", state]).stdout, shown)
        exported = check([*other, "export", "--state-dir", state]).stdout
        self.assertEqual(exported, (state / "ca" / "ca.crt").read_text())
        check([*other, "export", "--format", "bundle", "--state-dir", state])
        for words in (["rotate"], ["rotate", "--finish"], ["install"], ["init"]):
            with self.subTest(words):
                ended = run([*other, *words, "--state-dir", state])
                self.assertEqual(ended.status, 1)
                self.assertRegex(ended.stderr, "run this as root, with sudo|owner|Permission")
                self.assertNotIn("chown", ended.stderr)
        self.assertEqual(check([WEIR, "ca", "show", "--state-dir", state]).stdout, shown)
        state.chmod(0o700)
        ended = run([*other, "show", "--state-dir", state])
        self.assertEqual((ended.status, len(ended.stderr.splitlines())), (1, 1), ended.stderr)
        self.assertIn("run this as the directory's owner", ended.stderr)
        ended = run([*AS_NOBODY, weir, "doctor", "--state-dir", state / "below"])
        self.assertIn(ended.status, (0, 1), ended.stderr)
        self.assertIn(f"{state / 'below'}: Permission denied", ended.stdout)

    def test_openssl_is_linked_statically(self):
        libraries = check(["ldd", WEIR]).stdout
        self.assertIn("libc.so", libraries)
        self.assertNotRegex(libraries, r"libssl|libcrypto")

    def test_doctor(self):
        report = json.loads(run([WEIR, "doctor", "--json", "--state-dir", self.directory / "doctor"]).stdout)
        programs = [finding for finding in report["findings"] if finding["area"] == "kernel"]
        self.assertGreater(len(programs), 5)
        for program in programs:
            self.assertTrue(program["name"])
            self.assertIsInstance(program["works"], bool)
            if not program["works"]:
                self.assertTrue(program["detail"], f"why not? {program}")
                self.assertTrue(program["advice"], f"what serves instead? {program}")


class DoctorTest(EndToEndTest):
    """What it says of a process is what an agent would find there."""

    def examine(self, *options):
        return json.loads(check([WEIR, "doctor", "--json", *options]).stdout)["processes"]

    def hold(self, *command):
        """A process that lives until the test ends; it has mapped its libraries when it writes a line."""
        process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(end, process)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stdin.close)
        process.stdout.readline()
        return process.pid

    def hold_python(self, *modules):
        return self.hold(clients.PYTHON, "-c", f"import {', '.join(modules)}; print(flush=True); input()")

    def test_a_process_with_openssl(self):
        pid = self.hold_python("ssl")
        (process,) = self.examine("--pid", str(pid))
        self.assertEqual(process["process.pid"], pid)
        self.assertEqual(process["process.executable.path"], os.path.realpath(clients.PYTHON))
        (library,) = process["libraries"]
        self.assertEqual(library["library"], "openssl")
        self.assertEqual(os.path.basename(library["file"]), "libssl.so.3")
        self.assertIs(library["readable"], True)
        places = {probe["place"] for probe in library["probes"]}
        self.assertEqual(places, {"entry", "return", "end"})
        shown = check([WEIR, "doctor", "--pid", str(pid)]).stdout
        self.assertRegex(shown, rf"(?m)^{pid} {process['process.executable.path']}$")
        self.assertRegex(shown, r"(?m)^  ok  libssl\.so\.3  \S+/libssl\.so\.3  \d+ probes: \d+ at entries")
        self.assertIn("SSL_read: entry emulated, return emulated", shown)
        self.assertIn("SSL_read_ex: entry emulated, return single-stepped", shown)
        functions = {function["name"]: function for function in library["functions"]}
        self.assertTrue(functions["SSL_clear"]["entry_emulated"], functions)
        self.assertEqual((functions["SSL_write"]["returns"], functions["SSL_write"]["returns_emulated"]), (1, 1))

    def test_all_processes(self):
        """One whose library can't be read, and why; one that has none."""
        command = clients.tls_client_command(self.origin.port, "--loop", "/held", "--hold", "1", ca=self.ca)
        stripped = self.hold(clients.BUILT / "tls_client_stripped", *command[1:])
        plain = self.hold_python("os")
        processes = {process["process.pid"]: process for process in self.examine("--processes")}
        self.assertEqual(processes[plain]["libraries"], [])
        (library,) = processes[stripped]["libraries"]
        self.assertIs(library["readable"], False)
        self.assertEqual(library["reason"], "static OpenSSL without symbols")
        self.assertEqual(library["probes"], [])
        shown = check([WEIR, "doctor", "--processes"]).stdout
        self.assertRegex(shown, rf"(?m)^{stripped} .*\n  no  .*static OpenSSL without symbols")
        self.assertNotRegex(shown, rf"(?m)^{plain} ")
        self.assertRegex(shown.splitlines()[-1], r"^\d+ processe?s? ha(s|ve) no TLS library that is known$")

    def test_a_process_that_is_not_there(self):
        gone = check(["true"]).pid
        ended = run([WEIR, "doctor", "--pid", str(gone)])
        self.assertEqual(ended.status, 1)
        self.assertIn(str(gone), ended.stderr)

    def test_without_root(self):
        """One's own processes, and a word about those of others."""
        weir = readable_copy(self.directory)
        own = self.hold(*AS_NOBODY, clients.PYTHON, "-c", "import ssl; print(flush=True); input()")
        (process,) = json.loads(check([*AS_NOBODY, weir, "doctor", "--json", "--pid", str(own)]).stdout)["processes"]
        self.assertEqual([library["readable"] for library in process["libraries"]], [True])
        others = run([*AS_NOBODY, weir, "doctor", "--pid", str(self.hold_python("ssl"))])
        self.assertEqual(others.status, 1)
        self.assertIn("as root", others.stderr)


class StoreTest(EndToEndTest):
    """One agent and three exchanges that the filters must tell apart."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()
        urls = {
            "curl": f"https://origin.test:{cls.origin.port}/curl",
            "missing": f"https://localhost:{cls.origin.port}/files/any/404",
            "tls_client": f"https://127.0.0.1:{cls.origin.port}/tls-client",
        }
        direct = clients.direct(cls.origin.port)
        cls.curl_pid = check(clients.curl_command(urls["curl"], *direct, ca=cls.ca)).pid
        check(clients.curl_command(urls["missing"], ca=cls.ca))
        check(clients.tls_client_command(cls.origin.port, "GET:/tls-client", ca=cls.ca))
        cls.records = cls.agent.wait_for_exchanges(cls.origin.port, 3)
        cls.urls = urls

    def listed(self, *filters):
        command = [WEIR, "ls", "--json", "--state-dir", self.agent.state_dir, *filters]
        records = clients.json_lines(check(command).stdout)
        return {record.get("url.full") for record in records} & set(self.urls.values())

    def wait_for_listed(self, filters, *names):
        expected = {self.urls[name] for name in names}
        listed = functools.partial(self.listed, *filters)
        wait_until(lambda: listed() == expected, 10, lambda: f"{filters} gives {listed()}, not {expected}")

    def test_no_filter(self):
        self.wait_for_listed([], "curl", "missing", "tls_client")

    def test_filters(self):
        self.wait_for_listed([], "curl", "missing", "tls_client")
        first, *_, last = sorted(record["timestamp"] for record in self.records)
        self.wait_for_listed(["--process", "tls_client"], "tls_client")
        self.wait_for_listed(["--pid", str(self.curl_pid)], "curl")
        self.wait_for_listed(["--host", "origin.test"], "curl")
        self.wait_for_listed(["--status", "404"], "missing")
        self.wait_for_listed(["--status", "2xx"], "curl", "tls_client")
        self.wait_for_listed(["--since", first], "curl", "missing", "tls_client")
        self.assertEqual(len(self.listed("--since", last)), 1)
        self.wait_for_listed(["--process", "curl", "--status", "404"], "missing")
        self.wait_for_listed(["--process", "no-such-process"])

    def test_times_that_are_far_away(self):
        self.assertEqual(self.listed("--since", "200000d"), self.listed())
        ended = run([WEIR, "ls", "--since", "9999-12-31T23:59:59Z", "--state-dir", self.agent.state_dir])
        self.assertEqual(ended.status, 2, ended.stderr)

    def test_listing_for_people(self):
        shown = check([WEIR, "ls", "--state-dir", self.agent.state_dir, "--process", "tls_client"]).stdout
        self.assertIn("/tls-client", shown)
        self.assertNotIn("/curl", shown)

    def test_coverage(self):
        command = [WEIR, "coverage", "--json", "--state-dir", self.agent.state_dir]
        rows = clients.json_lines(check(command).stdout)
        (row,) = [row for row in rows if row["process.pid"] == self.curl_pid]
        self.assertEqual((row["connections"], row["readable_connections"]), (1, 1))

    def test_tail(self):
        command = [WEIR, "tail", "--json", "--state-dir", self.agent.state_dir, "--process", "tls_client"]
        output = self.directory / "tail"
        with open(output, "w") as file:
            tail = spawn(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL)
        self.addCleanup(end, tail)

        def seen():
            check(clients.tls_client_command(self.origin.port, "GET:/tailed", ca=self.ca))
            return "/tailed" in output.read_text()

        wait_until(seen, 20, "tail shows nothing")
        complete = output.read_text().rpartition("\n")[0]
        for record in clients.json_lines(complete):
            self.assertEqual(record["process.executable.name"], "tls_client")

    def test_weir_itself_is_not_probed(self):
        """It contains OpenSSL, and each of the proxy's calls would trap."""
        held = bpf_objects({self.agent.pid})
        links = json.loads(check(["bpftool", "--json", "link", "show"]).stdout)
        paths = {link.get("path") for link in links if ("link", link["id"]) in held}
        self.assertTrue(any("libssl.so" in path for path in paths if path), paths)
        self.assertNotIn(os.path.realpath(WEIR), paths)
        (process,) = json.loads(check([WEIR, "doctor", "--json", "--pid", str(self.agent.pid)]).stdout)["processes"]
        reasons = [(library["file"], library["reason"]) for library in process["libraries"]]
        self.assertEqual(reasons, [(os.path.realpath(WEIR), "weir itself: left alone")])

    def test_status(self):
        status = self.agent.status()
        self.assertIs(status["ready"], True)
        self.assertEqual(status["pid"], self.agent.process.pid)
        for listener in ("proxy", "api"):
            self.assertRegex(status[listener]["address"], r"^127\.0\.0\.1:[1-9]\d*$")


class EnvironmentTest(EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()

    def test_environment_formats(self):
        address = self.agent.proxy_address()
        for name in FORMATS:
            with self.subTest(name):
                printed = check([WEIR, "env", "--state-dir", self.agent.state_dir, "--format", name]).stdout
                self.assertIn("HTTPS_PROXY", printed)
                self.assertIn("JAVA_TOOL_OPTIONS", printed)
                self.assertIn(address, printed)

    def test_sourced_environment_is_that_of_exec(self):
        state = str(self.agent.state_dir)
        executed = self.variables(check(self.agent.exec_command("env", "-0")).stdout)
        script = f'eval "$({WEIR} env --state-dir {state})"; exec env -0'
        sourced = self.variables(check(["sh", "-c", script]).stdout)
        given = json.loads(check([WEIR, "env", "--state-dir", state, "--format", "json"]).stdout)
        self.assertGreater(len(given), 20)
        for name, value in given.items():
            self.assertEqual(executed.get(name), value, name)
            self.assertEqual(sourced.get(name), value, name)

    @staticmethod
    def variables(text):
        return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


class ChildChecks:
    """What a child of `weir exec` must not notice; the agent may be a running one, or the command's own."""

    def test_exit_status(self):
        self.assertEqual(run(self.exec_command("sh", "-c", "exit 7")).status, 7)
        self.assertEqual(run(self.exec_command("true")).status, 0)

    def test_killed_child(self):
        command = " ".join(map(str, self.exec_command("sh", "-c", "'kill -TERM $$'")))
        self.assertEqual(run(["sh", "-c", f"{command}; exit $?"]).status, 128 + signal.SIGTERM)

    def test_command_not_found(self):
        ended = run(self.exec_command("no-such-program"))
        self.assertEqual(ended.status, 127)
        self.assertRegex(ended.stderr, r"(?m)^weir: no-such-program: ")

    def test_arguments_and_input_pass(self):
        script = 'cat; printf "%s|" "$@"'
        command = self.exec_command("sh", "-c", script, "name", "two words", "", "--json")
        self.assertEqual(run(command, typed="typed|").stdout, "typed|two words||--json|")

    def test_sigterm_reaches_the_child(self):
        script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done"
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        child = spawn(self.exec_command("sh", "-c", script), **streams)
        self.addCleanup(end, child)
        self.addCleanup(child.stdout.close)
        self.assertEqual(child.stdout.readline(), "ready\n")
        os.kill(child.pid, signal.SIGTERM)
        self.assertEqual(child.stdout.readline(), "got it\n")
        self.assertEqual(child.wait(20), 9)


class ChildTest(ChildChecks, EndToEndTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.agent = cls.start_class_agent()

    def exec_command(self, *command):
        return self.agent.exec_command(*command)


class ChildWithItsOwnAgentTest(ChildChecks, EndToEndTest):
    """`weir exec` where no agent runs: it starts one that ends with the command."""

    def exec_command(self, *command):
        return [WEIR, "exec", "--state-dir", self.directory / "own", "--", *command]

    def start(self, script):
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        child = spawn(self.exec_command(clients.PYTHON, "-c", script), **streams)
        self.addCleanup(end, child)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.stdin.close)
        return child

    def hold(self):
        """A command that runs until its input is closed; its process, and its proxy's URL. Like many programs, it
        closes what it didn't open itself."""
        child = self.start(
            "import os; os.closerange(3, 256); print(os.environ['HTTPS_PROXY'], flush=True); os.read(0, 1)"
        )
        proxy = child.stdout.readline().strip()
        self.assertRegex(proxy, r"^http://127\.0\.0\.1:\d+$")
        return child, proxy

    def broker_pid(self):
        return int((self.directory / "own" / "agent.lock").read_text())

    def wait_for_end(self, broker):
        wait_until(lambda: not alive(broker), 20, "the agent outlives its users")

    def test_the_agent_stays_for_another_command(self):
        (first, proxy), (second, same) = self.hold(), self.hold()
        self.assertEqual(proxy, same)
        broker = self.broker_pid()
        first.communicate("", timeout=20)
        self.assertEqual(first.returncode, 0)
        socket.create_connection(urllib.parse.urlsplit(same).netloc.split(":")).close()
        _, (answer,) = clients.run_json(self.exec_command(*clients.curl_command(self.url("/still-there"))))
        self.assertEqual(answer["status"], 502)
        self.assertEqual(self.broker_pid(), broker)
        second.communicate("", timeout=20)
        self.wait_for_end(broker)

    def test_commands_that_come_while_an_agent_ends_get_another(self):
        commands = [spawn(self.exec_command("true"), stderr=subprocess.PIPE, text=True) for _ in range(6)]
        for command in commands:
            self.addCleanup(end, command)
            _, stderr = command.communicate(timeout=60)
            self.assertEqual(command.returncode, 0, stderr)

    def test_the_agent_ends_when_its_users_are_killed(self):
        child, _ = self.hold()
        broker = self.broker_pid()
        kill_group(child.pid)
        self.wait_for_end(broker)

    def test_no_agent_is_left_by_a_command_that_is_killed_at_once(self):
        for delay in (0, 0.002, 0.005, 0.01, 0.02, 0.05):
            child = self.start("input()")
            time.sleep(delay)
            kill_group(child.pid)
            child.wait(20)
            wait_until(self.is_free, 20, "an agent holds the state directory")

    def is_free(self):
        """Whether an agent could start there."""
        lock = self.directory / "own" / "agent.lock"
        if not lock.exists():
            return True
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def test_nobody_else_can_keep_the_agent(self):
        child, _ = self.hold()
        self.assertEqual((self.directory / "own" / "agent.users").stat().st_mode & 0o777, 0o600)
        child.communicate("", timeout=20)

    def test_traffic_goes_through_the_agent_that_ends_with_it(self):
        # That agent doesn't know the test's root: its 502, which curl trusts, shows that it stood in between.
        _, (answer,) = clients.run_json(self.exec_command(*clients.curl_command(self.url("/own-agent"))))
        self.assertEqual(answer["status"], 502)
        state = ["--state-dir", self.directory / "own"]
        self.assertEqual(run([WEIR, "status", *state]).status, 1)
        listed = clients.json_lines(check([WEIR, "ls", "--json", "--kind", "exchange", *state]).stdout)
        self.assertIn(self.url("/own-agent"), [record.get("url.full") for record in listed])


if __name__ == "__main__":
    unittest.main()
