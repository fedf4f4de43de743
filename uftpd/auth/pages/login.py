"""`/ui/login`: where somebody logs in with a browser and nothing else, and from where they are led to their pages."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from uftpd.auth.edge import context_of
from uftpd.auth.endpoints import ANY, Access, Caller, Endpoint
from uftpd.auth.errors import NotFound, Refused, RequestError
from uftpd.auth.pages.failures import base_path
from uftpd.auth.pages.forms import FORM, check_origin, form_token, read_form
from uftpd.auth.pages.negotiation import prefers_page
from uftpd.auth.pages.render import login_page
from uftpd.auth.pages.views import LoginView
from uftpd.auth.pages.visitors import PLACE, Visitors, new_secret
from uftpd.auth.services import Services

_SEE_OTHER = 303
_WRONG = "That name and password are not accepted. Look at upper and lower case, and try again."
_WRONG_TOKEN = "That token is not accepted; it may have expired."  # noqa: S105 - a sentence


class LoginPages:
    """The handlers.

    Args:
        services: of the configuration in force.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        external_url = services.config.server.external_url
        self._base = base_path(external_url)
        self._visitors = Visitors(services.callers, self._base, external_url)
        wanted = {"shares": services.config.shares.enabled, "transfers": services.transfers is not None}
        self._pages = [page for page, there in wanted.items() if there]

    def endpoints(self) -> list[Endpoint]:
        """The table of them; empty if there is no page to log in for."""
        if not self._pages:
            return []
        table = (
            ("GET", "/", self.home, "Leads people to their pages."),
            ("GET", PLACE, self.home, "Leads people to their pages."),
            ("GET", f"{PLACE}/login", self.ask, "Asks who somebody is."),
            ("POST", f"{PLACE}/login", self.log_in, "Logs somebody in."),
            ("POST", f"{PLACE}/logout", self.log_out, "Logs somebody out."),
        )
        return [
            Endpoint(
                method=method,
                path=path,
                handler=handler,
                access=Access.PUBLIC,  # these look for a cookie themselves, and for nothing else
                summary=summary,
                produces=ANY,
                consumes=FORM if method == "POST" else "",
            )
            for method, path, handler, summary in table
        ]

    async def home(self, request: Request, caller: Caller) -> Response:
        """`GET /ui`, and the server's own address: who types that into a browser is a person.

        Raises:
            NotFound: it is a program.
        """
        if not prefers_page(request):
            raise NotFound("No such resource, please check your URL")
        return self._go(self._page(""))

    async def ask(self, request: Request, caller: Caller) -> Response:
        """`GET /ui/login`."""
        context_of(request).outcome = "page"
        to = request.query_params.get("to", "")
        if await self._visitors.find(request) is not None:
            return self._go(self._page(to))
        return self._login_page(request, to=to)

    async def log_in(self, request: Request, caller: Caller) -> Response:
        """`POST /ui/login`."""
        context_of(request).outcome = "login refused"
        form = await read_form(request, self._services.config.limits)
        check_origin(request, form, self._visitors.stranger(request))
        to = form.get("to", "")
        try:
            visitor = await self._visitors.log_in(form, request)
        except Refused:
            problem = _WRONG_TOKEN if form.get("bearer") else _WRONG
            return self._login_page(request, to=to, problem=problem, user=form.get("user", ""), status=403)
        except RequestError as error:
            text = str(error)
            return self._login_page(request, to=to, problem=text, user=form.get("user", ""), status=error.status)
        context_of(request).outcome = "logged in"
        reply = self._go(self._page(to))
        self._visitors.remember(reply, visitor, request)
        return reply

    async def log_out(self, request: Request, caller: Caller) -> Response:
        """`POST /ui/logout`."""
        form = await read_form(request, self._services.config.limits)
        visitor = await self._visitors.find(request)
        reply = self._go("/login")
        if visitor is not None:
            check_origin(request, form, visitor.session.id)
            await self._visitors.log_out(visitor)
            context_of(request).outcome = "logged out"
        self._visitors.forget(reply, request)
        return reply

    def _login_page(
        self, request: Request, *, to: str, problem: str = "", user: str = "", status: int = 200
    ) -> Response:
        secret = self._visitors.stranger(request) or new_secret()
        view = LoginView(
            token=form_token(secret),
            to=to if to in self._pages else "",
            problem=problem,
            user=user[:256],
            base=self._base,
        )
        reply = login_page(view, status=status)
        self._visitors.meet(reply, request, secret)
        return reply

    def _page(self, wanted: str) -> str:
        """A page of this server: the one somebody was on their way to, or the first one there is."""
        return f"/{wanted if wanted in self._pages else self._pages[0]}"

    def _go(self, path: str) -> RedirectResponse:
        return RedirectResponse(self._base + PLACE + path, _SEE_OTHER)
