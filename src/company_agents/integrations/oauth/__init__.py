"""
OAuth 2 as a client: what is said to an authorization server, and what its answers mean. Nothing here knows the database.
"""
