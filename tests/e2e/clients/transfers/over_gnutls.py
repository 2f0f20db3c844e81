"""transfer.py's connection over GnuTLS, called as a C program calls it. Variants: how the bytes go out or come in.

send, send2, range    gnutls_record_send, _send2, _send_range
cork                  everything between gnutls_record_cork and gnutls_record_uncork
sendfile              gnutls_record_send_file for what is in a file
recv, seq, packet     gnutls_record_recv, _recv_seq, _recv_packet
"""

import ctypes
import os
import socket

_library = ctypes.CDLL("libgnutls.so.30")
_pointer, _size = ctypes.c_void_p, ctypes.c_size_t

CLIENT, NAME_DNS, CREDENTIALS_CERTIFICATE = 2, 1, 1
X509_PEM = 1
AGAIN, INTERRUPTED = -28, -52
WAIT = 1  # GNUTLS_RECORD_WAIT
HANDSHAKE_TIMEOUT_DEFAULT = ctypes.c_uint(-1)


class _Range(ctypes.Structure):
    _fields_ = [("low", _size), ("high", _size)]


def _call(name, *arguments, result=ctypes.c_int):
    function = getattr(_library, name)
    function.restype = result
    value = function(*arguments)
    if result is not None and value < 0:
        _library.gnutls_strerror.restype = ctypes.c_char_p
        raise OSError(f"{name}: {_library.gnutls_strerror(int(value)).decode()}")
    return value


def _moved(name, *arguments):
    """As _call for what moves bytes: a ssize_t, tried again when the library asks for it."""
    function = getattr(_library, name)
    function.restype = ctypes.c_ssize_t
    while (moved := function(*arguments)) in (AGAIN, INTERRUPTED):
        pass
    if moved < 0:
        raise OSError(f"{name}: {moved}")
    return moved


class Connection:
    def __init__(self, ca, host, port, variant):
        self._variant = variant
        self._socket = socket.create_connection((host, port))
        credentials, self._session = _pointer(), _pointer()
        _call("gnutls_certificate_allocate_credentials", ctypes.byref(credentials))
        _call("gnutls_certificate_set_x509_trust_file", credentials, str(ca).encode(), X509_PEM)
        _call("gnutls_init", ctypes.byref(self._session), CLIENT)
        name = host.encode()
        _call("gnutls_server_name_set", self._session, NAME_DNS, name, _size(len(name)))
        _call("gnutls_set_default_priority", self._session)
        _call("gnutls_credentials_set", self._session, CREDENTIALS_CERTIFICATE, credentials)
        _call("gnutls_session_set_verify_cert", self._session, name, 0, result=None)
        _call("gnutls_transport_set_int2", self._session, self._socket.fileno(), self._socket.fileno(), result=None)
        _call("gnutls_handshake", self._session)
        self._buffer = ctypes.create_string_buffer(100_000)

    def send(self, data):
        if self._variant == "cork":
            _call("gnutls_record_cork", self._session, result=None)
        address, left = ctypes.cast(ctypes.c_char_p(data), _pointer).value, len(data)
        while left:
            moved = self._send_some(_pointer(address), left)
            address, left = address + moved, left - moved
        if self._variant == "cork":
            _moved("gnutls_record_uncork", self._session, WAIT)

    def _send_some(self, data, size):
        if self._variant == "send2":
            return _moved("gnutls_record_send2", self._session, data, _size(size), _size(0), 0)
        if self._variant == "range":
            sizes = _Range(size, size)
            return _moved("gnutls_record_send_range", self._session, data, _size(size), ctypes.byref(sizes))
        return _moved("gnutls_record_send", self._session, data, _size(size))

    def send_file(self, file):
        if self._variant != "sendfile":
            self.send(file.read_bytes())
            return
        with open(file, "rb") as opened:
            left = os.fstat(opened.fileno()).st_size
            while left:
                left -= _moved("gnutls_record_send_file", self._session, opened.fileno(), None, _size(left))

    def receive(self):
        if self._variant == "packet":
            return self._receive_packet()
        room = _size(len(self._buffer))
        if self._variant == "seq":
            sequence = ctypes.create_string_buffer(8)
            got = _moved("gnutls_record_recv_seq", self._session, self._buffer, room, sequence)
        else:
            got = _moved("gnutls_record_recv", self._session, self._buffer, room)
        return self._buffer.raw[:got]

    def _receive_packet(self):
        class Datum(ctypes.Structure):
            _fields_ = [("data", _pointer), ("size", ctypes.c_uint)]

        packet, data = _pointer(), Datum()
        if _moved("gnutls_record_recv_packet", self._session, ctypes.byref(packet)) == 0:
            return b""
        _call("gnutls_packet_get", packet, ctypes.byref(data), None, result=None)
        content = ctypes.string_at(data.data, data.size)
        _call("gnutls_packet_deinit", packet, result=None)
        return content

    def close(self):
        _moved("gnutls_bye", self._session, 1)
        _call("gnutls_deinit", self._session, result=None)
        self._socket.close()
