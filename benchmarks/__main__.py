"""
make bench: every figure; what is measured per second is a ratio to a baseline in the same run.
"""

from __future__ import annotations

import uvloop

from benchmarks import backup, doors, gateway, outgoing_call, refresh, rotation, secret_use, start


async def main() -> None:
    """Measure, one after the other, and print a row for each."""
    for part in (start, secret_use, doors, outgoing_call, gateway, refresh, rotation, backup):
        async for figure in part.run():
            print(figure.line(), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
