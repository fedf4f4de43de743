"""Who is asking: the credentials of a request become an identity (CONTROL-PLANE 5.1)."""
