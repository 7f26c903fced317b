"""Request bodies: JSON, decoded once and strictly, straight into the type that the handler declares."""

import re
from typing import Any

from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException

from service.json_input import decode

_JSON = re.compile(r"application/([\w.-]+\+)?json", re.IGNORECASE)


class JsonBody(AbstractDTO[Any]):
    """The application's way to read bodies. Litestar's own decodes into dicts and then converts: to it "1" is a
    number."""

    @classmethod
    def create_for_field_definition(cls, *_args: Any, **_kwargs: Any) -> None:
        """There is nothing to prepare for a handler."""

    @classmethod
    def create_openapi_schema(cls, field_definition: Any, handler_id: str, schema_creator: Any) -> Any:
        return schema_creator.for_field_definition(field_definition)

    def decode_bytes(self, value: bytes) -> Any:
        """Raises Invalid for what is not JSON, Unprocessable for what does not fit the type."""
        content_type = self.asgi_connection.headers.get("content-type", "application/json")
        if not _JSON.fullmatch(content_type.partition(";")[0].strip()):
            raise HTTPException(status_code=415, detail=f"The body must be application/json, not {content_type[:100]}.")
        field = self.asgi_connection.route_handler.parsed_data_field
        assert field is not None
        return decode(value, field.annotation, "body")
