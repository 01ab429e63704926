"""
Requests signed for AWS: Signature Version 4, in a header.

The secret signs and is not sent. What is signed is the request as it goes out, after the predicate has admitted it: method,
path and query as they are, the host, and those headers that AWS wants signed. The steps are those of
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

from multidict import CIMultiDict
from yarl import URL

from company_agents.errors import WrongUsage
from company_agents.sensitive import Sensitive

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"

# Names of services and regions, as they stand in the scope of a signature.
NAME = re.compile(r"[a-z0-9-]{1,64}")
_PAIR = re.compile(r"(?P<id>[!-9;-~]{3,128}):(?P<secret>[!-9;-~]{8,256})(?::(?P<session>[!-~]{8,8192}))?")
# Signed beside the host and all of x-amz-.
_SIGNED_TOO = frozenset({"content-type", "content-md5"})
# What stands in a name of a host where it says a region: eu-central-1, us-gov-east-1, us-west-004.
_REGION = re.compile(r"(?<![^.])[a-z]{2}(?:-[a-z]+)+-\d{1,3}(?![^.])")
# Below these a host says which service it is, next to the region. Those that sign by another name than their host has.
_AWS = re.compile(r"(?P<labels>.+?)(?:\.vpce)?\.(?:amazonaws\.com|amazonaws\.com\.cn|on\.aws|api\.aws)")
_SIGNED_AS = {
    "bedrock-runtime": "bedrock",
    "bedrock-agent": "bedrock",
    "bedrock-agent-runtime": "bedrock",
    "email": "ses",
    "lambda-url": "lambda",
    "queue": "sqs",
}
# Where a host says none: it is what S3 and the services without regions are signed for.
DEFAULT_REGION = "us-east-1"


def region_of(host: str) -> str:
    """The region that a host's name says, or the one that others are signed for."""
    found = _REGION.search(host)
    return found[0] if found else DEFAULT_REGION


def service_of(host: str) -> str:
    """
    The service that a host of AWS is of, by the name that it is signed for.

    Raises:
        WrongUsage: it is no host of AWS, or does not say.
    """
    found = _AWS.fullmatch(host)
    labels = found["labels"].split(".") if found else []
    # `es` stands behind its region, all others before it.
    named = [label for label in labels if not _REGION.fullmatch(label)]
    if not named or not NAME.fullmatch(named[-1]):
        raise WrongUsage(
            "this host does not say which service of AWS it is",
            hint="give one such as https://sqs.eu-central-1.amazonaws.com; docs/integrations.md has others",
        )
    return _SIGNED_AS.get(named[-1], named[-1])


@dataclass(frozen=True, slots=True)
class Signer:
    """
    Signs requests to one service in one region.

    `secret` is the secret access key, `session` what goes along with a credential that is lent for some hours.
    """

    service: str
    region: str
    key_id: str = field(repr=False)
    secret: Sensitive
    session: Sensitive | None = None

    @classmethod
    def of(cls, service: str, region: str, credential: Sensitive) -> Signer:
        """
        Raises:
            WrongUsage: the credential is not of the form `ACCESS_KEY_ID:SECRET[:SESSION]`.
        """
        # The decoder's own error would carry the bytes.
        found = _PAIR.fullmatch(credential.reveal().decode("ascii", errors="replace"))
        if found is None:
            raise WrongUsage(
                "this service takes an access key: ACCESS_KEY_ID:SECRET_ACCESS_KEY, with the colon between",
                hint="a session token, where there is one, comes behind another colon",
            )
        session = Sensitive(found["session"]) if found["session"] else None
        return cls(service, region, found["id"], Sensitive(found["secret"]), session)

    @property
    def searched(self) -> tuple[Sensitive, ...]:
        """
        What replies are searched for. Not the id of the key, which AWS itself writes into its errors, and with which nobody can
        do anything.
        """
        return (self.secret, self.session) if self.session else (self.secret,)

    def may_stream(self, scheme: str, length: int | None) -> bool:
        """Whether a body need not be there whole before it is signed: S3 takes it unsigned within TLS, and wants its length."""
        return self.service == "s3" and scheme == "https" and length is not None

    def sign(
        self, method: str, url: URL, headers: CIMultiDict[str], body: bytes | None, *, at: datetime | None = None
    ) -> None:
        """
        Add what makes a request a signed one. `body` is None where it is streamed.

        Raises:
            WrongUsage: the body is framed and signed by the caller, in a way that would be stored as it stands.
        """
        if "aws-chunked" in ",".join(headers.getall("Content-Encoding", [])).lower():
            raise WrongUsage("a body in chunks that the caller signs cannot be sent", hint="send it as it is")
        moment = (at or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        digest = UNSIGNED if body is None else hashlib.sha256(body).hexdigest()
        for name in ("Authorization", "X-Amz-Security-Token", "X-Amz-Content-SHA256"):
            headers.popall(name, None)
        headers["Host"] = _host(url)
        headers["X-Amz-Date"] = moment
        if self.session is not None:
            headers["X-Amz-Security-Token"] = self.session.reveal_text()
        if self.service == "s3":
            headers["X-Amz-Content-SHA256"] = digest
        signed = dict(sorted(_signed(headers)))
        request = "\n".join(
            (
                method,
                _path(url, is_s3=self.service == "s3"),
                _query(url),
                *(f"{name}:{value}" for name, value in signed.items()),
                "",
                ";".join(signed),
                digest,
            )
        )
        scope = f"{moment[:8]}/{self.region}/{self.service}/aws4_request"
        text = "\n".join((ALGORITHM, moment, scope, hashlib.sha256(request.encode()).hexdigest()))
        signature = hmac.new(self._key(moment[:8]), text.encode(), hashlib.sha256).hexdigest()
        headers["Authorization"] = (
            f"{ALGORITHM} Credential={self.key_id}/{scope}, SignedHeaders={';'.join(signed)}, Signature={signature}"
        )

    def _key(self, day: str) -> bytes:
        key = b"AWS4" + self.secret.reveal()
        for part in (day, self.region, self.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return key


def _host(url: URL) -> str:
    host = f"[{url.raw_host}]" if ":" in (url.raw_host or "") else url.raw_host
    return f"{host}" if url.is_default_port() else f"{host}:{url.port}"


def _signed(headers: CIMultiDict[str]) -> Iterator[tuple[str, str]]:
    for name in {name.lower() for name in headers}:
        if name == "host" or name in _SIGNED_TOO or name.startswith("x-amz-"):
            yield name, ",".join(" ".join(value.split()) for value in headers.getall(name))


def _path(url: URL, *, is_s3: bool) -> str:
    """The path as the other side reckons it: S3 encodes what it has read, all others once more what was sent."""
    path = url.raw_path or "/"
    if is_s3:
        return quote(unquote_to_bytes(path), safe="/-_.~")
    return quote(re.sub(r"/{2,}", "/", path), safe="/-_.~")


def _query(url: URL) -> str:
    pairs = (part.partition("=") for part in url.raw_query_string.split("&") if part)
    encoded = (tuple(quote(unquote_to_bytes(text), safe="-_.~") for text in (name, value)) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))
