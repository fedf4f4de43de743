"""The tables of the store. A change here needs a step in `migrations/versions`; a test compares the two.

Times are Unix seconds. Steps only add: a server of the version before must be able to go on during an upgrade.
"""

from __future__ import annotations

from sqlalchemy import Column, Double, Index, LargeBinary, MetaData, String, Table, Text

MAX_TOKEN_ID = 128

metadata = MetaData()

# One row a security session. `person` is the canonical name; `identity` is what the login found out, as JSON.
security_sessions = Table(
    "security_sessions",
    metadata,
    Column("id_hash", LargeBinary(32), primary_key=True),
    Column("person", Text, nullable=False),
    Column("address", String(64), nullable=False),
    Column("identity", Text, nullable=False),
    Column("token_id", String(MAX_TOKEN_ID)),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Index("security_sessions_by_person", "person", "address"),
    Index("security_sessions_by_token", "token_id"),
    Index("security_sessions_by_end", "expires"),
)

# Tokens that are refused although they have not expired; a row may go when the token itself has ended.
revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("token_id", String(MAX_TOKEN_ID), primary_key=True),
    Column("revoked", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Index("revoked_tokens_by_end", "expires"),
)
