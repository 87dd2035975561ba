"""The web application: who may ask, and what is answered.

Everything is read-only but the reviews. A case is asked for by its number: no name of a file comes from outside, so
that nothing but the cases that were found can be read.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsoft.errors import InputError, ReadError, SlideError
from medsoft.evaluation.comparison.reader_study import VERDICTS
from medsoft.viewer import pixels
from medsoft.viewer.cases import Case, Collection
from medsoft.viewer.reviews import Reviews, open_reviews
from medsoft.viewer.slides import GRID, Slides

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain", ".md": "text/plain"}
HOSTS = ("127.0.0.1", "localhost")
MOST_BYTES = 64 * 1024
"""Of what is sent to the viewer: a review."""

OF_OPENSEADRAGON = "'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='"
"""The one rule of style that OpenSeadragon 6.1.1 adds to the page."""
POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {OF_OPENSEADRAGON}; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OF_REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; sandbox; base-uri 'none'"
"""A report is one file with its styles inside, and runs no script."""

COMMON = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets in who knows the token: in the address, in the cookie that it was then kept in, or as a bearer.

    Others get 401, a wrong token 403. Names of other hosts are refused, as a page elsewhere could make one lead here.

    Args:
        app: what is guarded.
        token: the secret.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        self._cookie = f"medsoft_view_{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            return
        request = Request(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in COMMON.items():
                    headers.setdefault(name, value)
                if request.query_params.get("token") and message["status"] < 400:
                    headers.append("Set-Cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        refused = self._refusal(request)
        await (refused or self._app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "").rsplit(":", 1)[0]
        if host not in HOSTS:
            return PlainTextResponse("this viewer is for this machine alone", 403)
        given = [request.query_params.get("token"), request.cookies.get(self._cookie), _bearer(request.headers)]
        given = [one for one in given if one]
        if not given:
            return PlainTextResponse("open the address that medsoft view printed: it ends with a token", 401)
        if not any(secrets.compare_digest(one.encode(), self._token.encode()) for one in given if one):
            return PlainTextResponse("this is not the token of this viewer: open the address that it printed last", 403)
        origin = request.headers.get("origin")
        if request.method not in ("GET", "HEAD") and origin and urlsplit(origin).netloc != request.headers.get("host"):
            return PlainTextResponse("only the viewer's own page may write", 403)
        return None


def _bearer(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else ""


class Viewer:
    """The answers, and what is open.

    Args:
        collection: what is shown.

    Raises:
        InputError: a ``reviews.csv`` that is there is damaged.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.slides = Slides()
        by_folder: dict[Path, Reviews] = {}
        self.reviews: list[Reviews] = []
        for place in collection.places:
            folder = place.folder.resolve()
            by_folder.setdefault(folder, open_reviews(folder))
            self.reviews.append(by_folder[folder])
        self._static = {str(path.relative_to(STATIC)): path for path in STATIC.rglob("*") if path.suffix in TYPES}

    def routes(self) -> list[Route]:
        """What can be asked."""
        case = "/api/cases/{number:int}"
        return [
            Route("/", partial(self.static, name="index.html")),
            Route("/static/{name:path}", self.static),
            Route("/api/cases", self.cases),
            Route(case, self.about),
            Route(case + "/tiles/{layer}/{level:int}/{column:int}/{row:int}", self.tile),
            Route(case + "/strip/{map:int}/{rank:int}", self.strip),
            Route(case + "/pixels", self.pixels),
            Route(case + "/volume.nii", self.volume),
            Route(case + "/map.nii.gz", self.map),
            Route(case + "/contributions", self.contributions),
            Route(case + "/review", self.review, methods=["PUT"]),
            Route("/report/{place:int}", self.report),
        ]

    def static(self, request: Request, name: str = "") -> Response:
        """A file of the page itself; the names are those of the files that are there."""
        path = self._static.get(name or request.path_params["name"])
        if path is None:
            return PlainTextResponse("there is no such file", 404)
        headers = {} if path.suffix == ".html" else {"Cache-Control": "no-cache"}
        return FileResponse(path, media_type=TYPES[path.suffix], headers=headers)

    def cases(self, request: Request) -> Response:
        """All cases, as the list shows them."""
        places = [
            {
                "name": place.name,
                "columns": place.columns,
                "about": place.about,
                "report": place.report is not None,
            }
            for place in self.collection.places
        ]
        cases = [self._listed(case) for case in self.collection.cases]
        return JSONResponse(
            {"places": places, "cases": cases, "notes": list(self.collection.notes), "verdicts": VERDICTS}
        )

    def _listed(self, case: Case) -> dict[str, Any]:
        review = self.reviews[case.place].of(case.key)
        return {
            "name": case.name,
            "kind": case.kind,
            "place": case.place,
            **case.row,
            "verdict": review.verdict if review else "",
            "note": review.note if review else "",
        }

    def about(self, request: Request) -> Response:
        """What is known of a case beside its row; ``error`` where it cannot be opened."""
        number, case = self._case(request)
        if case is None:
            return _nothing()
        found: dict[str, Any] = {"missing": case.missing, "contributions": case.example is not None}
        try:
            if case.kind == "slide":
                with self.slides.lend(number, case) as opened:
                    found |= opened.about()
            elif case.map is not None:
                found["map"] = pixels.largest_contribution(case.map)
        except (SlideError, ReadError) as error:
            found["error"] = error.reason
        return JSONResponse(found)

    def tile(self, request: Request) -> Response:
        """A tile of a slide or of what lies over it."""
        number, case = self._case(request, "slide")
        asked = request.path_params
        layer = "" if asked["layer"] == "slide" else asked["layer"]
        if case is None or not (layer in ("", GRID) or layer.isdecimal()):
            return _nothing()
        content = self.slides.tile(number, case, layer, asked["level"], asked["column"], asked["row"])
        return _nothing() if content is None else Response(content, media_type="image/png" if layer else "image/jpeg")

    def strip(self, request: Request) -> Response:
        """One of the tiles that add most."""
        number, case = self._case(request, "slide")
        asked = request.path_params
        content = None if case is None else self.slides.top_tile(number, case, asked["map"], asked["rank"])
        return _nothing() if content is None else Response(content, media_type="image/jpeg")

    def pixels(self, request: Request) -> Response:
        """The values of a picture."""
        _, case = self._case(request, "picture")
        if case is None:
            return _nothing()
        about, content = pixels.picture(case.path)
        headers = {"X-Picture": json.dumps(about)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    def volume(self, request: Request) -> Response:
        """A volume as NIfTI."""
        _, case = self._case(request, "volume")
        return _nothing() if case is None else Response(pixels.volume(case.path), media_type="application/octet-stream")

    def map(self, request: Request) -> Response:
        """The map of contributions of a volume, as the run wrote it."""
        _, case = self._case(request, "volume")
        return _nothing() if case is None else _file(case.map, "application/octet-stream")

    def contributions(self, request: Request) -> Response:
        """The picture of contributions that the run drew of an example."""
        _, case = self._case(request)
        return _nothing() if case is None else _file(case.example, "image/jpeg")

    def report(self, request: Request) -> Response:
        """The report of a run."""
        places = self.collection.places
        place = request.path_params["place"]
        path = places[place].report if place < len(places) else None
        response = _file(path, "text/html")
        response.headers["Content-Security-Policy"] = OF_REPORT
        return response

    async def review(self, request: Request) -> Response:
        """Keep a verdict and a note."""
        _, case = self._case(request)
        if case is None:
            return _nothing()
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return JSONResponse({"error": "a review is JSON"}, 415)
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                return JSONResponse({"error": "a review is shorter"}, 413)
        try:
            given = json.loads(content)
            verdict, note = given["verdict"], given["note"]
            if not (isinstance(verdict, str) and isinstance(note, str)):
                raise ValueError("verdict and note are text")
            says = str(case.row.get("says") or "")
            await run_in_threadpool(self.reviews[case.place].save, case.key, says, verdict, note)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            return JSONResponse({"error": f"no review: {error}"}, 400)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 409)
        except OSError as error:
            return JSONResponse({"error": f"reviews.csv cannot be written: {error.strerror}"}, 507)
        return JSONResponse(self._listed(case))

    def _case(self, request: Request, kind: str = "") -> tuple[int, Case | None]:
        number = request.path_params["number"]
        case = self.collection.cases[number] if number < len(self.collection.cases) else None
        return number, case if case is not None and kind in ("", case.kind) else None


def _nothing() -> Response:
    return JSONResponse({"error": "there is no such thing"}, 404)


def _file(path: Path | None, kind: str) -> Response:
    if path is None or not path.is_file():
        return _nothing()
    return FileResponse(path, media_type=kind)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, SlideError | ReadError)
    return JSONResponse({"error": error.reason}, 422)


Answer = Callable[[Request, Exception], Response | Awaitable[Response]]


def make_app(collection: Collection, token: str) -> ASGIApp:
    """The application.

    Args:
        collection: what is shown.
        token: the secret that who asks must know.

    Raises:
        InputError: a ``reviews.csv`` that is there is damaged.
    """
    refused: Answer = _refused
    handlers: Any = {SlideError: refused, ReadError: refused}
    viewer = Viewer(collection)
    return Guard(Starlette(routes=viewer.routes(), exception_handlers=handlers), token)
