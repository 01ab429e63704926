"""
The pages, one module per noun.
"""

from company_agents.dashboard.pages import (
    account,
    adapters,
    agents,
    approvals,
    audit,
    companies,
    connect,
    costs,
    integrations,
    limits,
    master_key,
    oauth,
    people,
    rules,
    runs,
    schedules,
    sealing,
    signing_in,
    tasks,
    webhooks,
)

PAGES = [
    *signing_in.PAGES,
    *companies.PAGES,
    *integrations.PAGES,
    *rules.PAGES,
    *connect.PAGES,
    *oauth.PAGES,
    *agents.PAGES,
    *adapters.PAGES,
    *limits.PAGES,
    *tasks.PAGES,
    *runs.PAGES,
    *schedules.PAGES,
    *costs.PAGES,
    *approvals.PAGES,
    *audit.PAGES,
    *webhooks.PAGES,
    *people.PAGES,
    *account.PAGES,
    *master_key.PAGES,
    *sealing.PAGES,
]
