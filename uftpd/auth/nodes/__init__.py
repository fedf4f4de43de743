"""The data nodes: logical servers, their instances, and the command port that is spoken with them."""
