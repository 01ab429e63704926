"""
The door for people: pages rendered here, which need no script. Some stay up to date by one.
"""

from company_agents.dashboard.door import dashboard_app, sealed_page

__all__ = ["dashboard_app", "sealed_page"]
