"""
The door for any HTTP client whose base URL can be set: `/gateway/<integration>/<path>`.

    door        who calls, what for, and the answer
    address     what the address says, byte for byte
    presented   our token, however a client sends it
    callers     who could send it at all
    websocket   WebSockets: a handshake like any request, and messages both ways
    client      the two ends of the client's connection: its body as it comes, and when it has gone
    answers     our own answers, in the shape that SDKs show
    rewriting   the provider's own addresses in its replies become ours
"""

from __future__ import annotations

from company_agents.gateway.answers import refused as refused
from company_agents.gateway.door import gateway_app as gateway_app
