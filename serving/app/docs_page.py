"""``/docs``: Swagger UI from files in vLLM's package, so that it works without internet access."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

FILES = "entrypoints/serve/instrumentator/static"  # in vLLM, for its option --enable-offline-docs
DOCS_PATHS, DOCS_FILES = ("/docs", "/redoc"), "/docs/files"
SCRIPT, STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
DRAWN_ELSEWHERE = ("/docs", "/docs/oauth2-redirect", "/redoc")  # FastAPI's pages, which load scripts from other hosts
# Relative addresses start at the page's folder, whatever prefix a proxy adds, and with or without a trailing slash.
BASE = "<script>document.write(`<base href=\"${location.pathname.replace(/(docs|redoc)\\/*$/, '')}\">`)</script>"
# A service with keys requires one for its OpenAPI document: the one entered in this tab on the first page.
WITH_KEY = """<p id="no-key" hidden>This service asks for an API key. Give it on
<a href="./">the first page</a>, and open <a href="docs">this one</a> in the same tab.</p><script>
const withKey = (request) => {
  const key = sessionStorage.getItem("fourshot-key"), { origin } = new URL(request.url, document.baseURI);
  if (key && origin === location.origin) request.headers.Authorization ||= `Bearer ${key}`;
  return request;
};
const tellKey = (response) => {
  if (response.status === 401) document.getElementById("no-key").hidden = false;
  return response;
};
</script>"""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; font-src data:; frame-ancestors 'none'; base-uri 'self'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


def add_docs(app: FastAPI) -> None:
    """Serve ``/docs`` (and ``/redoc``, the same page), unless the app has no OpenAPI document or vLLM no such files."""
    vllm = find_spec("vllm")
    folder = Path(vllm.origin).parent / FILES if vllm and vllm.origin else Path()
    if not app.openapi_url or not (folder / SCRIPT).is_file():
        return  # FastAPI's own pages stay
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") not in DRAWN_ELSEWHERE]
    response = get_swagger_ui_html(
        openapi_url=app.openapi_url.lstrip("/"),
        title="fourshot",
        swagger_js_url=f"{DOCS_FILES}/{SCRIPT}"[1:],
        swagger_css_url=f"{DOCS_FILES}/{STYLE}"[1:],
        swagger_favicon_url="data:,",
    )
    page = bytes(response.body).decode().replace("<head>", f"<head>{BASE}").replace("<body>", f"<body>{WITH_KEY}")
    bundle = "SwaggerUIBundle({"
    page = page.replace(bundle, f"{bundle} requestInterceptor: withKey, responseInterceptor: tellKey,")

    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    for path in DOCS_PATHS:
        app.get(path, include_in_schema=False)(docs)
    app.mount(DOCS_FILES, StaticFiles(directory=folder))
