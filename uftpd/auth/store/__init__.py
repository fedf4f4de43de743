"""What an auth server keeps beyond a request, and shares with others of its kind: SQLite, or PostgreSQL.

engine         connections, transactions, time limits; every failure becomes one error, answered 503
schema         the tables
migration      brings a store to this version's tables, one server at a time
sessions       rows of security sessions
revocations    tokens that are no longer good
housekeeping   removes what has expired

Work on the store is a plain function of a connection, run in a thread. Secrets are stored as hashes only.
"""
