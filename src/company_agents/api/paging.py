"""
The parameters of a list: a page starts after the last entry of the one before it.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from company_agents.identity.paging import MOST

After = Annotated[str | None, Query(max_length=500, description="the `next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="how many entries, at most")]
