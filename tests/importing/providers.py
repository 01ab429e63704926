"""
Providers that tests drop into the home, and tokens of theirs.
"""

from __future__ import annotations

TOKEN = "acme_17standinforthetests"
OTHER = "acme_99anotherforthetests"

ACME = """
name = "acme"
title = "Acme"
description = "Everything that a coyote needs."
base_url = "https://acme.example"
token_page = "https://acme.example/tokens"
token_pattern = "acme_[a-z0-9]{12,40}"
variables = ["ACME_TOKEN", "ACME_API_KEY"]
sources = ["https://acme.example/docs"]

[credential]
template = "Bearer {token}"

[probe]
method = "POST"
path = "/api/auth.test"
ok = "ok"
error = ["error"]
"""

NOTES = """
name = "notes"
title = "Notes"
description = "Notes of a company, each on a host of its own."
address_hint = "https://you.notes.example"
token_pattern = "[0-9a-f]{32}"
variables = ["NOTES_KEY"]
sources = ["https://notes.example/docs"]
"""

# Its own file puts it on this machine, which nobody has allowed.
INNER = """
name = "inner"
title = "Inner"
description = "A service of this house."
base_url = "http://127.0.0.1:9"
variables = ["INNER_TOKEN"]
sources = ["https://inner.example/docs"]
"""
