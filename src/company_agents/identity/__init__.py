"""
Who is calling, in whose name, and whether they may.
"""
