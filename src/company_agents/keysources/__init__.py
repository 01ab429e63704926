"""
Where the master key lives. One file per kind; `base.py` has the protocol and the table.
"""
