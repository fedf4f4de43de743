"""What an identity maps to: role, accounts, groups and per-server settings (CONTROL-PLANE 5.6 to 5.8)."""
