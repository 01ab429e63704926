"""
The routes, one module per noun.
"""

from company_agents.api.routes import (
    agents,
    approvals,
    audit,
    backups,
    companies,
    consents,
    costs,
    instance,
    integrations,
    key,
    me,
    memory,
    providers,
    runs,
    schedules,
    tasks,
    tokens,
    webhooks,
)

# In the order in which they are matched: who asks most comes first.
ROUTERS = (
    me.router,
    integrations.sending,
    tasks.router,
    memory.router,
    agents.router,
    integrations.router,
    approvals.router,
    approvals.rules,
    runs.router,
    runs.of_agent,
    schedules.router,
    consents.clients,
    consents.router,
    costs.router,
    companies.router,
    audit.router,
    webhooks.router,
    providers.router,
    tokens.router,
    key.router,
    backups.router,
    instance.router,
)

__all__ = ["ROUTERS"]
