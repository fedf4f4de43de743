"""The tables of the store. A change here needs a step in `migrations/versions`; a test compares the two.

Times are Unix seconds. Steps only add: a server of the version before must be able to go on during an upgrade.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table, Text

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

# One row a share (CONTROL-PLANE 4.1). `grant_hash` stands for server, owner, path and target, `path_hash` for server
# and path: both are found by it, and long paths do not fit into an index. `spent` counts the bytes handed out of a
# share that counts its uses, `tries` the archives of it that broke off.
shares = Table(
    "shares",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("server", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("path_hash", LargeBinary(32), nullable=False),
    Column("grant_hash", LargeBinary(32), nullable=False),
    Column("owner", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("gid", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("access", Integer, nullable=False),
    Column("one_time", Boolean, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("access_count", BigInteger, nullable=False),
    Column("last_access", BigInteger, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("max_downloads", Integer, nullable=False),
    Column("downloads", Integer, nullable=False),
    Column("includes", Text, nullable=False),
    Column("excludes", Text, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
    Index("shares_by_path", "path_hash"),
    Index("shares_by_grant", "grant_hash", unique=True),
    Index("shares_by_owner", "owner"),
    Index("shares_by_target", "target"),
    Index("shares_by_end", "expires"),
)

# One row a delivery that is under way from a share that counts its uses; `size` is -1 if it was not known before.
share_claims = Table(
    "share_claims",
    metadata,
    Column("claim_id", String(32), primary_key=True),
    Column("share_id", String(64), nullable=False),
    Column("holder", Text, nullable=False),
    Column("part", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("lease_until", Double, nullable=False),
    Index("share_claims_by_share", "share_id"),
    Index("share_claims_by_end", "lease_until"),
)

# What somebody has of an object that came in parts: half-open intervals of bytes, as JSON.
share_progress = Table(
    "share_progress",
    metadata,
    Column("share_id", String(64), nullable=False),
    Column("holder", Text, nullable=False),
    Column("part", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("intervals", Text, nullable=False),
    Column("changed", Double, nullable=False),
    Index("share_progress_by_share", "share_id"),
)

# Shares that were withdrawn with all that is being delivered of them; read by the other servers.
share_stops = Table(
    "share_stops",
    metadata,
    Column("share_id", String(64), primary_key=True),
    Column("stopped", Double, nullable=False),
    Index("share_stops_by_time", "stopped"),
)

# Managed transfers. People and pairs of ends stand as hashes in indexes, which long names do not fit into. `sources`,
# `target` and `details` (options, accounts) are JSON. `submission` is what the client called the submission, with the
# person, hashed. `drive` belongs to whoever holds the lease. `callback_at` is 0 unless a callback is due.
transfers = Table(
    "transfers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("person", Text, nullable=False),
    Column("person_hash", LargeBinary(32), nullable=False),
    Column("pair_hash", LargeBinary(32), nullable=False),
    Column("submission", LargeBinary(32)),
    Column("digest", LargeBinary(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("wanted", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("sources", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("found", BigInteger, nullable=False),
    Column("rate", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double, nullable=False),
    Column("ended", Double, nullable=False),
    Column("changed", Double, nullable=False),
    Column("next_try", Double, nullable=False),
    Column("node", Text, nullable=False),
    Column("drive", Text, nullable=False),
    Column("lease_holder", String(64), nullable=False),
    Column("lease_until", Double, nullable=False),
    Column("callback", Text, nullable=False),
    Column("callback_tries", Integer, nullable=False),
    Column("callback_at", Double, nullable=False),
    Index("transfers_by_turn", "state", "person_hash", "pair_hash", "next_try"),
    Index("transfers_by_person", "person_hash", "created", "id"),
    Index("transfers_by_time", "created", "id"),
    Index("transfers_by_end", "ended"),
    Index("transfers_by_callback", "callback_at"),
    Index("transfers_by_submission", "submission", unique=True),
)

# When a transfer of somebody was last begun: whose turn it is next follows from that.
transfer_turns = Table(
    "transfer_turns",
    metadata,
    Column("person_hash", LargeBinary(32), primary_key=True),
    Column("last_started", Double, nullable=False),
)

# One row a source of a transfer; `copy` names the copy at the node, as whoever drives it wrote it down.
transfer_sources = Table(
    "transfer_sources",
    metadata,
    Column("transfer_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("copy", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("found", BigInteger, nullable=False),
    Column("rate", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
)

# Files that could not be copied; `number` grows, and is never used again within a transfer.
transfer_errors = Table(
    "transfer_errors",
    metadata,
    Column("transfer_id", String(64), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("source_number", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("error", Text, nullable=False),
)

# What the owner left to log in elsewhere, sealed with a key that is not in the store; gone when the transfer has ended.
transfer_credentials = Table(
    "transfer_credentials",
    metadata,
    Column("transfer_id", String(64), primary_key=True),
    Column("side", String(16), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
