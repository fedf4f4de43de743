"""What runs inside a session process, as the user. See docs/ARCHITECTURE.md."""
