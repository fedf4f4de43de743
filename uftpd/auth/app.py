"""The application: the table of all resources, the router made of it, and what stands in front (CONTROL-PLANE 1.1)."""

from __future__ import annotations

from starlette.routing import Router

from uftpd.auth.addresses import TrustedProxies
from uftpd.auth.admin import AdminActions
from uftpd.auth.edge import Edge
from uftpd.auth.endpoints import Endpoint, routes
from uftpd.auth.monitoring import PublicHealth
from uftpd.auth.openapi import Description
from uftpd.auth.pages.account import Account
from uftpd.auth.pages.assets import asset_endpoints
from uftpd.auth.pages.failures import ErrorPages, base_path
from uftpd.auth.pages.login import LoginPages
from uftpd.auth.pages.transfers import TransferPages
from uftpd.auth.resources import Resources
from uftpd.auth.services import Services
from uftpd.auth.shares.delivery import Delivery
from uftpd.auth.shares.owner_resource import OwnerResource
from uftpd.auth.shares.use_resource import UseResource
from uftpd.auth.token_resource import token_endpoints
from uftpd.auth.transfers.resource import TransferResource


def all_endpoints(services: Services) -> list[Endpoint]:
    """Every resource of the server; of two whose paths match, the first is meant."""
    owners = OwnerResource(services)
    described = [
        *Delivery(services).endpoints(),  # in front: of all they are asked for most
        *token_endpoints(services.issuer, services.credential),
        *Resources(services).endpoints(),
        *owners.endpoints(),
        *UseResource(services).endpoints(),
        *TransferResource(services).endpoints(),
        *AdminActions(services).endpoints(),
        *PublicHealth(services).endpoints(),
    ]
    # Pages are for people, and no part of what is described to programs.
    return [
        *described,
        *Description(described).endpoints(),
        *asset_endpoints(),
        *LoginPages(services).endpoints(),
        *Account(services, owners).endpoints(),
        *TransferPages(services).endpoints(),
    ]


def build_app(services: Services) -> Edge:
    """The ASGI application."""
    router = Router(routes(all_endpoints(services), services.callers.find), redirect_slashes=False)
    proxies = TrustedProxies(services.config.server.trusted_proxies)
    pages = ErrorPages(router, base_path(services.config.server.external_url))
    return Edge(pages, services.config.limits, proxies, services.metrics)
