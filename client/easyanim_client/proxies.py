"""Which HTTP proxy gRPC goes through, by the variables that it reads itself."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""In gRPC's order; it reads them in lower case alone, the first that is not empty, and knows http:// alone."""

EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
"""Lists of what is reached without the proxy; the first that is not empty counts."""

_LOCAL = ("unix:", "unix-abstract:", "vsock:")


def proxy_of(address: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str] | None:
    """The variable that names the proxy between here and a server, and the proxy without its password.

    Args:
        address: Of the server, as `Client` takes it.
        environment: Where variables are looked up.

    Returns:
        None where the server is reached without a proxy.
    """
    variable = next((name for name in VARIABLES if environment.get(name)), None)
    host = _host(address)
    if variable is None or not environment[variable].startswith("http://") or address.startswith(_LOCAL) or not host:
        return None
    exceptions = next((environment[name] for name in EXCEPTIONS if environment.get(name)), "")
    if any(_excepts(item.strip(), host) for item in exceptions.split(",")):
        return None
    return variable, re.sub(r"//[^/@]*@", "//", environment[variable])


def _host(address: str) -> str:
    target = re.sub(r"^(dns|ipv4|ipv6):(//[^/]*/)?", "", address)
    bracketed = re.match(r"\[([^\]]*)\]", target)
    return bracketed[1] if bracketed else target.rpartition(":")[0]


def _excepts(item: str, host: str) -> bool:
    """Whether an item of such a list means a host: by its end, or as a network that it is in."""
    if not item:
        return False
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(item, strict=False)
    except ValueError:
        domain = item.lower().lstrip(".")
        return host.lower() == domain or host.lower().endswith(f".{domain}")
