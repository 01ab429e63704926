"""
Which tables a backup leaves out, and why. Every other table is in it.
"""

from __future__ import annotations

LEFT_OUT: dict[str, str] = {
    "schema_migrations": "the manifest names the step, and a restore makes the table anew",
    "key_fence": "it orders those who change the master key now",
    "replicas": "orchestrators that run now",
    "sessions": "who is signed in now",
    "sign_in_links": "good once, for minutes",
    "sign_in_failures": "who is slowed down now",
    "oauth_flows": "consents that are being asked for now",
    "run_pins": "held by runs that are under way now",
    "call_counts": "calls of the present minute",
    "audit_sinks": "how those who read the chains are now",
}
