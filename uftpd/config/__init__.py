"""Configuration: one TOML file a server, typed and validated, with errors that name the place."""
