"""transfer.py's connection over NSS, called as a C program calls it. Variants: how the bytes go out or come in.

read           PR_Write and PR_Read
recv           PR_Send and PR_Recv
peek           PR_Recv with PR_MSG_PEEK before each PR_Recv
writev         PR_Writev
sendfile       PR_SendFile for what is in a file, transmitfile: PR_TransmitFile
"""

import ctypes
import os
import socket

_nspr, _nss, _ssl = (ctypes.CDLL(name) for name in ("libnspr4.so", "libnss3.so", "libssl3.so"))
_pointer, _int = ctypes.c_void_p, ctypes.c_int

FOREVER = ctypes.c_uint(0xFFFFFFFF)  # PR_INTERVAL_NO_TIMEOUT
PEEK = 2  # PR_MSG_PEEK
READ_ONLY = 1  # PR_RDONLY
VECTORS = 16  # PR_MAX_IOVECTOR_SIZE
AT_ONCE = 60_000  # of one PR_Writev's vector

_Accept = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _int)


@_Accept
def _accept(argument, descriptor, check_signature, is_server):
    return 0


class _Vector(ctypes.Structure):
    _fields_ = [("base", _pointer), ("length", _int)]


class _SendFileData(ctypes.Structure):
    _fields_ = [
        ("descriptor", _pointer),
        ("offset", ctypes.c_uint),
        ("bytes", ctypes.c_size_t),
        ("header", _pointer),
        ("header_length", _int),
        ("trailer", _pointer),
        ("trailer_length", _int),
    ]


def _call(library, name, *arguments, result=_int):
    function = getattr(library, name)
    function.restype = result
    value = function(*arguments)
    failed = not value if result is _pointer else value < 0
    if failed:
        raise OSError(f"{name}: {_nspr.PR_GetError()}")
    return _pointer(value) if result is _pointer else value


class Connection:
    def __init__(self, ca, host, port, variant):
        self._variant = variant
        raw = socket.create_connection((host, port))
        _call(_nss, "NSS_NoDB_Init", b".")
        self._tls = _call(_nspr, "PR_ImportTCPSocket", raw.detach(), result=_pointer)
        _call(_ssl, "SSL_ImportFD", None, self._tls, result=_pointer)
        # The tests' authority is in no database of NSS's.
        _call(_ssl, "SSL_AuthCertificateHook", self._tls, _accept, None)
        _call(_ssl, "SSL_SetURL", self._tls, host.encode())
        _call(_ssl, "SSL_ResetHandshake", self._tls, 0)
        self._buffer = ctypes.create_string_buffer(100_000)

    def send(self, data):
        address, left = ctypes.cast(ctypes.c_char_p(data), _pointer).value, len(data)
        while left:
            moved = self._send_some(address, left)
            address, left = address + moved, left - moved

    def _send_some(self, address, size):
        if self._variant == "writev":
            return self._send_vectors(address, size)
        if self._variant == "recv":
            return _call(_nspr, "PR_Send", self._tls, _pointer(address), size, 0, FOREVER)
        return _call(_nspr, "PR_Write", self._tls, _pointer(address), size)

    def _send_vectors(self, address, size):
        """In pieces of uneven lengths."""
        vectors, at = (_Vector * VECTORS)(), 0
        for i, vector in enumerate(vectors):
            length = min(size - at, 1 + i * AT_ONCE // VECTORS)
            vector.base, vector.length, at = address + at, length, at + length
        return _call(_nspr, "PR_Writev", self._tls, vectors, VECTORS, FOREVER)

    def send_file(self, file):
        if self._variant not in ("sendfile", "transmitfile"):
            self.send(file.read_bytes())
            return
        opened = _call(_nspr, "PR_Open", os.fsencode(file), READ_ONLY, 0, result=_pointer)
        if self._variant == "transmitfile":
            _call(_nspr, "PR_TransmitFile", self._tls, opened, None, 0, 0, FOREVER)
        else:
            data = _SendFileData(descriptor=opened)
            _call(_nspr, "PR_SendFile", self._tls, ctypes.byref(data), 0, FOREVER)
        _call(_nspr, "PR_Close", opened)

    def receive(self):
        room = len(self._buffer)
        if self._variant in ("recv", "peek"):
            if self._variant == "peek":
                _call(_nspr, "PR_Recv", self._tls, self._buffer, room, PEEK, FOREVER)
            got = _call(_nspr, "PR_Recv", self._tls, self._buffer, room, 0, FOREVER)
        else:
            got = _call(_nspr, "PR_Read", self._tls, self._buffer, room)
        return self._buffer.raw[:got]

    def close(self):
        _call(_nspr, "PR_Close", self._tls)
