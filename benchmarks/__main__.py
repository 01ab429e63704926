"""
make bench: every figure, each a ratio to a baseline in the same run.
"""

from __future__ import annotations

import uvloop

from benchmarks import doors, secret_use


async def main() -> None:
    """Measure, one after the other, and print a row for each."""
    for part in (secret_use, doors):
        async for ratio in part.run():
            print(ratio.line(), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
