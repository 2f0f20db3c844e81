"""Containers of podman's, on the host's network if not said otherwise, from an image that is made of the host's files. All is private to the
directory: storage, state and image.
"""

import itertools
import re
import shutil
import subprocess

from harness.processes import check, clean_environment, end, run, spawn, wait_until

IMAGE = "localhost/weir-test"


def _with_libraries(program):
    """A program's file and those that the loader brings with it."""
    return [program, *re.findall(r"(/\S+) \(0x", check(["ldd", program]).stdout)]


class Podman:
    """`files` gives what else the image has: its path there, and where it is here."""

    def __init__(self, directory, programs, files):
        self.directory = directory
        directory.mkdir()
        # With mounts of its own, which are gone with the last container, however this test ends.
        self._podman = ["unshare", "--mount", "podman", "--root", directory / "storage", "--runroot", directory / "run",
                        "--tmpdir", directory / "tmp", "--runtime=runc", "--cgroup-manager=cgroupfs",
                        "--events-backend=none"]
        self._containers = []
        self._import(programs, files)

    def _import(self, programs, files):
        root = self.directory / "rootfs"
        for name in ("tmp", "etc", "bin"):
            (root / name).mkdir(parents=True)
        for program in programs:
            for file in _with_libraries(program):
                self._copy(file, root / file.lstrip("/"))
        for there, here in files.items():
            self._copy(here, root / there.lstrip("/"))
        archive = self.directory / "image.tar"
        check(["tar", "-C", root, "-cf", archive, "."])
        self.run("import", "--quiet", archive, IMAGE)

    @staticmethod
    def _copy(here, there):
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here, there)

    def run(self, *arguments):
        environment = ["/usr/bin/env", f"HOME={self.directory}"]
        return check([*environment, *self._podman, *arguments], timeout=60)

    def start(self, *options, network="host"):
        container = Container(self, [f"--network={network}", *options])
        self._containers.append(container)
        return container

    def command(self, *arguments):
        return [str(part) for part in (*self._podman, *arguments)]

    def clean_up(self):
        for container in self._containers:
            container.end()
        run(["/usr/bin/env", f"HOME={self.directory}", *self._podman, "rm", "--all", "--force", "--time=0"])
        shutil.rmtree(self.directory, ignore_errors=True)


class Container:
    """One with a shell that runs what it is told, until it is ended."""

    _numbers = itertools.count()

    def __init__(self, podman, options):
        self._podman = podman
        file = podman.directory / f"id-{next(self._numbers)}"
        # Without limits of its own: podman would raise the caller's, which it may not be allowed to.
        self._process = spawn(
            podman.command("run", "--interactive", "--rm", *options, "--cidfile", file,
                           "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", IMAGE, "/bin/sh"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=clean_environment() | {"HOME": str(podman.directory)},
        )
        self.shell("echo started")
        wait_until(file.exists, 10, "no container's id")
        self.id = file.read_text().strip()

    def name(self):
        """As podman gave it."""
        return self._podman.run("inspect", "--format", "{{.Name}}", self.id).stdout.strip()

    def shell(self, line):
        """What the line prints; its status must be 0."""
        self._process.stdin.write(f"{line}; echo status $?\n")
        self._process.stdin.flush()
        printed = []
        while text := self._process.stdout.readline():
            if text.startswith("status "):
                if text != "status 0\n":
                    raise AssertionError(f"{line}: {text}{''.join(printed)}")
                return "".join(printed)
            printed.append(text)
        raise AssertionError(f"the container ended: {''.join(printed)}")

    def end(self):
        if self._process.poll() is None:
            self._process.stdin.close()
        end(self._process)
