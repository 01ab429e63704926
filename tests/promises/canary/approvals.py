"""
Requests that wait for a person, with something in them that is nobody's but who decides, and a reply that is the agent's.
"""

from __future__ import annotations

import json
from typing import Any

from tests.promises.canary.search import made_up
from tests.promises.canary.story import Story

ASKED, REPLIED = "what a request that waits says", "what the reply to it says"


def approving(story: Story) -> None:
    """Asked by every door, looked at by every door, approved, refused, collected; and one that waits to the end."""
    doors, ann, one = story.doors, story.tokens["ann"], story.integrations["by-cli"]
    api = f"/v1/companies/{story.company}"
    story.canaries.plant(ASKED, made_up(ASKED))
    story.canaries.plant(REPLIED, made_up(REPLIED))
    story.slack.said = made_up(REPLIED).encode()
    doors.json("integration", "rules", "--id", one, "--ask", "POST /api/approved")
    ids = [_asked(story, number) for number in range(4)]
    for way in (made_up(ASKED), "x" * 60_000):
        given = {"path": "/api/approved", "method": "POST", "headers": {"X-Y": "z"}, "body": way}
        assert doors.rest(ann, "POST", f"{api}/integrations/{one}/request", given).status == 403
    page = f"/companies/{story.company}/approvals"
    assert doors.page(story.cookie, page).status == 200
    for approval in ids:
        assert doors.page(story.cookie, f"{page}/{approval}", shown={ASKED}).status == 200
    assert doors.cli("approval", "show", "--id", ids[0], shown={ASKED}).status == 0
    assert doors.rest(story.operator_token, "GET", f"{api}/approvals/{ids[0]}", shown={ASKED}).status == 200
    assert doors.rest(ann, "GET", f"{api}/approvals/{ids[0]}").status == 200
    assert doors.page(story.cookie, f"{page}/{ids[0]}/approve", {"note": "a note"}).status == 303
    assert doors.json("approval", "approve", "--id", ids[1])["state"] == "done"
    assert doors.rest(story.operator_token, "POST", f"{api}/approvals/{ids[2]}/refuse", {}).status == 200
    for approval in ids:
        _told(story, approval)
    collected = doors.rest(ann, "GET", f"{api}/approvals/{ids[1]}", shown={REPLIED})
    assert collected.json["reply"]["status"] == 200
    doors.json("approval", "list", "--company", story.company)
    assert doors.rest(story.operator_token, "GET", f"{api}/approvals").status == 200


def _asked(story: Story, number: int) -> str:
    given: dict[str, Any] = {
        "integration": "by-cli",
        "method": "POST",
        "path": "/api/approved",
        "query": {"q": made_up(ASKED)},
        "headers": {"X-Note": made_up(ASKED)},
        "body": {"text": made_up(ASKED), "number": number},
    }
    said = story.doors.tool(story.tokens["ann"], "integration_request", given, name="a request that has to wait")
    error = json.loads(said.json["result"]["content"][0]["text"])["error"]
    assert error["code"] == "approval_needed"
    approval: str = error["facts"]["approval"]
    return approval


def _told(story: Story, approval: str) -> None:
    params = {"name": "approval_get", "arguments": {"id": approval, "wait_seconds": 1}}
    said = story.doors.rpc(story.tokens["ann"], "tools/call", params, name="tool approval_get", shown={REPLIED})
    assert said.json["result"]["isError"] is False
