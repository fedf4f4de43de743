"""The control plane: a REST server that says who people are, what they map to, and asks a data node for a session.

app          routes, replies, errors as JSON
identity     credentials of a request -> an identity
attributes   an identity -> role, account, groups, limits
nodes        logical servers, their data nodes and the command port
session      all of these put together: one transfer request
server       the process: listeners, TLS, signals
"""
