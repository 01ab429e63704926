"""
The door for agents: MCP over streamable HTTP.

    gate.py       the request: path, Origin, token; no answer of the rooms before these are good
    server.py     the protocol, by the official SDK: which tools there are, and a call of one
    tools.py      the table of tools
    arguments.py  what a tool takes
    answers.py    what it gives back, as JSON that every client can read
"""

from company_agents.mcp_server.gate import McpDoor, mcp_door

__all__ = ["McpDoor", "mcp_door"]
