"""The data node around its sessions: spawner, front, command port, login. See docs/ARCHITECTURE.md."""
