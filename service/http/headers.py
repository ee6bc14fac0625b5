"""Security headers on every answer, errors included."""

from flask import Flask, Response, request

API_POLICY = "default-src 'none'; frame-ancestors 'none'"
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_API_HEADERS = {**_HEADERS, "Content-Security-Policy": API_POLICY, "Cache-Control": "no-store"}
_DOCS_HEADERS = {**_HEADERS, "Content-Security-Policy": DOCS_POLICY}


def add_security_headers(app: Flask) -> None:
    """Nothing may frame, sniff or cache what we answer, unless the view said otherwise."""

    @app.after_request
    def _secure(response: Response) -> Response:
        is_docs = request.blueprint == "api-docs" or request.endpoint == "static"
        said = {name.lower() for name, _ in response.headers}
        for name, value in (_DOCS_HEADERS if is_docs else _API_HEADERS).items():
            if name.lower() not in said:
                response.headers.add(name, value)
        if request.is_secure:
            response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
        return response
