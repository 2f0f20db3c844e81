"""A worker that somebody else has taken over, against the real broker: nothing that it says gets more than it may, and
the broker stays."""

import ctypes
import os
import random
import signal
import socket
import struct
import unittest

from harness.agent import bpf_objects
from harness.case import SOAK, EndToEndTest
from harness.processes import alive, wait_until

MESSAGES = 100_000 if SOAK else 5_000
FIRST_NUMBER = 1 << 40  # ours: the worker counts from 1
# agent/protocol.h
MAGIC = 0x77656972
CHANNEL = 3
REQUEST = struct.Struct("=IIQ3080s")
REPLY = struct.Struct("=IIQ")
REPLY_SIZE = 4672
OK = 0
HELLO, READY, START_FAILED, SIGN_LEAF, OPEN_KNOWN_LIBRARY, OPEN_MAPPING, ATTACH = range(1, 8)
DETACH, FORGET_FILE, FIND_SOCKET_OWNER, TASK_ITERATOR, MAPPING_ITERATOR = range(8, 13)
SOCKET_ITERATOR, MAPPING_EVENTS, NEXT_EXEC, EXEC_DONE, WARM_UP, AUTHORITY, NEXT_LISTENER = range(13, 20)
POLICY, FIND_EXECUTABLE, UPSTREAM_SOCKET = range(20, 23)
UNANSWERED = (READY, START_FAILED)
# What chance may hit: each asks for something that any worker gets, or gives up something of its own.
HARMLESS = {HELLO, OPEN_KNOWN_LIBRARY, DETACH, FORGET_FILE, FIND_SOCKET_OWNER, TASK_ITERATOR, MAPPING_ITERATOR}
HARMLESS |= {SOCKET_ITERATOR, MAPPING_EVENTS, NEXT_EXEC, EXEC_DONE, WARM_UP, AUTHORITY, NEXT_LISTENER}
HARMLESS |= {POLICY, FIND_EXECUTABLE, UPSTREAM_SOCKET}

_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)


def taken_channel(worker):
    """The worker's own end of the socket pair."""
    pidfd = os.pidfd_open(worker)
    try:
        descriptor = _libc.syscall(_PIDFD_GETFD, pidfd, CHANNEL, 0)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return socket.socket(fileno=descriptor)
    finally:
        os.close(pidfd)


class HostileWorkerTest(EndToEndTest):
    def setUp(self):
        self.agent = self.start_agent()
        self.worker = self.agent.worker_pid()
        # It must not take the answers away, and nothing is to be asked beside us.
        os.kill(self.worker, signal.SIGSTOP)
        self.addCleanup(self.let_go_on)
        self.channel = taken_channel(self.worker)
        self.addCleanup(lambda: self.channel.close())
        self.channel.settimeout(60)

    def let_go_on(self):
        try:
            os.kill(self.worker, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def random_request(self, number):
        operation = random.choice([*range(24), random.getrandbits(32)])
        if operation in UNANSWERED:
            operation = 0
        fields = bytearray(random.randbytes(3080))
        if random.random() < 0.5:  # small numbers get further than large ones
            struct.pack_into("=II", fields, 0, random.randrange(8), random.randrange(70))
        return operation, REQUEST.pack(MAGIC, operation, number, bytes(fields))

    def ask(self, number):
        """One request; returns its operation and the status that it is answered with."""
        operation, message = self.random_request(number)
        self.channel.send(message)
        answered = 0
        while answered < FIRST_NUMBER:  # what the worker had asked when it was stopped comes first
            answer, descriptors, flags, _ = socket.recv_fds(self.channel, REPLY_SIZE + 1, 16)
            for descriptor in descriptors:
                os.close(descriptor)
            self.assertEqual((len(answer), flags & socket.MSG_CTRUNC), (REPLY_SIZE, 0))
            magic, status, answered = REPLY.unpack_from(answer)
        self.assertEqual((magic, answered), (MAGIC, number))
        return operation, status

    def test_random_messages_are_refused(self):
        held = bpf_objects({self.agent.pid})
        seed = random.randrange(1 << 32)
        random.seed(seed)
        granted = set()
        for number in range(FIRST_NUMBER, FIRST_NUMBER + MESSAGES):
            operation, status = self.ask(number)
            if status == OK:
                granted.add(operation)
        self.assertLessEqual(granted, HARMLESS, f"seed {seed}")
        self.assertLessEqual(bpf_objects({self.agent.pid}), held, f"seed {seed}")
        self.assertTrue(alive(self.agent.pid))

    def test_a_malformed_message_ends_the_worker(self):
        for message in (b"x", REQUEST.pack(MAGIC + 1, HELLO, 1, bytes(3080)), bytes(REQUEST.size + 1)):
            with self.subTest(size=len(message)):
                self.channel.send(message)
                wait_until(lambda: not alive(self.worker), 10, "the worker goes on")
                self.agent.wait_ready()
                self.assertTrue(alive(self.agent.pid))
                self.channel.close()
                self.worker = self.agent.worker_pid()
                os.kill(self.worker, signal.SIGSTOP)
                self.channel = taken_channel(self.worker)
                self.channel.settimeout(60)

    def test_what_it_says_is_not_typed_into_the_terminal(self):
        said = b"\x1b]0;owned\x07\n"
        self.channel.send(REQUEST.pack(MAGIC, READY, 1, said.ljust(3080, b"\0")))
        self.channel.send(REQUEST.pack(MAGIC, START_FAILED, 2, said.ljust(3080, b"\0")))
        self.ask(FIRST_NUMBER)
        logged = self.agent.log.read_bytes()
        self.assertIn(b"owned", logged)
        self.assertNotIn(b"\x1b", logged)
        self.assertNotIn(b"\x07", logged)


if __name__ == "__main__":
    unittest.main()
