"""Static files of pages: read once, sent with the headers that keep a page to itself."""

from collections.abc import Iterable
from pathlib import Path

from litestar import Response

from service.errors import NotFound

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".png": "image/png"}


class StaticFiles:
    """The files of a page. Their names are unique, and nothing else can be asked for."""

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        content_security_policy: str,
        cache_control: str,
        blanked_urls: Iterable[bytes] = (),
    ) -> None:
        """`blanked_urls` are addresses of other hosts in the files; they are replaced by an empty data: address."""
        self.headers = {
            "Content-Security-Policy": content_security_policy,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
        }
        self._cache_control = cache_control
        self._files = {
            path.name: (path.read_bytes(), MEDIA_TYPES[path.suffix]) for path in paths if path.suffix in MEDIA_TYPES
        }
        for url in blanked_urls:
            for name, (content, media_type) in self._files.items():
                self._files[name] = (content.replace(url, b"data:,"), media_type)

    def response(self, name: str) -> Response[bytes]:
        """Raises NotFound."""
        if name not in self._files:
            raise NotFound(f"This page has no file {name!r}.")
        content, media_type = self._files[name]
        return Response(content, media_type=media_type, headers=self.headers | {"Cache-Control": self._cache_control})
