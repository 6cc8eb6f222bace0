"""Ports for servers that are told theirs."""

import contextlib
import random
import socket

BELOW_EPHEMERAL = range(20_000, 32_000)


def free_ports(number):
    """Returns ports that nobody listens on.

    They are random and below those that the system gives to connections and to servers without a port of their own, so
    that whatever else runs meanwhile, other tests included, hardly takes them before the server does.
    """
    chosen = random.SystemRandom()
    found = {}
    with contextlib.ExitStack() as stack:
        while len(found) < number:
            port = chosen.choice(BELOW_EPHEMERAL)
            with contextlib.suppress(OSError):
                found[port] = stack.enter_context(socket.create_server(("127.0.0.1", port)))
    return list(found)


def free_port():
    """Returns one of `free_ports`."""
    return free_ports(1)[0]
