"""
What a provider's file says, in plain words: for the command line and for pages.
"""

from __future__ import annotations

from company_agents.integrations.provider import OAuth, Provider, Refresh

_FLOWS = {
    "code": "a person consents in the browser (authorization code)",
    "device": "a person enters a code on another machine (device flow)",
    "client": "the client by itself, without a person (client credentials)",
    "github_app": "the app by itself, for one installation of it",
}


def takes_a_token(provider: Provider) -> bool:
    """Whether a person can paste a token that lasts; where a service has none, its file says nothing of one."""
    return provider.oauth is None or bool(provider.token_hint or provider.token_page)


def ways(provider: Provider) -> list[str]:
    """How it can be connected."""
    flows = provider.oauth.flows if provider.oauth else ()
    return [*(["a person pastes a token"] if takes_a_token(provider) else []), *(_FLOWS[flow] for flow in flows)]


def quirks(provider: Provider) -> list[str]:
    """How its consents behave, each in one sentence; none where the file says nothing of it."""
    oauth = provider.oauth
    if oauth is None:
        return []
    return [*_of_tokens(oauth), *(_of_refresh(oauth.refresh) if oauth.refresh else []), *_of_consents(oauth)]


def _of_tokens(oauth: OAuth) -> list[str]:
    if oauth.lifetime:
        return [f"an access token lives for {_time(oauth.lifetime)}"]
    return ["there is no refresh: an access token lasts until it is revoked"] if oauth.refresh is None else []


def _of_refresh(refresh: Refresh) -> list[str]:
    said = [] if refresh.single_use else ["the refresh token stays good; a refresh may bring another one"]
    if refresh.single_use:
        again = f"taken once more for {_time(refresh.reuse_window)}" if refresh.reuse_window else "used up"
        said.append(f"each refresh brings a new refresh token, and the one before is {again}")
    if refresh.kills_access:
        said.append("the access token of before dies with a refresh")
    if refresh.idle_days:
        said.append(f"a consent ends when it was not used for {_time(refresh.idle_days * 86400)}")
    if refresh.absolute_days:
        said.append(f"a consent ends after {_time(refresh.absolute_days * 86400)} in any case")
    return said


def _of_consents(oauth: OAuth) -> list[str]:
    said = []
    if oauth.test_mode_days:
        days = _time(oauth.test_mode_days * 86400)
        said.append(f"a consent to an application that is still being tested ends after {days}")
    if oauth.one_consent:
        said.append("a new consent of the same account ends the one before")
    if oauth.revocation_ends_all:
        said.append("to revoke one consent ends all that the same account gave this client")
    if not (oauth.revocation_url or oauth.issuer) and oauth.flows != ("github_app",):
        said.append("it cannot be revoked from here: revoke it at the service")
    return said


def _time(seconds: int) -> str:
    for unit, length in (("year", 365 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds % length == 0:
            number = seconds // length
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return f"{seconds} seconds"
