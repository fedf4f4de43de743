"""Shares: somebody else, or anybody, uses a path with the account of the person who shared it (CONTROL-PLANE 4).

model            what a share is
rows             its table: found, kept, listed
claims           who is using a share that counts its uses; one winner, whatever happens at once
grants           the two together, as resources use them
progress         which bytes of an object somebody has
running          what is being delivered now, so that it can be stopped
reach            how this server, or a grantee, gets at the object on the data node
owner_resource   /rest/share: what people share
use_resource     POST /rest/access: what others do with it, by UFTP
"""
