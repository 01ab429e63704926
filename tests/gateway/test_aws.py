"""
AWS's own SDK, which signs what it sends: with our token as the id of its key, it is signed anew on the way.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.gateway.conftest import Connect
from tests.outgoing.test_signing import Account
from tests.outgoing.test_signing import account as account


async def test_awss_client_keeps_objects_at_a_service_that_checks_signatures(
    connect: Connect,
    account: Account,
) -> None:
    at: Any = SimpleNamespace(url=account.url)
    here = await connect(at, "aws-s3", account.pair.reveal_text())

    def client(token: str) -> Any:
        return boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=here.url,
            aws_access_key_id=token,
            aws_secret_access_key="nothing that anybody knows",
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"total_max_attempts": 1},
            ),
        )

    def work() -> tuple[bytes, list[str]]:
        ours = client(here.token)
        ours.create_bucket(Bucket="of-the-gateway")
        ours.put_object(Bucket="of-the-gateway", Key="notes/one.txt", Body=b"to be kept")
        listed = ours.list_objects_v2(Bucket="of-the-gateway", Prefix="notes/")
        body: bytes = ours.get_object(Bucket="of-the-gateway", Key="notes/one.txt")["Body"].read()
        return body, [each["Key"] for each in listed["Contents"]]

    assert await asyncio.to_thread(work) == (b"to be kept", ["notes/one.txt"])
    with pytest.raises(ClientError, match="401"):
        await asyncio.to_thread(client(here.token + "A").list_buckets)
