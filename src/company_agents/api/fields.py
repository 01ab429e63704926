"""
The kinds of values that several requests have: ids, names, secrets.
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from uuid import UUID

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from company_agents.identity.directory import MOST_NAME
from company_agents.integrations.credential import LEAST_TOKEN, MOST_TOKEN
from company_agents.sensitive import Sensitive
from company_agents.work.tasks import STATUSES

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def canonical_id(text: object) -> UUID:
    """
    An id in the one form in which we write it.

    Raises:
        ValueError: it is in another, or none.
    """
    if isinstance(text, UUID):
        return text
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise PydanticCustomError("uuid_form", "this is no id")
    return UUID(text)


class _Secret:
    """A text that is a `Sensitive` from the moment it is parsed, and that no dump shows."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            Sensitive,
            core_schema.str_schema(min_length=LEAST_TOKEN, max_length=MOST_TOKEN, strict=True),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "format": "password",
            "writeOnly": True,
            "minLength": LEAST_TOKEN,
            "maxLength": MOST_TOKEN,
        }


Id = Annotated[UUID, BeforeValidator(canonical_id)]
Secret = Annotated[Sensitive, _Secret]
Name = Annotated[str, Field(min_length=1, max_length=MOST_NAME)]
Status = Annotated[str, Field(json_schema_extra={"enum": [*STATUSES]})]
Fence = Annotated[int, Field(strict=True, ge=1, le=2**63 - 1)]
