"""
What went wrong on the way, in one sentence that names the host.

The library's own errors hold the URL, and so the query, which may hold the credential. They end
here: what is raised instead has neither a cause nor a context.
"""

from __future__ import annotations

import os
import ssl

import aiohttp

from company_agents.errors import CompanyAgentsError, Refused, Unavailable
from company_agents.outgoing.guard import ForbiddenAddress


class NotSent(Unavailable):
    """no connection came about, so nothing was sent"""


class AddressRefused(Refused):
    """the name leads to an address that may not be connected to, so nothing was sent"""


FOREIGN = (aiohttp.ClientError, OSError, ValueError, RuntimeError)
"""All that aiohttp, the event loop and the resolver raise for a call; time-outs are OSErrors."""


def explain(error: Exception, host: str) -> CompanyAgentsError:
    """
    The error of the house for a foreign one. To be raised after the `except` block has ended, so that
    Python does not attach the foreign one as its context.
    """
    match error:
        case aiohttp.ClientConnectorError(os_error=ForbiddenAddress()):
            return AddressRefused(
                f"{host} leads to an address that this integration may not connect to",
                hint="private addresses are allowed per integration, with --allow-private-network, and by the setting "
                "COMPANY_AGENTS_PRIVATE_NETWORKS",
            )
        case aiohttp.ClientConnectorCertificateError():
            return NotSent(f"the certificate of {host} is not good: {_reason(error.certificate_error)}")
        case aiohttp.ClientConnectorSSLError():
            return NotSent(f"no secure connection with {host} came about: {_reason(error.os_error)}")
        case aiohttp.ClientConnectorDNSError():
            return NotSent(f"the name {host} could not be resolved", hint="check its spelling and the DNS here")
        case aiohttp.ConnectionTimeoutError():
            return NotSent(f"{host} could not be connected to in time", hint="try again later")
        case TimeoutError():
            return Unavailable(f"{host} did not go on with its answer in time", hint="try again later")
        case aiohttp.ClientConnectorError():
            reason = os.strerror(error.os_error.errno).lower() if error.os_error.errno else "no connection"
            return NotSent(f"{host} could not be connected to: {reason}", hint="is it running, and is the port right?")
        case aiohttp.ClientResponseError():
            return Unavailable(f"what {host} answered is not HTTP")
    return Unavailable(f"the connection with {host} broke off", hint="what was asked may have been done all the same")


def _reason(error: BaseException) -> str:
    # Only the library's fixed words: certificates are written by the other side.
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return "the other side does not speak TLS as expected"
