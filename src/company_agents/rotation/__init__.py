"""
The states of the master key: what start requires of it.
"""
