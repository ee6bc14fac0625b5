"""Who calls, and what they may do: decided once, before any view, for every route. Deny unless allowed.

This is the seam for further kinds of credentials: each is one more function from a request to a Principal.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import Flask, g, request

from service.accounts.keys import Principal, verify_key
from service.accounts.scopes import Scope
from service.http.problems import Problem

View = TypeVar("View", bound=Callable[..., Any])

PUBLIC_ENDPOINTS = frozenset(
    {"health.livez", "health.readyz", "api-docs.openapi_json", "api-docs.docs_redirect", "api-docs.swagger_ui"}
)
"""The only routes that answer without a credential."""


def requires(scope: Scope) -> Callable[[View], View]:
    """Mark a view with the scope that it asks for. A view without the mark answers nobody."""

    def mark(view: View) -> View:
        view.required_scope = scope  # type: ignore[attr-defined]
        return view

    return mark


def required_scope(app: Flask, endpoint: str, method: str) -> Scope | None:
    """The scope that a route asks for, or None if none is declared."""
    view = app.view_functions[endpoint]
    view_class = getattr(view, "view_class", None)
    if view_class is not None:
        handler = getattr(view_class, method.lower(), None)
        if handler is None and method == "HEAD":
            handler = getattr(view_class, "get", None)
        return getattr(handler, "required_scope", None)
    return getattr(view, "required_scope", None)


def principal() -> Principal:
    """Who makes the current request. Only for views that require a scope."""
    return cast("Principal", g.principal)


def guard_requests(app: Flask) -> None:
    """Check every request that matched a route before its view runs."""

    @app.before_request
    def _authorize() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint in PUBLIC_ENDPOINTS or request.method == "OPTIONS":
            return  # no route matched (404, 405), or one that is open to all
        caller = _authenticate()
        scope = required_scope(app, endpoint, request.method)
        if scope is None or not caller.may(scope):
            needed = scope or "a scope that no key has"
            raise Problem(403, "forbidden", f"This key lacks the scope {needed}.")
        g.principal = caller


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="millrace"'}


def _authenticate() -> Principal:
    kind, _, credential = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not credential.strip():
        detail = "Send an API key: Authorization: Bearer mr_…  (make one: millrace key create --tenant NAME)"
        raise Problem(401, "unauthorized", detail, headers=_CHALLENGE)
    caller = verify_key(credential.strip())
    if caller is None:
        raise Problem(401, "unauthorized", "This API key is unknown, expired or revoked.", headers=_CHALLENGE)
    return caller
