"""Who calls, and what they may do: decided once, before any view, for every route. Deny unless allowed.

This is the seam for further kinds of credentials: each is one more function from a request to a Principal.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Flask, Request, Response, current_app, g, request
from flask.sessions import SessionInterface, SessionMixin
from sqlalchemy.exc import SQLAlchemyError

from service.accounts.keys import KnownKeys, Principal, verify_key
from service.accounts.scopes import Scope
from service.http.problems import Problem, problem_response


class NoSession(SessionInterface):
    """API keys are the only credential: a cookie is not even read."""

    def open_session(self, app: Flask, request: Request) -> None:
        """None, ever."""

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Nothing, and never called."""


View = TypeVar("View", bound=Callable[..., Any])

PUBLIC_ENDPOINTS = frozenset(
    {"health.livez", "health.readyz", "api-docs.openapi_json", "api-docs.docs_redirect", "api-docs.swagger_ui"}
)
"""The only routes that answer without a credential."""


def requires(scope: Scope, *, confirms_key: bool = False) -> Callable[[View], View]:
    """Mark a view with the scope that it asks for. A view without the mark answers nobody.

    A view that `confirms_key` is called for keys that were good a moment ago, and has its own statement ask whether
    they still are (`caller_to_confirm`, `confirmed`): that saves a round trip.
    """

    def mark(view: View) -> View:
        view.required_scope = scope  # type: ignore[attr-defined]
        view.confirms_key = confirms_key  # type: ignore[attr-defined]
        return view

    return mark


def required_scope(app: Flask, endpoint: str, method: str) -> Scope | None:
    """The scope that a route asks for, or None if none is declared."""
    return getattr(_handler(app, endpoint, method), "required_scope", None)


def _handler(app: Flask, endpoint: str, method: str) -> Any:
    """What carries the marks: a view function, or a method of a view class."""
    view = app.view_functions[endpoint]
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return view
    handler = getattr(view_class, method.lower(), None)
    return getattr(view_class, "get", None) if handler is None and method == "HEAD" else handler


def principal() -> Principal:
    """Who makes the current request, with a good key. Only for views that require a scope."""
    if g.is_unconfirmed:
        g.principal = _verify(_credential())
        g.is_unconfirmed = False
    return cast("Principal", g.principal)


def caller_to_confirm() -> Principal:
    """Who makes the current request, with a key that was good a moment ago.

    For statements that ask themselves whether it still is; then call `confirmed`.
    """
    return cast("Principal", g.principal)


def confirmed() -> None:
    """A statement has found the caller's key good in this request."""
    g.is_unconfirmed = False


def guard_requests(app: Flask) -> None:
    """Check every request that matched a route before its view runs, and no answer leaves for an unconfirmed key."""
    app.session_interface = NoSession()

    @app.before_request
    def _authorize() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint in PUBLIC_ENDPOINTS or request.method == "OPTIONS":
            return  # no route matched (404, 405), or one that is open to all
        handler = _handler(app, endpoint, request.method)
        credential = _credential()
        known = _known_keys().find(credential) if getattr(handler, "confirms_key", False) else None
        caller = known or _verify(credential)
        scope = getattr(handler, "required_scope", None)
        if scope is None or not caller.may(scope):
            needed = scope or "a scope that no key has"
            raise Problem(403, "forbidden", f"This key lacks the scope {needed}.")
        g.principal = caller
        g.is_unconfirmed = known is not None

    @app.after_request
    def _confirm(response: Response) -> Response:
        """Refusals and errors say nothing to a key that was revoked meanwhile."""
        if g.get("is_unconfirmed", False) and response.status_code < 500:  # noqa: PLR2004 - our own trouble tells nothing
            try:
                principal()
            except Problem as problem:
                return problem_response(problem)
            except SQLAlchemyError:
                detail = "Your key cannot be verified at the moment. Repeat the request."
                return problem_response(Problem(503, "unavailable", detail, headers={"Retry-After": "2"}))
        return response


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="millrace"'}


def _credential() -> str:
    kind, _, credential = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not credential.strip():
        detail = "Send an API key: Authorization: Bearer mr_…  (make one: millrace key create --tenant NAME)"
        raise Problem(401, "unauthorized", detail, headers=_CHALLENGE)
    return credential.strip()


def key_refused() -> Problem:
    """The answer to a key that is not good."""
    return Problem(401, "unauthorized", "This API key is unknown, expired or revoked.", headers=_CHALLENGE)


def _verify(credential: str) -> Principal:
    caller = verify_key(credential)
    if caller is None:
        raise key_refused()
    _known_keys().add(credential, caller)
    return caller


def _known_keys() -> KnownKeys:
    known: KnownKeys = current_app.extensions["known_keys"]
    return known
