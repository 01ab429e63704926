"""
What happened, in chains that show every change: append-only, linked by HMAC.
"""
