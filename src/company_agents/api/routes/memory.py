"""
An agent's memory. Nobody else's notes exist for it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from company_agents.api.callers import GuardedRoute, InCompany, Parts
from company_agents.api.fields import Id
from company_agents.api.idempotency import Creating
from company_agents.api.schemas import MemoryOut, NewMemory, PageOf
from company_agents.identity.paging import Page
from company_agents.work.memory import Memory

router = APIRouter(prefix="/v1/companies/{cid}/memory", tags=["memory"], route_class=GuardedRoute)


@router.get(
    "",
    response_model=PageOf[MemoryOut],
    operation_id="searchMemory",
    summary="Your notes that match, the best first; without words the newest; in one page",
)
async def search_memory(
    parts: Parts,
    caller: InCompany,
    query: Annotated[str, Query(max_length=1000, description='words, "quotes", or, -without')] = "",
    limit: Annotated[int, Query(ge=1, le=100, description="how many notes, at most")] = 20,
) -> Page[Memory]:
    return Page(await parts.memory.search(caller, query, limit))


@router.post("", status_code=201, response_model=MemoryOut, operation_id="createMemory", summary="Write a note")
async def create_memory(parts: Parts, caller: InCompany, body: NewMemory, creation: Creating) -> Response:
    async def create() -> BaseModel:
        return MemoryOut.model_validate(await parts.memory.write(caller, body.content, body.title, body.tags))

    return await creation.answered(caller.scope, caller.label, body, create)


@router.get("/{memory_id}", response_model=MemoryOut, operation_id="getMemory", summary="One of your notes")
async def get_memory(parts: Parts, caller: InCompany, memory_id: Id) -> Memory:
    return await parts.memory.get(caller, memory_id)


@router.put(
    "/{memory_id}", response_model=MemoryOut, operation_id="replaceMemory", summary="Write one of your notes anew"
)
async def replace_memory(parts: Parts, caller: InCompany, memory_id: Id, body: NewMemory) -> Memory:
    return await parts.memory.write(caller, body.content, body.title, body.tags, memory_id)


@router.delete("/{memory_id}", status_code=204, operation_id="deleteMemory", summary="Delete one of your notes")
async def delete_memory(parts: Parts, caller: InCompany, memory_id: Id) -> None:
    await parts.memory.delete(caller, memory_id)
