"""
How an agent's run is executed: one file per adapter. `base.py` has what each is given, and what it owes.
"""
