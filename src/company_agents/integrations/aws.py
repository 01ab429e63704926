"""
Credentials of AWS: whose one is, and what a reply says of one. They sign requests, and are not sent
(`outgoing/signing.py`).
"""

from __future__ import annotations

import re
from dataclasses import replace

from company_agents.outgoing.client import Outgoing, OutgoingReply, OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.sensitive import Sensitive

# Who asks for this is always told, whatever else they may do: it is how a credential is tried.
_WHO = b"Action=GetCallerIdentity&Version=2011-06-15"
_DOMAIN = re.compile(r"(?:^|\.)(amazonaws\.com(?:\.cn)?)$")
_CODE = re.compile(rb'<Code>([A-Za-z]{1,100})</Code>|"Code"\s*:\s*"([A-Za-z]{1,100})"')
_ARN = re.compile(rb'<Arn>([!-;=-~]{1,300})</Arn>|"Arn"\s*:\s*"([!#-~]{1,300})"')
_TITLE_OF_ERROR = "x-amzn-errortype"


async def identified(
    outgoing: Outgoing, destination: Destination, credential: Sensitive
) -> tuple[OutgoingReply, str | None]:
    """
    Ask whose a credential is: the reply, and the name (an ARN) where it says one.

    At AWS its security token service is asked, in the same region. What speaks S3 elsewhere is asked for its buckets; there, to be
    refused them is an answer too.

    Raises: like `Outgoing.call`.
    """
    domain = _DOMAIN.search(destination.host)
    region = destination.placement.template
    if domain is None and destination.placement.name == "s3":
        return await outgoing.call(OutgoingRequest("GET", "/"), destination, credential), None
    whom = replace(destination, placement=Placement("sigv4", "sts", region), extra_hosts=())
    if domain is not None:
        whom = replace(whom, scheme="https", host=f"sts.{region}.{domain[1]}", port=443, allow_private=False)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    reply = await outgoing.call(OutgoingRequest("POST", "/", headers=headers, body=_WHO), whom, credential)
    return reply, _first(_ARN, reply.body)


def code_of(reply: OutgoingReply) -> str | None:
    """AWS's word for what is wrong, from a header or the body of a reply."""
    if reply.status < 400:
        return None
    named = reply.headers.get(_TITLE_OF_ERROR, "").partition(":")[0].rpartition("#")[2]
    return named[:100] if named.isalpha() else _first(_CODE, reply.body)


def is_known(reply: OutgoingReply) -> bool:
    """Whether a reply is for somebody who is known, and may only not do this."""
    return reply.status == 403 and code_of(reply) in ("AccessDenied", "AccessDeniedException")


def _first(pattern: re.Pattern[bytes], body: bytes) -> str | None:
    found = pattern.search(body)
    return next(part for part in found.groups() if part is not None).decode() if found else None
