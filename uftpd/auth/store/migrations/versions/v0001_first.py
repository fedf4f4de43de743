"""Security sessions and revoked tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "security_sessions",
        sa.Column("id_hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("token_id", sa.String(128)),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
    )
    op.create_index("security_sessions_by_person", "security_sessions", ["person", "address"])
    op.create_index("security_sessions_by_token", "security_sessions", ["token_id"])
    op.create_index("security_sessions_by_end", "security_sessions", ["expires"])
    op.create_table(
        "revoked_tokens",
        sa.Column("token_id", sa.String(128), primary_key=True),
        sa.Column("revoked", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
    )
    op.create_index("revoked_tokens_by_end", "revoked_tokens", ["expires"])
