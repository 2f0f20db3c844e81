"""transfer.py's connection over OpenSSL, called as a C program calls it. Variants: how the bytes go out or come in.

ex             SSL_write_ex and SSL_read_ex
peek, peek_ex  SSL_peek or SSL_peek_ex before each SSL_read or SSL_read_ex
early          a first connection for a session ticket; then the first request as early data (0-RTT)
"""

import ctypes
import socket

_ssl = ctypes.CDLL("libssl.so.3")
_pointer, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t

VERIFY_PEER = 1
CTRL_SET_TLSEXT_HOSTNAME, CTRL_SET_SESS_CACHE_MODE = 55, 44
SESS_CACHE_CLIENT = 1
EARLY_DATA_ACCEPTED = 2

_NewSession = ctypes.CFUNCTYPE(_int, _pointer, _pointer)


def _call(name, *arguments, result=_int):
    function = getattr(_ssl, name)
    function.restype = result
    value = function(*arguments)
    if result is not None and (not value or value < 0):
        _ssl.ERR_error_string.restype = ctypes.c_char_p
        raise OSError(f"{name}: {_ssl.ERR_error_string(ctypes.c_ulong(_ssl.ERR_get_error()), None)}")
    return _pointer(value) if result is _pointer else value


class Connection:
    def __init__(self, ca, host, port, variant):
        self._variant = variant
        self._where = host, port
        self._context = _call("SSL_CTX_new", _call("TLS_client_method", result=_pointer), result=_pointer)
        _call("SSL_CTX_load_verify_locations", self._context, str(ca).encode(), None)
        _ssl.SSL_CTX_set_verify(self._context, VERIFY_PEER, None)
        self._buffer = ctypes.create_string_buffer(100_000)
        self._open()
        self._early = variant == "early"
        if self._early:
            self._resume()
        else:
            _call("SSL_connect", self._tls)

    def _open(self):
        host, port = self._where
        self._socket = socket.create_connection((host, port))
        self._tls = _call("SSL_new", self._context, result=_pointer)
        name = host.encode()
        _call("SSL_ctrl", self._tls, CTRL_SET_TLSEXT_HOSTNAME, ctypes.c_long(0), name, result=ctypes.c_long)
        _call("SSL_set1_host", self._tls, name)
        _call("SSL_set_fd", self._tls, self._socket.fileno())

    def _resume(self):
        """Tickets come with the first answer; a request that needs none is what brings them."""
        sessions = []

        @_NewSession
        def keep(tls, session):
            sessions.append(session)
            return 1

        cached = ctypes.c_long(SESS_CACHE_CLIENT)
        _ssl.SSL_CTX_ctrl(self._context, CTRL_SET_SESS_CACHE_MODE, cached, None)
        self._keep = keep  # later tickets call it, too
        _ssl.SSL_CTX_sess_set_new_cb(self._context, keep)
        _call("SSL_connect", self._tls)
        self._write(b"GET /ticket HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.receive()
        assert sessions, "no session ticket came"
        self.close()
        self._open()
        _call("SSL_set_session", self._tls, _pointer(sessions[0]))

    def send(self, data):
        if self._early:
            self._early = False
            written = _size()
            _call("SSL_write_early_data", self._tls, data, _size(len(data)), ctypes.byref(written))
            assert written.value == len(data)
            _call("SSL_connect", self._tls)
            assert _ssl.SSL_get_early_data_status(self._tls) == EARLY_DATA_ACCEPTED
        else:
            self._write(data)

    def _write(self, data):
        written = _size()
        if self._variant in ("ex", "peek_ex"):
            _call("SSL_write_ex", self._tls, data, _size(len(data)), ctypes.byref(written))
        else:
            written.value = _call("SSL_write", self._tls, data, len(data))
        assert written.value == len(data)

    def receive(self):
        if self._variant in ("ex", "peek_ex"):
            if self._variant == "peek_ex":
                self._received("SSL_peek_ex")
            return self._received("SSL_read_ex")
        if self._variant == "peek":
            _call("SSL_peek", self._tls, self._buffer, len(self._buffer))
        got = _call("SSL_read", self._tls, self._buffer, len(self._buffer))
        return self._buffer.raw[:got]

    def _received(self, name):
        got = _size()
        _call(name, self._tls, self._buffer, _size(len(self._buffer)), ctypes.byref(got))
        return self._buffer.raw[: got.value]

    def close(self):
        _ssl.SSL_shutdown(self._tls)
        _call("SSL_free", self._tls, result=None)
        self._socket.close()
