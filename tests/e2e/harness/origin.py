"""A real nginx as TLS origin, private to one test: own prefix, own ports, own access log.

GET /files/ANY/N      N bytes, random but the same in each run: one of FILE_SIZES or of those made by make_file()
PUT /uploads/ANY/...  keeps the body as a file
/repositories/...     git's smart protocol, once start_git() was called
GET anything else answers with `small_body(path)`
"""

import hashlib
import json
import random
import shutil
import socket

from harness.clients import hash_of
from harness.processes import children_of, end, spawn, wait_until

FILE_SIZES = (1, 8191, 8192, 8193, 16384, 32769, 1_000_000, 5_000_000)

_SERVER = """
  server {{
    listen {address}:{port} {options};
    {certificate}
    location / {{ {answer} }}
    location ~ ^/files/[^/]+/(?<size>[0-9]+)$ {{ alias {directory}/files/$size; }}
    location /uploads/ {{ root {directory}; dav_methods PUT; create_full_put_path on; }}
    location /repositories/ {{
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param GIT_PROJECT_ROOT {directory};
      fastcgi_param GIT_HTTP_EXPORT_ALL "";
      fastcgi_param REMOTE_USER tests;
      fastcgi_pass unix:{directory}/git.sock;
    }}
  }}
"""

_ANSWER = 'default_type text/plain; return 200 "this is $uri\\n";'
# An answer that doesn't wait for the request's end makes HTTP/2 clients leave the rest out (RFC 9113, 8.1).
_ANSWER_AT_THE_END = "proxy_pass http://unix:{directory}/inner.sock;"
_INNER = "  server {{ listen unix:{directory}/inner.sock; access_log off; location / {{ {answer} }} }}"

_CONFIGURATION = """
daemon off;
user root root;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 16384; }}
http {{
  log_format exchanges escape=json
    '{{"path":"$uri","method":"$request_method","status":$status,"client_port":$remote_port,"client_address":"$remote_addr",'
    '"port":$server_port,"connection":$connection,"body_size":"$content_length",'
    '"answer_bytes":$bytes_sent}}';
  access_log {directory}/access.log exchanges;
  client_body_temp_path {directory}/temporary;
  proxy_temp_path {directory}/temporary;
  fastcgi_temp_path {directory}/temporary;
  uwsgi_temp_path {directory}/temporary;
  scgi_temp_path {directory}/temporary;
  client_max_body_size 0;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_early_data on;
  keepalive_requests 1000000;
  keepalive_timeout 10m;
{servers}
}}
"""


def small_body(path):
    return f"this is {path}\n".encode()


def free_port(address="127.0.0.1"):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


class Origin:
    """`certificates` gives each server's name its certificate, `ports` its port; `port` is the first's. The server
    named "h2" offers HTTP/2; one without a certificate speaks cleartext."""

    def __init__(self, directory, certificates, address="127.0.0.1"):
        self.directory = directory
        self.address = address
        for name in ("files", "uploads", "temporary"):
            (directory / name).mkdir(parents=True)
        self.hashes = {}
        self._git = None
        for size in FILE_SIZES:
            self.make_file(size)
        self._start(certificates)
        self.port = next(iter(self.ports.values()))

    def make_file(self, size):
        content = random.Random(size).randbytes(size)
        self.file(size).write_bytes(content)
        self.hashes[size] = hashlib.sha256(content).hexdigest()

    def file(self, size):
        return self.directory / "files" / str(size)

    def _start(self, certificates):
        # A port that the kernel gave may be taken before nginx binds it: then nginx exits, and we ask again.
        for _ in range(5):
            self.ports = {name: free_port(self.address) for name in certificates}
            self._write_configuration(certificates)
            self._process = spawn(
                [shutil.which("nginx", path="/usr/sbin:/usr/bin") or "nginx", "-p", self.directory]
                + ["-e", self.directory / "error.log", "-c", self.directory / "nginx.conf"]
            )
            wait_until(self._has_ended_or_listens, 20, "nginx does not listen")
            if self._process.poll() is None:
                return
        raise AssertionError("nginx does not start: " + (self.directory / "error.log").read_text())

    def _has_ended_or_listens(self):
        return self._process.poll() is not None or all(map(self._accepts, self.ports.values()))

    def _accepts(self, port):
        with socket.socket() as probe:
            return probe.connect_ex((self.address, port)) == 0

    def _write_configuration(self, certificates):
        servers = "".join(self._server(name, files) for name, files in certificates.items())
        configuration = _CONFIGURATION.format(directory=self.directory, servers=servers)
        (self.directory / "nginx.conf").write_text(configuration)

    def _server(self, name, files):
        options = ("ssl http2" if name == "h2" else "ssl") if files else ""
        lines = f"ssl_certificate {files.certificate}; ssl_certificate_key {files.key};" if files else ""
        answer = _ANSWER_AT_THE_END.format(directory=self.directory) if name == "h2" else _ANSWER
        server = _SERVER.format(
            address=self.address,
            port=self.ports[name],
            options=options,
            certificate=lines,
            directory=self.directory,
            answer=answer,
        )
        return server + (_INNER.format(directory=self.directory, answer=_ANSWER) if name == "h2" else "")

    def start_git(self):
        (self.directory / "repositories").mkdir()
        self._git = spawn(["fcgiwrap", "-s", f"unix:{self.directory}/git.sock"])
        wait_until((self.directory / "git.sock").exists, 20, "fcgiwrap does not listen")

    def path_of(self, url):
        return url.partition(f":{self.port}")[2]

    def pids(self):
        """nginx's processes: the master and its worker."""
        return {self._process.pid} | children_of(self._process.pid)

    def requests(self):
        """What nginx has answered so far, oldest first."""
        text = (self.directory / "access.log").read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].split("\n") if line]

    def answered(self):
        """How many requests nginx has answered so far."""
        return (self.directory / "access.log").read_bytes().count(b"\n")

    def uploaded_hash(self, path):
        return hash_of(self.directory / path.lstrip("/"))

    def stop(self):
        end(self._process)
        if self._git:
            end(self._git)
