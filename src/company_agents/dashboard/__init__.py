"""
The door for people: pages rendered here, without a script.
"""

from company_agents.dashboard.door import dashboard_app, sealed_page

__all__ = ["dashboard_app", "sealed_page"]
