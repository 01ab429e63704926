"""
What goes in and what comes out of the routes of clients and consents.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field, StrictBool, StrictInt

from company_agents.api.fields import Id, Name, Secret
from company_agents.api.schemas import In, IntegrationOut, Out
from company_agents.identity.directory import MOST_NAME
from company_agents.integrations.clients import MOST_ID

MOST_URL = 2000


class NewClient(In):
    """What the company is to a provider. The secret is sealed with the endpoints that it may go to."""

    client_id: str | None = Field(None, max_length=MOST_ID, description="as the provider gave it")
    client_secret: Secret | None = Field(None, description="or a private key (PEM), for private_key_jwt")
    issuer: str = Field("", max_length=MOST_URL, description="an authorization server in place of the provider's own")
    auth: Literal["basic", "post", "none", "private_key_jwt"] | None = Field(
        None, description="how the client shows who it is; default: as the provider's file says"
    )
    key_id: str | None = Field(None, max_length=200)
    allow_private_network: StrictBool = Field(False, description="the issuer may be at a private address")
    register_client: StrictBool = Field(False, description="let the server register one, in place of id and secret")


class ClientOut(Out):
    """What the company is to a provider: everything but the secret."""

    provider: str
    issuer: str = Field(description="empty: the provider's own")
    client_id: str
    auth: str
    redirect_uri: str = Field(description="what the provider has to be told")
    created_at: datetime
    updated_at: datetime


class NewConsent(In):
    """
    A consent that is asked for without a browser that is signed in here: by a code for a person (`device`), or in the
    name of the client itself (`client`) or of an installation of a GitHub App, and then nobody is asked.
    """

    provider: str = Field(max_length=MOST_NAME, description="one of /v1/providers")
    flow: Literal["device", "client", "github_app"] = "device"
    issuer: str = Field("", max_length=MOST_URL, description="that of the client, where it is not the provider's own")
    name: Name | None = Field(None, description="default: the provider's")
    base_url: str | None = Field(None, max_length=MOST_URL, description="replaces scheme, host and port; nothing else")
    allow_private_network: StrictBool = Field(False, description="let the calls go to a private address")
    scopes: list[str] = Field(default=[], max_length=100, description="default: those of the provider")
    allow: list[Id] = Field(default=[], max_length=1000, description="agents that may use it")
    allow_all: StrictBool = Field(False, description="every agent of the company may use it")
    only: list[str] | None = Field(None, max_length=100, description="rules for all agents: nothing else may be called")
    ask: list[str] | None = Field(None, max_length=100, description="rules for all agents: a person approves it first")
    per_minute: StrictInt | None = Field(
        None, ge=0, le=1_000_000, description="calls of an agent in a minute; 0: no limit"
    )
    installation: str | None = Field(None, max_length=20, description="of a GitHub App")
    integration: Id | None = Field(None, description="rotate this one; then only scopes are looked at beside it")


class ConsentOut(Out):
    """A consent that is waited for, until `integration` is there."""

    id: UUID | None = Field(None, description="null where nobody was asked")
    user_code: str | None = Field(None, description="what a person types at `link`")
    link: str | None = None
    interval: float | None = Field(None, description="seconds until it is asked for again")
    ends_at: datetime | None = None
    integration: IntegrationOut | None = Field(None, description="null for as long as nobody has consented")
