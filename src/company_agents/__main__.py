"""
The command `company-agents`.
"""

from __future__ import annotations

import sys

from company_agents.hardening import harden


def main() -> None:
    """Run the command line; the exit status says how it went."""
    # First of all, before any key or token is in memory.
    harden()
    from company_agents.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
