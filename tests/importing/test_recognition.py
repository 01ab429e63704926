"""
Whose token a variable holds: by its name and by its own characters, and never by a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from company_agents.app import App
from company_agents.errors import WrongUsage
from company_agents.integrations.env_file import Variable, read_env_file
from company_agents.integrations.importing import Addresses, Candidate, Importer, Item, Outcome
from company_agents.integrations.provider import Provider, read_provider
from company_agents.sensitive import Sensitive
from tests.importing.providers import ACME, NOTES, OTHER, TOKEN

HEX = "0123456789abcdef" * 2


@dataclass(frozen=True)
class These:
    """Providers of a test."""

    providers: list[Provider]

    def list(self) -> list[Provider]:
        return self.providers


def provider(text: str, **changed: str) -> Provider:
    lines = [line for line in text.strip().splitlines() if line.partition(" = ")[0] not in changed]
    name = changed.get("name", '"acme"').strip('"')
    return read_provider("\n".join([*(f"{key} = {value}" for key, value in changed.items()), *lines]), f"{name}.toml")


ALL = [provider(ACME), provider(NOTES, name='"notes"')]


@pytest.fixture
def importer(app: App) -> Importer:
    return importer_of(app, ALL)


def importer_of(app: App, providers: list[Provider]) -> Importer:
    return Importer(app.integrations, These(providers), app.audit, app.importer.read_vault)  # type: ignore[arg-type]


def found(importer: Importer, text: str, **more: object) -> tuple[list[Candidate], list[Item]]:
    return importer.recognised(read_env_file(text.encode()), **more)  # type: ignore[arg-type]


def problem(importer: Importer, text: str, **more: object) -> Item:
    candidates, [item] = found(importer, text, **more)
    assert candidates == []
    assert TOKEN not in repr(item)
    return item


@pytest.mark.parametrize(
    ("name", "sure"), [("ACME_TOKEN", True), ("ACME_API_KEY", True), ("acme_token", True), ("WHATEVER", False)]
)
def test_a_token_is_recognised_by_its_variable_and_with_doubt_by_its_own_characters(
    importer: Importer, name: str, sure: bool
) -> None:
    [candidate], items = found(importer, f"{name}={TOKEN}\nPATH=/usr/bin")
    assert candidate.sure is sure
    assert (candidate.variable, candidate.provider.name, candidate.name) == (name, "acme", "acme")
    assert candidate.value == Sensitive(TOKEN)
    assert items == []


def test_no_value_shows_in_what_was_recognised(importer: Importer) -> None:
    assert TOKEN not in repr(found(importer, f"A={TOKEN}\nACME_TOKEN={OTHER}"))


def test_what_could_be_anybodys_is_not_taken_for_a_token(importer: Importer) -> None:
    [candidate], items = found(
        importer, f"NOTES_KEY={HEX}\nCHECKSUM={HEX}", addresses=Addresses({"notes": "https://me.notes.example"})
    )
    assert candidate.variable == "NOTES_KEY"
    assert items == []


def test_a_token_of_one_service_is_not_sent_to_another(importer: Importer) -> None:
    item = problem(importer, "ACME_TOKEN=ghp_of_somebody_else")
    assert (item.result, item.problem) == (Outcome.FAILED, "it does not look like a token of Acme")


@pytest.mark.parametrize("pattern", [None, "'[a-z0-9_]{12,40}'"])
@pytest.mark.parametrize("only", [[], ["BEEP_TOKEN"]])
def test_a_token_that_says_itself_whose_it_is_is_not_sent_to_one_whose_could_be_anything(
    app: App, pattern: str | None, only: list[str]
) -> None:
    lines = [line for line in ACME.splitlines() if not line.startswith("token_pattern")]
    changed = {"name": '"beep"', "title": '"Beep"', "variables": '["BEEP_TOKEN"]'}
    beep = provider("\n".join(lines), **changed, **({"token_pattern": pattern} if pattern else {}))
    both = importer_of(app, [beep, provider(ACME)])
    item = problem(both, f"BEEP_TOKEN={TOKEN}", only=only)
    assert (item.result, item.problem) == (Outcome.FAILED, "it looks like a token of Acme")
    [candidate], _ = found(both, "BEEP_TOKEN=beep_beep_beep_beep", only=only)
    assert (candidate.provider.name, candidate.sure) == ("beep", True)


def test_the_files_that_are_shipped_send_no_token_that_says_whose_it_is_to_another(app: App) -> None:
    importer = importer_of(app, app.providers.list())
    for text in (f"DISCORD_TOKEN=xoxb-{HEX}", f"VERCEL_TOKEN=sk-ant-{HEX}"):
        candidates, [item] = found(importer, text)
        assert (candidates, item.result) == ([], Outcome.FAILED)
        assert item.problem.startswith("it looks like a token of ")


def test_a_token_that_may_be_of_two_is_sent_to_neither(app: App) -> None:
    both = importer_of(app, [provider(ACME), provider(ACME, name='"acme-eu"', title='"Acme EU"')])
    for name in ("ACME_TOKEN", "WHATEVER"):
        item = problem(both, f"{name}={TOKEN}")
        assert (item.provider, item.problem) == (None, "it may be a token of Acme or Acme EU")


def test_of_two_that_share_a_variable_the_token_itself_decides(app: App) -> None:
    other = provider(ACME, name='"acme-eu"', title='"Acme EU"', token_pattern='"eu_acme_[a-z]+"')
    [candidate], _ = found(importer_of(app, [other, provider(ACME)]), f"ACME_TOKEN={TOKEN}")
    assert candidate.provider.name == "acme"


@pytest.mark.parametrize(
    ("pattern", "token", "tells"),
    [
        ("xox[bp]-[A-Za-z0-9-]+", "xoxb-1234-abcd", True),
        ("(?:ghp|gho|github_pat)_[A-Za-z0-9_]{20,}", "ghp_" + "a1" * 12, True),
        ("sk-[A-Za-z0-9]{20,}", "sk-" + "a1" * 12, False),
        ("[0-9a-f]{32}", HEX, False),
        ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0b0bb7e2-7e63-4a4b-8b0a-6f2d7f0f9f5e", False),
        ("[A-Z]{3}_[a-z]+", "ABC_abcdef", False),
    ],
)
def test_only_a_beginning_that_nobody_else_has_tells_whose_a_token_is(
    app: App, pattern: str, token: str, tells: bool
) -> None:
    one = importer_of(app, [provider(ACME, token_pattern=f"'{pattern}'")])
    candidates, items = found(one, f"WHATEVER={token}")
    assert ([each.variable for each in candidates], items) == (["WHATEVER"] if tells else [], [])
    [named], _ = found(one, f"ACME_TOKEN={token}")
    assert named.variable == "ACME_TOKEN"


@pytest.mark.parametrize(
    ("text", "result", "said"),
    [
        ("ACME_TOKEN=", Outcome.SKIPPED, "it is empty"),
        ("ACME_TOKEN=${OTHER}", Outcome.FAILED, "it refers to another variable or a command, and nothing is expanded"),
        (
            f"ACME_TOKEN={TOKEN}\nA=1\nACME_TOKEN={OTHER}\nACME_TOKEN={TOKEN}",
            Outcome.FAILED,
            "it is set more than once, in lines 1, 3 and 4, to different values",
        ),
        (f"NOTES_KEY={HEX}", Outcome.FAILED, "Notes has no address of its own"),
        (f"ACME_TOKEN={'acme_' + 'a' * 20000}", Outcome.FAILED, "it does not look like a token of Acme"),
    ],
)
def test_what_cannot_be_tried_says_why(importer: Importer, text: str, result: Outcome, said: str) -> None:
    item = problem(importer, text)
    assert (item.result, item.problem) == (result, said)
    assert item.hint or result is Outcome.SKIPPED


def test_a_variable_that_is_set_twice_to_the_same_is_one(importer: Importer) -> None:
    candidates, items = found(importer, f"ACME_TOKEN={TOKEN}\nexport ACME_TOKEN='{TOKEN}'")
    assert ([each.variable for each in candidates], items) == (["ACME_TOKEN"], [])


def test_the_same_token_under_two_names_is_connected_once(importer: Importer) -> None:
    [candidate], [item] = found(importer, f"ACME_TOKEN={TOKEN}\nACME_API_KEY={TOKEN}")
    assert candidate.variable == "ACME_TOKEN"
    assert (item.variable, item.result) == ("ACME_API_KEY", Outcome.SKIPPED)
    assert item.problem == "it is the same token as ACME_TOKEN"
    [sure], [unsure] = found(importer, f"WHATEVER={TOKEN}\nACME_API_KEY={TOKEN}")
    assert (sure.variable, unsure.variable) == ("ACME_API_KEY", "WHATEVER")


def test_a_second_token_of_a_provider_is_called_like_its_variable(importer: Importer) -> None:
    candidates, _ = found(importer, f"ACME_TOKEN={TOKEN}\nACME_API_KEY={OTHER}")
    assert [each.name for each in candidates] == ["acme", "acme_api_key"]


def test_what_is_called_like_a_secret_is_told_of_and_nothing_else_is(importer: Importer) -> None:
    text = f"STRIPE_SECRET={HEX}\nJWT_KEY=x\nmy_token=x\nEMPTY_TOKEN=\nTOKEN=x\nHOME=/home\nKEY_OF=x"
    candidates, items = found(importer, text)
    assert candidates == []
    assert [(item.variable, item.result) for item in items] == [
        (name, Outcome.NOT_RECOGNISED) for name in ("STRIPE_SECRET", "JWT_KEY", "my_token")
    ]


def test_only_what_was_asked_for_is_looked_at(importer: Importer) -> None:
    text = f"ACME_TOKEN={TOKEN}\nOTHER={OTHER}\nHOME=/home\nX_KEY=1"
    [candidate], items = found(importer, text, only=["OTHER"])
    assert (candidate.variable, candidate.name, items) == ("OTHER", "acme", [])
    _, [item] = found(importer, text, only=["HOME"])
    assert (item.variable, item.result) == ("HOME", Outcome.FAILED)


def test_a_name_that_is_not_there_is_refused_and_not_repeated(importer: Importer) -> None:
    with pytest.raises(WrongUsage) as caught:
        found(importer, f"ACME_TOKEN={TOKEN}", only=["ACME_TOKEN", TOKEN])
    assert TOKEN not in f"{caught.value.sentence} {caught.value.hint}"


def test_a_field_that_is_no_text_is_not_tried(importer: Importer) -> None:
    candidates, [item] = importer.recognised([Variable("acme-token", None), Variable("number", None)])
    assert (candidates, item.variable, item.problem) == ([], "acme-token", "it is no text")
