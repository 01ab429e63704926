"""
Where an agent's process runs: in bubblewrap, as another user of the system, or, where an operator says so, as we do.
docs/security/sandbox.md says what holds and what does not.
"""
