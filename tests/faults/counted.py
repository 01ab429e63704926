"""
A command as a process whose effects are counted, and which dies at one of them:

    python -m tests.faults.counted NUMBER before|after NAMES FOLDER -- key rotate

NUMBER 0 only counts. The names of the effects go into the file NAMES; FOLDER is the one of a key source in files.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.effects import Counter


def main(words: list[str]) -> None:
    number, moment, names, folder, _, *command = words
    Counter(Path(names), Path(folder), int(number), moment).start()
    sys.argv[1:] = command
    from company_agents.__main__ import main as command_main

    command_main()


if __name__ == "__main__":
    main(sys.argv[1:])
