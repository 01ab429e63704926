"""
While a credential is on its way, no log record has it.
"""

from __future__ import annotations

import pytest

from company_agents.errors import Unavailable
from company_agents.logs import Redactor
from company_agents.outgoing.client import Outgoing, OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.sensitive import Sensitive

TOKEN = "xoxb-a-token-on-its-way"


async def test_a_record_that_is_made_during_a_call_is_cleaned_of_its_credential_and_afterwards_it_is_forgotten() -> (
    None
):
    redactor = Redactor()
    during = []

    async def resolve(host: str, port: int) -> list[str]:
        during.append(redactor.clean(f"looking up {host} for {TOKEN}"))
        raise OSError("no such name")

    outgoing = Outgoing(resolve=resolve, watched=redactor.holding)
    await outgoing.start()
    try:
        destination = Destination.at("https://slack.example", Placement.header())
        with pytest.raises(Unavailable):
            await outgoing.call(OutgoingRequest("GET", "/"), destination, Sensitive(TOKEN))
    finally:
        await outgoing.close()
    assert during
    assert all(TOKEN not in said and "looking up slack.example" in said for said in during)
    assert TOKEN in redactor.clean(TOKEN)
