"""Open http(s) addresses of the public network alone: a list of them may come from anybody.

An address of this machine or of its network is refused, and so is a public one that redirects there. The address of
the connection counts, and is checked before that is made: a name may stand for any address.
"""

import io
import ipaddress
import socket
import time
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    UnknownHandler,
)


MAX_TIME = 300.0  # seconds for an answer, its head included: `timeout` begins anew with each byte
GATEWAYS = {
    ipaddress.ip_network("::/96"): 0,
    ipaddress.ip_network("::ffff:0:0/96"): 0,
    ipaddress.ip_network("64:ff9b::/96"): 0,
    ipaddress.ip_network("2002::/16"): 80,
}
"""IPv6 networks of IPv4 addresses, and how many bits follow the address.

In 64:ff9b:1::/48 each network decides for itself where the address stands: all of it is reserved, and never public."""


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def open_public(url: str, timeout: float):
    """Open a URL as `urllib.request.urlopen` does, on the public network alone. A proxy decides by its own rules."""
    opener = OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    return opener.open(url, timeout=timeout)


def is_public(host: str, port: int) -> bool:
    """Return `True` for an address of the public network."""
    address = ipaddress.ip_address(host)
    for network, place in GATEWAYS.items():
        if address in network:  # a gateway would connect to the IPv4 address inside
            address = ipaddress.IPv4Address(int(address) >> place & 0xFFFFFFFF)
            break
    is_special = address.is_multicast or address.is_reserved or getattr(address, "is_site_local", False)
    return address.is_global and not is_special


class _InTime(io.RawIOBase):
    """Read from a socket until its time is over."""

    def __init__(self, raw: io.RawIOBase):
        self.raw, self.end = raw, time.monotonic() + MAX_TIME

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        if time.monotonic() > self.end:
            raise TimeoutError(f"not there after {MAX_TIME:.0f} seconds")
        return self.raw.readinto(buffer)

    def close(self):
        self.raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fp = io.BufferedReader(_InTime(self.fp.detach()))


class _PublicHTTPConnection(HTTPConnection):
    """Connection of `http.client` that is only made to public addresses."""

    response_class = _Response

    def connect(self):
        self._create_connection = _connect_to_public
        super().connect()


def _connect_to_public(address: tuple[str, int], *args) -> socket.socket:
    """Connect as `socket.create_connection` does, to an address that has been checked."""
    known = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    # A Python without IPv6 gives IPv6 addresses as bytes, and cannot connect to them.
    found = [(host, port) for *_, (host, port, *_) in known if isinstance(host, str) and isinstance(port, int)]
    # All addresses are checked before any connection is made, so that open ports and closed ones look alike. The
    # connection is made to the address and not to the name, which could stand for another address a moment later.
    for host, port in found:
        if not is_public(host, port):
            raise ValueError(f"{host} is in the network of this machine, and only public addresses are asked")
    for number, one in enumerate(found, start=1):
        try:
            return socket.create_connection(one, *args)
        except OSError:
            if number == len(found):
                raise
    raise OSError(f"{address[0]} has no address")


class _PublicHTTPSConnection(_PublicHTTPConnection, HTTPSConnection):
    pass


class _PublicHTTPHandler(HTTPHandler):
    def http_open(self, request):
        return self.do_open(HTTPConnection if request.has_proxy() else _PublicHTTPConnection, request)


class _PublicHTTPSHandler(HTTPSHandler):
    def https_open(self, request):
        is_proxied = request._tunnel_host is not None
        return self.do_open(HTTPSConnection if is_proxied else _PublicHTTPSConnection, request)


class _RedirectHandler(HTTPRedirectHandler):
    def redirect_request(self, request, response, *details):
        response.close()  # or all of its text would be read, however long it is
        return super().redirect_request(request, response, *details)


# These are the handlers of `urllib.request.build_opener`, without files and FTP.
HANDLERS = (
    ProxyHandler,
    _PublicHTTPHandler,
    _PublicHTTPSHandler,
    _RedirectHandler,
    HTTPErrorProcessor,
    HTTPDefaultErrorHandler,
    UnknownHandler,
)
