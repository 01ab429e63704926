"""
The key source `aws-secretsmanager`, against moto's server: labels, claims, what AWS refuses, and what it cannot give.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import KeySource, open_source
from company_agents.keysources.failures import SourceChanged, SourceReadOnly
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_text
from company_agents.logs import Redactor, start_logging
from company_agents.sensitive import Sensitive
from tests.keysources.servers import moto as aws
from tests.keysources.servers.moto import Moto

KEY = MasterKey(Sensitive(b"k" * 32))
NEXT = MasterKey(Sensitive(b"n" * 32))
NOTHING = Found((), None)


@pytest.fixture(scope="module")
async def moto(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Moto]:
    async with aws.place(tmp_path_factory.mktemp("moto")) as place:
        yield place


@pytest.fixture
def name() -> str:
    return f"keys/{uuid4().hex}"


@pytest.fixture
def source(moto: Moto, name: str) -> KeySource:
    return open_source(moto.at(name))


async def refusal(work: Awaitable[object]) -> CompanyAgentsError:
    """What was raised; none of its words is a secret, down to the last cause."""
    with pytest.raises(CompanyAgentsError) as caught:
        await work
    text = "".join(traceback.format_exception(caught.value))
    for secret in (aws.SECRET_KEY, aws.SESSION_TOKEN, key_text(KEY).reveal_text(), key_text(NEXT).reveal_text()):
        assert secret not in text
    assert caught.value.hint
    return caught.value


async def test_each_key_has_a_version_and_a_label_of_its_own_from_birth(
    moto: Moto, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    await source.add(NEXT, NOTHING)
    puts = [given for operation, given in moto.calls if operation == "PutSecretValue" and given["SecretId"] == name]
    assert {tuple(put["VersionStages"]) for put in puts} == {(f"ca-{KEY.key_id}",), (f"ca-{NEXT.key_id}",)}
    assert sorted(len(labels - {"AWSCURRENT"}) for labels in moto.labels(name).values()) == [1, 1]
    found = await source.read()
    assert {key.key_id for key in found.keys} == {KEY.key_id, NEXT.key_id}
    assert found.kept == {KEY.key_id, NEXT.key_id}


async def test_only_the_hint_moves_and_an_added_key_does_not_take_it(moto: Moto, name: str, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    await source.make_current(KEY.key_id, NOTHING)
    await source.add(NEXT, NOTHING)
    assert (await source.read()).current == KEY
    await source.make_current(NEXT.key_id, NOTHING)
    await source.make_current(NEXT.key_id, NOTHING)
    found = await source.read()
    assert found.current == NEXT
    assert found.kept == {KEY.key_id, NEXT.key_id}
    # People see it where they look for it.
    assert (
        moto.hand.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")["SecretString"]
        == key_text(NEXT).reveal_text()
    )


@pytest.mark.parametrize("content", [{"SecretString": KEY.secret.reveal().hex()}, {"SecretBinary": b"k" * 32}])
async def test_a_key_put_by_hand_is_bare_until_it_is_added(
    moto: Moto, name: str, source: KeySource, content: dict[str, Any]
) -> None:
    moto.put(name, **content)
    found = await source.read()
    assert (found.keys, found.current, found.kept) == ((KEY,), KEY, frozenset())
    await source.add(KEY, found)
    await source.add(NEXT, found)
    await source.make_current(NEXT.key_id, found)
    await source.make_current(KEY.key_id, found)
    await source.make_current(NEXT.key_id, found)
    # By now AWS has taken AWSPREVIOUS from the version that was put by hand, and may delete it.
    assert sum(not labels for labels in moto.labels(name).values()) == 1
    assert (await source.read()).kept == {KEY.key_id, NEXT.key_id}


async def test_a_kept_key_that_lost_its_label_to_a_put_is_still_read_and_gets_it_back(
    moto: Moto, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    # Moto's own put takes every label of the version that was current.
    moto.hand.put_secret_value(SecretId=name, SecretString=key_text(NEXT).reveal_text())
    assert moto.version_of(name, f"ca-{KEY.key_id}") is None
    found = await source.read()
    assert {key.key_id for key in found.keys} == {KEY.key_id, NEXT.key_id}
    assert found.kept == frozenset()
    await source.add(KEY, found)
    assert (await source.read()).kept == {KEY.key_id}


async def test_a_destroyed_key_is_read_no_more_though_aws_has_it_for_a_while(
    moto: Moto, name: str, source: KeySource
) -> None:
    settings = await moto.put_by_hand(moto.at(name), KEY)
    for key in (KEY, NEXT):
        await source.add(key, NOTHING)
    await source.make_current(NEXT.key_id, NOTHING)
    # What was put by hand is AWSPREVIOUS now.
    await source.destroy(KEY.key_id, NOTHING)
    await source.destroy(KEY.key_id, NOTHING)
    found = await source.read()
    assert (found.keys, found.current) == ((NEXT,), NEXT)
    # Neither its own version nor the one that was put by hand has a label.
    assert [labels for labels in moto.labels(name).values() if labels] == [{f"ca-{NEXT.key_id}", "AWSCURRENT"}]
    assert await moto.holds(settings, KEY)
    assert "in its own time" in source.after_destroy


async def test_the_current_key_is_not_destroyed(moto: Moto, name: str, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    await source.make_current(KEY.key_id, NOTHING)
    before = moto.labels(name)
    assert (await refusal(source.destroy(KEY.key_id, NOTHING))).reason == "key_current"
    assert moto.labels(name) == before


async def test_a_write_that_is_late_does_not_bring_a_destroyed_key_back(
    moto: Moto, name: str, source: KeySource
) -> None:
    await source.add(NEXT, NOTHING)
    await source.add(KEY, NOTHING)
    late = next(given for operation, given in reversed(moto.calls) if operation == "PutSecretValue")
    await source.destroy(KEY.key_id, NOTHING)
    moto.hand.put_secret_value(**late)
    assert (await source.read()).keys == (NEXT,)


async def test_of_two_instances_one_claims(moto: Moto, name: str, source: KeySource) -> None:
    ours, theirs = uuid4(), uuid4()
    await source.claim(theirs, NOTHING)
    with pytest.raises(SourceChanged):
        await source.claim(ours, NOTHING)
    assert (await source.read()).owner == theirs
    assert type(source).claims_alone is True


async def test_of_two_that_take_over_from_the_same_one_wins(moto: Moto, source: KeySource) -> None:
    former, ours, theirs = uuid4(), uuid4(), uuid4()
    await source.claim(former, NOTHING)
    seen = await source.read()
    await source.claim(ours, seen)
    with pytest.raises(SourceChanged):
        await source.claim(theirs, seen)
    with pytest.raises(SourceChanged):
        await source.claim(former, seen)
    await source.claim(former, await source.read())
    assert (await source.read()).owner == former
    await source.claim(ours, await source.read())
    assert (await source.read()).owner == ours


async def test_a_claim_is_no_key_even_where_it_is_the_first_version(source: KeySource) -> None:
    instance = uuid4()
    await source.claim(instance, NOTHING)
    found = await source.read()
    assert (found.keys, found.current, found.owner) == ((), None, instance)


@pytest.mark.parametrize("operation", ["CreateSecret", "PutSecretValue", "UpdateSecretVersionStage"])
async def test_a_lost_reply_changes_nothing(moto: Moto, name: str, source: KeySource, operation: str) -> None:
    moto.lose.add(operation)
    await source.claim(uuid4(), NOTHING)
    moto.lose.add(operation)
    await source.add(KEY, NOTHING)
    moto.lose.add(operation)
    await source.make_current(KEY.key_id, await source.read())
    moto.lose.clear()
    assert (await source.read()).current == KEY
    assert len(moto.labels(name)) == 2


async def test_a_version_with_the_id_of_a_key_and_another_content_is_refused(
    moto: Moto, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    version = moto.version_of(name, f"ca-{KEY.key_id}")
    other = f"keys/{uuid4().hex}"
    moto.hand.create_secret(Name=other, ClientRequestToken=version, SecretString="something else")
    assert (await refusal(open_source(moto.at(other)).add(KEY, NOTHING))).reason == "key_wrong"


async def test_a_label_on_another_key_is_refused(moto: Moto, name: str, source: KeySource) -> None:
    version = moto.put(name, SecretString=key_text(NEXT).reveal_text())
    moto.move(name, f"ca-{KEY.key_id}", to=version)
    assert (await refusal(source.read())).reason == "key_wrong"
    assert (await refusal(source.add(KEY, NOTHING))).reason == "key_wrong"


async def test_the_check_writes_nothing(moto: Moto, name: str, source: KeySource) -> None:
    await source.check_writable(NOTHING)
    assert name not in moto.names()
    for step in (
        lambda: moto.put_by_hand(moto.at(name), KEY),
        lambda: source.add(KEY, NOTHING),
        lambda: source.claim(uuid4(), NOTHING),
    ):
        await step()
        before = moto.labels(name)
        await source.check_writable(await source.read())
        assert moto.labels(name) == before


async def test_a_source_that_may_only_be_read_says_so(moto: Moto, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    with moto.ruled(aws.read_only):
        seen = await source.read()
        assert seen.keys == (KEY,)
        for write in (source.check_writable(seen), source.add(NEXT, seen), source.claim(uuid4(), seen)):
            assert isinstance(await refusal(write), SourceReadOnly)


async def test_labels_that_may_not_be_moved_are_noticed_by_the_check(moto: Moto, source: KeySource) -> None:
    def rule(operation: str, given: dict[str, Any]) -> bytes | None:
        return aws.failure("AccessDeniedException") if operation == "UpdateSecretVersionStage" else None

    await source.add(KEY, NOTHING)
    with moto.ruled(rule):
        assert isinstance(await refusal(source.check_writable(NOTHING)), SourceReadOnly)


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("AccessDeniedException", 400, "key_source_forbidden"),
        ("ExpiredTokenException", 400, "key_source_forbidden"),
        ("DecryptionFailure", 400, "key_source_forbidden"),
        ("ThrottlingException", 400, "key_source_throttled"),
        ("InternalServiceError", 500, "key_source_error"),
        ("InvalidRequestException", 400, "key_source_refused_call"),
    ],
)
async def test_what_aws_refuses_is_said_in_our_words(
    moto: Moto, source: KeySource, code: str, status: int, reason: str
) -> None:
    with moto.ruled(lambda operation, given: aws.failure(code, status)):
        assert (await refusal(source.read())).reason == reason


async def test_a_moment_of_throttling_is_waited_for(moto: Moto, source: KeySource) -> None:
    left = [1, 1]
    with moto.ruled(lambda operation, given: aws.failure("ThrottlingException") if left and left.pop() else None):
        assert await source.read() == NOTHING
    assert not left


async def test_wrong_and_missing_credentials_are_told_apart(moto: Moto, name: str) -> None:
    wrong = open_source(moto.at(name, aws_access_key_id="AKIAMADEUPFORTESTS99"))
    assert (await refusal(wrong.read())).reason == "key_source_forbidden"
    none = open_source(moto.at(name, aws_access_key_id=None, aws_secret_access_key=None, aws_session_token=None))
    assert (await refusal(none.read())).reason == "key_source_credentials"
    half = open_source(moto.at(name, aws_secret_access_key=None, aws_session_token=None))
    assert (await refusal(half.read())).reason == "key_source_credentials"


async def test_a_secret_that_is_to_be_deleted_is_refused(moto: Moto, name: str, source: KeySource) -> None:
    await source.add(KEY, NOTHING)
    moto.hand.delete_secret(SecretId=name)
    assert (await refusal(source.read())).reason == "key_source_deleted"
    assert (await refusal(source.add(NEXT, NOTHING))).reason == "key_source_deleted"


async def test_the_region_is_the_arns_else_awss_own(moto: Moto, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await open_source(moto.at(name)).add(KEY, NOTHING)
    arn = moto.hand.describe_secret(SecretId=name)["ARN"]
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert (await open_source(moto.at(arn)).read()).keys == (KEY,)
    with pytest.raises(CompanyAgentsError) as caught:
        open_source(moto.at(name))
    assert caught.value.reason == "key_source_region"
    monkeypatch.setenv("AWS_REGION", aws.REGION)
    assert (await open_source(moto.at(name)).read()).keys == (KEY,)
    gone = open_source(moto.at(arn.replace(name, "keys/none")))
    assert await gone.read() == NOTHING
    assert (await refusal(gone.add(KEY, NOTHING))).reason == "key_source_not_found"


@pytest.mark.parametrize("address", ["a name", "arn:aws:s3:::bucket", "naïve", "keys/?a=b"])
def test_a_malformed_address_is_refused_and_not_repeated(moto: Moto, address: str) -> None:
    with pytest.raises(CompanyAgentsError) as caught:
        open_source(moto.at(address))
    assert caught.value.reason == "key_address"
    assert address not in caught.value.sentence


async def test_a_secret_full_of_labels_is_refused_before_anything_is_written(
    moto: Moto, name: str, source: KeySource
) -> None:
    await source.add(KEY, NOTHING)
    version = moto.version_of(name, "AWSCURRENT")
    for number in range(16):
        moto.move(name, f"other-{number}", to=version)
    assert (await refusal(source.check_writable(NOTHING))).reason == "key_source_full"
    with moto.ruled(
        lambda operation, given: aws.failure("LimitExceededException") if operation == "PutSecretValue" else None
    ):
        assert (await refusal(source.add(NEXT, NOTHING))).reason == "key_source_full"


async def test_no_key_is_logged_even_at_debug(moto: Moto, name: str, tmp_path: Path, source: KeySource) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        start_logging(Redactor(), folder=tmp_path, level="debug")
        await source.add(KEY, NOTHING)
        await source.read()
        await open_source(moto.at(name)).read()
        logging.getLogger("company_agents").debug("and this is there")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    log = (tmp_path / "orchestrator.log").read_text()
    assert "and this is there" in log
    for secret in (key_text(KEY).reveal_text(), aws.SECRET_KEY, aws.SESSION_TOKEN, aws.ACCESS_KEY):
        assert secret not in log


def test_an_empty_variable_for_authorities_does_not_turn_the_check_of_certificates_off(
    moto: Moto, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "")
    assert vars(open_source(moto.at(name)))["_options"]["verify"] is True
    ours = Path("/authorities.pem")
    assert vars(open_source(moto.at(name, key_ca_file=ours)))["_options"]["verify"] == str(ours)


def test_the_ids_of_versions_never_change() -> None:
    from company_agents.keysources.aws import _version_of

    assert _version_of("0123456789abcdef") == "f014e859-237a-520d-bd86-548aac1fe716"
    assert UUID(_version_of(KEY.key_id)).version == 5
