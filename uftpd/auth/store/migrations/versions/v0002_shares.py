"""Shares, who is using them, and what they have of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "shares",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("server", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("path_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("grant_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("gid", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("access", sa.Integer(), nullable=False),
        sa.Column("one_time", sa.Boolean(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("access_count", sa.BigInteger(), nullable=False),
        sa.Column("last_access", sa.BigInteger(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("max_downloads", sa.Integer(), nullable=False),
        sa.Column("downloads", sa.Integer(), nullable=False),
        sa.Column("includes", sa.Text(), nullable=False),
        sa.Column("excludes", sa.Text(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
    )
    op.create_index("shares_by_path", "shares", ["path_hash"])
    op.create_index("shares_by_grant", "shares", ["grant_hash"], unique=True)
    op.create_index("shares_by_owner", "shares", ["owner"])
    op.create_index("shares_by_target", "shares", ["target"])
    op.create_index("shares_by_end", "shares", ["expires"])
    op.create_table(
        "share_claims",
        sa.Column("claim_id", sa.String(32), primary_key=True),
        sa.Column("share_id", sa.String(64), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
    )
    op.create_index("share_claims_by_share", "share_claims", ["share_id"])
    op.create_index("share_claims_by_end", "share_claims", ["lease_until"])
    op.create_table(
        "share_progress",
        sa.Column("share_id", sa.String(64), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("intervals", sa.Text(), nullable=False),
        sa.Column("changed", sa.Double(), nullable=False),
    )
    op.create_index("share_progress_by_share", "share_progress", ["share_id"])
    op.create_table(
        "share_stops",
        sa.Column("share_id", sa.String(64), primary_key=True),
        sa.Column("stopped", sa.Double(), nullable=False),
    )
    op.create_index("share_stops_by_time", "share_stops", ["stopped"])
