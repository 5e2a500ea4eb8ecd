"""The application that `mm1-lab dashboard` has MLflow's server run: MLflow's own, behind a token.

MLflow reads and writes files for whoever may call it, and every user of a machine may call what listens on 127.0.0.1.
"""

import os
from secrets import compare_digest

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN = "MM1_LAB_DASHBOARD_TOKEN"
"""The variable by which the command tells the server its token."""
REFUSED = "mm1-lab: open the address that mm1-lab dashboard printed, which ends in ?token=...\n"


class BehindToken:
    """Answers only requests with the token: of the address, which sets a cookie, of that cookie, or of a client of
    MLflow (MLFLOW_TRACKING_TOKEN)."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a websocket, of which MLflow has none
            return await send({"type": "websocket.close"})
        request = Request(scope)
        cookie = f"mm1-lab-{scope['server'][1]}"  # a browser sends the cookies of all ports of a host
        if self._is_token(request.query_params.get("token", "")):
            answer = RedirectResponse(request.url.path)  # a browser keeps what follows the #
            answer.set_cookie(cookie, self.token, httponly=True, samesite="lax")
            return await answer(scope, receive, send)
        header = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._is_token(request.cookies.get(cookie, "")) or self._is_token(header):
            return await self.app(scope, receive, send)
        return await PlainTextResponse(REFUSED, 403)(scope, receive, send)

    def _is_token(self, text: str) -> bool:
        return compare_digest(text.encode(), self.token.encode())


def create() -> ASGIApp:
    from mlflow.server.fastapi_app import app

    return BehindToken(app, os.environ[TOKEN])
