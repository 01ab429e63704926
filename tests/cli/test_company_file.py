"""
The file that a company is moved in, as somebody names it.
"""

from __future__ import annotations

from tests.cli.processes import Machine

PASSPHRASE = "orbit lantern velvet cactus 93 mosaic"


def test_a_tilde_before_the_file_of_a_company_is_the_home_of_whoever_types_it(machine: Machine) -> None:
    file = machine.home.parent / "acme.company"
    machine.json("company", "create", "Acme")
    done = machine.json("company", "export", "Acme", "~/acme.company", "--passphrase", PASSPHRASE)
    assert done["file"] == str(file) and file.is_file()
    again = machine.run("company", "import", "~/acme.company", "--passphrase", PASSPHRASE)
    assert again.status == 4 and "this company is here already, as Acme" in again.err
