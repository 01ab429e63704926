"""
Postgres: the pools, the scope of a transaction, the schema and how it grows, the embedded server.
"""
