"""Request bodies: JSON, decoded once and strictly, straight into the type that the handler declares."""

import re
from typing import Any

from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException

from service.json_input import decode

JSON_MEDIA_TYPE = re.compile(r"application/([\w.-]+\+)?json", re.IGNORECASE)
MAX_QUOTED_CHARS = 100  # of a Content-Type


class JsonBody(AbstractDTO[Any]):
    """Reads the bodies of all routes. Litestar's own reading first decodes a dict and converts it then, and so takes
    the text "1" for a number."""

    @classmethod
    def create_for_field_definition(cls, *_args: Any, **_kwargs: Any) -> None:
        """Litestar calls this for each handler; there is nothing to prepare."""

    @classmethod
    def create_openapi_schema(cls, field_definition: Any, handler_id: str, schema_creator: Any) -> Any:
        return schema_creator.for_field_definition(field_definition)

    def decode_bytes(self, value: bytes) -> Any:
        """Raises Invalid for text that is not JSON, Unprocessable for JSON that does not fit the type."""
        handler, headers = self.asgi_connection.route_handler, self.asgi_connection.headers
        content_type = headers.get("content-type", "application/json")
        if decompress := handler.opt.get("decompress"):
            encoding = headers.get("content-encoding", "identity").strip().lower()
            value = decompress(value, encoding, handler.resolve_request_max_body_size())
        if read_other := handler.opt.get("read_other"):
            other = read_other(value, content_type.partition(";")[0].strip().lower())
            if other is not None:
                return other
        if not JSON_MEDIA_TYPE.fullmatch(content_type.partition(";")[0].strip()):
            detail = f"The body must be application/json, not {content_type[:MAX_QUOTED_CHARS]}."
            raise HTTPException(status_code=415, detail=detail)
        field = handler.parsed_data_field
        assert field is not None
        return decode(value, field.annotation, "body")
