"""
Runs: one piece of work by one agent each, owned for as long as a lease.
"""
