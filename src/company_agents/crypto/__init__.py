"""
Sealing and opening, bound to a place. Pure: no files, no database, no clock.
"""
