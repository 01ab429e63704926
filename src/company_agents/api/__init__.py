"""
The REST door, for programs: `/v1/…`, described by `/v1/openapi.json`.
"""

from company_agents.api.application import api_app

__all__ = ["api_app"]
