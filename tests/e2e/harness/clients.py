"""The programs whose traffic is watched, and what they themselves say of it."""

import hashlib
import json
import os
import pathlib

from harness.processes import check

SOURCES = pathlib.Path(__file__).resolve().parent.parent / "clients"
BUILT = pathlib.Path(os.environ.get("WEIR_E2E_CLIENTS", ""))
TLS_CLIENT = BUILT / os.environ.get("WEIR_E2E_TLS_CLIENT", "tls_client")
PRELOAD = BUILT / "cookie_preload.so"
PYTHON = "/usr/bin/python3"
CURL = "/usr/bin/curl"


def hash_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def json_lines(text):
    """Not by splitlines(): what a record quotes may hold what Python takes for a line's end, U+2028 for one."""
    return [json.loads(line) for line in text.split("\n") if line]


def with_cookies(file, preload=PRELOAD):
    """A command's prefix: its TCP connects are noted in the file. Not for weir: ASan refuses preloads."""
    return ["/usr/bin/env", f"LD_PRELOAD={preload}", f"WEIR_TEST_COOKIES={file}"]


def cookies_of(file):
    """The noted connects: objects with pid, cookie, local_port, peer_port."""
    return json_lines(file.read_text()) if file.exists() else []


def curl_command(url, *options, ca=None, output="/dev/null"):
    command = [CURL, "-q", "--silent", "--show-error", "--max-time", "30", "--output", output]
    command += ["--write-out", '{"status":%{http_code},"size":%{size_download}}\n']
    return [*command, *(["--cacert", ca] if ca else []), *options, url]


def direct(port):
    """curl's options that make origin.test the origin without a name server."""
    return ["--resolve", f"origin.test:{port}:127.0.0.1"]


def run_json(command, **options):
    """Runs a client that must succeed; gives its end and the objects that it printed."""
    finished = check(command, **options)
    return finished, json_lines(finished.stdout)


def tls_client_command(port, *arguments, ca=None, host="127.0.0.1"):
    """`arguments` are options, then requests; they are put before and after the destination."""
    options = [argument for argument in arguments if not str(argument).startswith(("GET:", "PUT:"))]
    requests = [argument for argument in arguments if argument not in options]
    return [TLS_CLIENT, *(["--ca", ca] if ca else []), *options, host, str(port), *requests]


def compile_java(directory):
    check(["javac", "-d", directory, *sorted(SOURCES.glob("*.java"))], timeout=120)
    return directory


def java_command(classes, main, prefix, count):
    return ["java", "-cp", classes, main, prefix, str(count)]


def python_command(port, ca, prefix, count):
    return [PYTHON, "-B", SOURCES / "http_client.py", "127.0.0.1", str(port), ca, prefix, str(count)]
