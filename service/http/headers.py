"""Security headers on every answer, errors included."""

from flask import Flask, Response, request

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def add_security_headers(app: Flask) -> None:
    """Nothing may frame, sniff or cache what we answer, unless the view said otherwise."""

    @app.after_request
    def _secure(response: Response) -> Response:
        is_docs = request.blueprint == "api-docs" or request.endpoint == "static"
        headers = response.headers
        headers.setdefault("Content-Security-Policy", DOCS_POLICY if is_docs else API_POLICY)
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Referrer-Policy", "same-origin")
        headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        if request.is_secure:
            headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        if not is_docs:
            headers.setdefault("Cache-Control", "no-store")
        return response
