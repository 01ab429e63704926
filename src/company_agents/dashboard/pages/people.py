"""
People: who there is, who is in a company, and links for those who are to join or cannot get in.
"""

from __future__ import annotations

from starlette.responses import Response

from company_agents.dashboard.forms import Form
from company_agents.dashboard.visit import Page, Visit, go
from company_agents.errors import CompanyAgentsError, WrongUsage
from company_agents.identity.operators import LINK_MINUTES, Operator
from company_agents.identity.permissions import Permission, Role
from company_agents.sensitive import Sensitive

ROLES = {
    Role.VIEWER: "sees integrations, agents and the audit log, and changes nothing",
    Role.OPERATOR: "also connects, rotates and deletes integrations, and hires agents",
    Role.OWNER: "also invites people, and removes them",
}


async def show_people(visit: Visit) -> Response:
    """Everybody on this instance."""
    return visit.page("people.html", people=await visit.app.operators.list(visit.me))


async def show_link(visit: Visit) -> Response:
    """What a link for somebody who cannot get in, or (without an id) for another owner, means."""
    return visit.page("link.html", person=await _person(visit))


async def act_link(visit: Visit) -> Response:
    """Make the link, and show it, this once."""
    person = await _person(visit)
    token = await visit.app.operators.link(visit.me, person.id if person else None)
    return _link_page(visit, token, "/people", for_whom=person.name if person else "another owner of this instance")


async def show_invite(visit: Visit) -> Response:
    """Which role somebody is to have in this company."""
    return visit.page("invite.html", roles=ROLES, form=Form({"role": [Role.OPERATOR]}))


async def act_invite(visit: Visit) -> Response:
    """Make a link for somebody new, and show it, this once."""
    form = await visit.form()
    try:
        with form.at("role"):
            if form.text("role") not in set(Role):
                raise WrongUsage("choose a role")
        token = await visit.app.operators.invite(visit.caller, Role(form.text("role")))
    except CompanyAgentsError as error:
        return visit.again("invite.html", form, error, roles=ROLES)
    return _link_page(visit, token, visit.home, for_whom=f"somebody new, as {form.text('role')}")


async def show_members(visit: Visit) -> Response:
    """Everybody with a role in this company."""
    return visit.page("members.html", members=await visit.app.members.list(visit.caller))


async def show_remove(visit: Visit) -> Response:
    """What removing somebody means."""
    return visit.page("member_remove.html", member=await visit.app.members.get(visit.caller, visit.id("person")))


async def act_remove(visit: Visit) -> Response:
    """Take somebody's role in this company away."""
    member = await visit.app.members.remove(visit.caller, visit.id("person"))
    # Whoever removed themselves has no page here to go back to.
    left = member.id == visit.me.id and not member.instance_owner
    return go("/companies" if left else f"{visit.home}/people", done="removed")


async def _person(visit: Visit) -> Operator | None:
    return await visit.app.operators.get(visit.id("person")) if "person" in visit.request.path_params else None


def _link_page(visit: Visit, token: Sensitive, back: str, *, for_whom: str) -> Response:
    # The one place where a link's token is revealed.
    link = f"{visit.app.settings.url}/join?token={token.reveal_text()}"
    return visit.page("link_once.html", link=link, back=back, for_whom=for_whom, minutes=LINK_MINUTES)


PAGES = [
    Page("/people", show_people, permission=Permission.OPERATOR_MANAGE),
    Page("/people/link", show_link, act_link, permission=Permission.OPERATOR_MANAGE),
    Page("/people/{person:uuid}/link", show_link, act_link, permission=Permission.OPERATOR_MANAGE),
    Page("/companies/{company:uuid}/people", show_members, permission=Permission.MEMBER_MANAGE),
    Page(
        "/companies/{company:uuid}/people/{person:uuid}/remove",
        show_remove,
        act_remove,
        permission=Permission.MEMBER_MANAGE,
    ),
    Page("/companies/{company:uuid}/invite", show_invite, act_invite, permission=Permission.MEMBER_MANAGE),
]
