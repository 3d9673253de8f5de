"""Http(s) addresses of the public network alone: a list of them may come from anybody.

An address of this machine or of its network is refused, and so is a public one that redirects there. What counts is
where the connection has led to, before anything is asked: a name may stand for any address.
"""

import ipaddress
from http.client import HTTPConnection, HTTPSConnection
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


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def open_public(url: str, timeout: float):
    """As `urllib.request.urlopen`, on the public network alone; a proxy that is set decides by its own rules."""
    opener = OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    return opener.open(url, timeout=timeout)


def is_public(host: str, port: int) -> bool:
    address = ipaddress.ip_address(host)
    return (getattr(address, "ipv4_mapped", None) or address).is_global


class _PublicConnection:
    """In front of a connection of `http.client`."""

    def connect(self):
        super().connect()
        host, port = self.sock.getpeername()[:2]
        if not is_public(host, port):
            self.close()
            raise ValueError(f"{host} is in the network of this machine, and only public addresses are asked")


class _PublicHTTPConnection(_PublicConnection, HTTPConnection):
    pass


class _PublicHTTPSConnection(_PublicConnection, HTTPSConnection):
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


# Those of `urllib.request.build_opener`, without files and FTP.
HANDLERS = (
    ProxyHandler,
    _PublicHTTPHandler,
    _PublicHTTPSHandler,
    _RedirectHandler,
    HTTPErrorProcessor,
    HTTPDefaultErrorHandler,
    UnknownHandler,
)
