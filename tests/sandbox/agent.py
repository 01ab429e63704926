"""
A command-line agent without a model: it reads its task over MCP, calls two services through the gateway, comments on the task,
and is done. Standard library only, as in any sandbox.
"""

import json
import os
import sys
import urllib.request

TOKEN = os.environ["COMPANY_AGENTS_TOKEN"]
GATEWAY = os.environ["COMPANY_AGENTS_GATEWAY_URL"]
MCP = os.environ["COMPANY_AGENTS_MCP_URL"]
REVISION = "2025-06-18"


def post(url, body, **headers):
    given = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        **headers,
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), given)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.read()


class Server:
    """The MCP server, by JSON-RPC over HTTP."""

    def __init__(self):
        self.count = 0
        client = {"name": "agent", "version": "1"}
        self.ask("initialize", {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": client})

    def ask(self, method, params):
        self.count += 1
        body = {"jsonrpc": "2.0", "id": self.count, "method": method, "params": params}
        answer = json.loads(post(MCP, body, **{"MCP-Protocol-Version": REVISION}))
        if "error" in answer:
            raise SystemExit(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def call(self, tool, **arguments):
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise SystemExit(f"{tool}: {result['content'][0]['text']}")
        return json.loads(result["content"][0]["text"])


def main():
    server = Server()
    task = server.call("task_get", id=os.environ["COMPANY_AGENTS_TASK_ID"])
    print(f"my task: {task['title']}", flush=True)
    print(f"my token: {TOKEN}", flush=True)
    words = task["description"]
    chat = json.loads(post(f"{GATEWAY}/chat/api/chat.postMessage", {"channel": "C1", "text": words}))
    desk = json.loads(post(f"{GATEWAY}/desk/tickets", {"subject": words}))
    server.call("task_comment", id=task["id"], text=f"said: {chat['message']['text']}; ticket {desk['number']}")
    server.call("task_update", id=task["id"], status="done")
    print("done", file=sys.stderr)


if __name__ == "__main__":
    main()
