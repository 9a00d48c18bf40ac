"""A small binding of the C library for Python: connect, join, leave, send, receive.

    LD_LIBRARY_PATH=/usr/local/lib python3 spread.py 4803 chat hello

joins the group `chat`, sends `hello` to it, and prints what it receives up to its own message.
"""

import ctypes
import sys

NAME = 32  # bytes of a name, the final zero included
FIFO, AGREED, SAFE = 0x4, 0x10, 0x20
REGULAR = 0x3F  # any of the services
MEMBERSHIP = 0x3F00

_lib = ctypes.CDLL("libspread-core.so.3")
_lib.SP_strerror.restype = ctypes.c_char_p
_lib.SP_multicast.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int16, ctypes.c_int,
                              ctypes.c_char_p]


class SpreadError(Exception):
    """A call failed; `code` is what it returned."""

    def __init__(self, code):
        super().__init__(f"{_lib.SP_strerror(code).decode()} ({code})")
        self.code = code


def _check(code):
    if code < 0:
        raise SpreadError(code)
    return code


class Message:
    """One message. `service` tells data (`is_data`) from membership messages, whose `groups` are the members."""

    def __init__(self, service, sender, groups, message_type, body):
        self.service = service
        self.sender = sender
        self.groups = groups
        self.message_type = message_type
        self.body = body

    @property
    def is_data(self):
        return bool(self.service & REGULAR)


class Connection:
    """A session. Use it in a `with` block, or call `close`."""

    def __init__(self, daemon="4803", name=None, membership=True):
        mailbox, group = ctypes.c_int(-1), ctypes.create_string_buffer(NAME)
        code = _lib.SP_connect(daemon.encode(), name and name.encode(), 0, int(membership),
                               ctypes.byref(mailbox), group)
        if code != 1:
            raise SpreadError(code)
        self.mailbox = mailbox.value  # also a file descriptor for `select`
        self.private_group = group.value.decode()
        self._cells = 100
        self._body = ctypes.create_string_buffer(16 * 1024)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fileno(self):
        return self.mailbox

    def close(self):
        if self.mailbox >= 0:
            _lib.SP_disconnect(self.mailbox)
            self.mailbox = -1

    def join(self, group):
        _check(_lib.SP_join(self.mailbox, group.encode()))

    def leave(self, group):
        _check(_lib.SP_leave(self.mailbox, group.encode()))

    def send(self, group, body, service=AGREED, message_type=0):
        _check(_lib.SP_multicast(self.mailbox, service, group.encode(), message_type, len(body), body))

    def receive(self):
        """Waits for the next message. What does not fit stays there, and is asked for again with more room."""
        while True:
            service, count = ctypes.c_int(0), ctypes.c_int(0)
            message_type, mismatch = ctypes.c_int16(0), ctypes.c_int(0)
            sender = ctypes.create_string_buffer(NAME)
            groups = ctypes.create_string_buffer(NAME * self._cells)
            length = _lib.SP_receive(self.mailbox, ctypes.byref(service), sender, self._cells, ctypes.byref(count),
                                     groups, ctypes.byref(message_type), ctypes.byref(mismatch), len(self._body),
                                     self._body)
            if length in (-15, -16):  # BUFFER_TOO_SHORT, GROUPS_TOO_SHORT: the sizes are told as negative numbers
                self._cells = max(self._cells, -count.value)
                if -mismatch.value > len(self._body):
                    self._body = ctypes.create_string_buffer(-mismatch.value)
                continue
            _check(length)
            names = [groups.raw[i * NAME:(i + 1) * NAME].split(b"\0", 1)[0].decode() for i in range(count.value)]
            return Message(service.value, sender.value.decode(), names, message_type.value,
                           self._body.raw[:length])


def main(daemon, group, text):
    with Connection(daemon) as connection:
        connection.join(group)
        connection.send(group, text.encode())
        while True:
            message = connection.receive()
            if message.is_data:
                print(f"{message.sender}: {message.body.decode(errors='replace')}", flush=True)
                if message.sender == connection.private_group:
                    return
            else:
                print(f"group {message.sender} has {len(message.groups)} members", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
