"""
The table of permissions: permission × kind of principal. What is not in it is refused.

`docs/security/permissions.md` is checked against this table.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """Kinds of principals. LOCAL is whoever works on the instance home with the command line."""

    AGENT = "agent"
    RUN = "run"
    OPERATOR = "operator"
    LOCAL = "local"


class Role(StrEnum):
    """What an operator is in a company."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    OWNER = "owner"


RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.OWNER: 2}


def lower_role(one: Role, other: Role) -> Role:
    """The lower of two roles."""
    return min(one, other, key=RANK.__getitem__)


class Permission(StrEnum):
    """`scope:resource:action`."""

    COMPANY_LIST = "instance:company:list"
    COMPANY_CREATE = "instance:company:create"
    OPERATOR_MANAGE = "instance:operator:manage"
    INSTANCE_AUDIT = "instance:audit:read"
    INSTANCE_SEAL = "instance:instance:seal"
    KEY_READ = "instance:key:read"
    KEY_ROTATE = "instance:key:rotate"
    KEY_PRUNE = "instance:key:prune"
    BACKUP_READ = "instance:backup:read"
    BACKUP_MAKE = "instance:backup:make"
    BACKUP_DOWNLOAD = "instance:backup:download"
    BACKUP_FORGET = "instance:backup:forget"
    AGENT_UNSANDBOX = "instance:agent:unsandbox"

    COMPANY_READ = "company:company:read"
    MEMBER_MANAGE = "company:member:manage"
    AGENT_READ = "company:agent:read"
    AGENT_MANAGE = "company:agent:manage"
    AGENT_TOKEN = "company:agent:rotate-token"
    AGENT_ADAPTER = "company:agent:adapter"
    INTEGRATION_READ = "company:integration:read"
    INTEGRATION_CONNECT = "company:integration:connect"
    INTEGRATION_ALLOW = "company:integration:allow"
    INTEGRATION_ROTATE = "company:integration:rotate"
    INTEGRATION_DELETE = "company:integration:delete"
    INTEGRATION_CHECK = "company:integration:check"
    INTEGRATION_USE = "company:integration:use"
    APPROVAL_READ = "company:approval:read"
    APPROVAL_DECIDE = "company:approval:decide"
    PROVIDER_CONFIGURE = "company:provider:configure"
    RUN_START = "company:run:start"
    RUN_OPEN = "company:run:open"
    RUN_HOLD = "company:run:hold"
    RUN_READ = "company:run:read"
    RUN_CANCEL = "company:run:cancel"
    RUN_CUT = "company:run:cut"
    SCHEDULE_READ = "company:schedule:read"
    SCHEDULE_MANAGE = "company:schedule:manage"
    TASK_READ = "company:task:read"
    TASK_WRITE = "company:task:write"
    MEMORY = "agent:memory:own"
    MEMORY_READ = "company:memory:read"
    LIMITS_READ = "company:limits:read"
    LIMITS_MANAGE = "company:limits:manage"
    COSTS_READ = "company:costs:read"
    WEBHOOK_READ = "company:webhook:read"
    WEBHOOK_MANAGE = "company:webhook:manage"
    AUDIT_READ = "company:audit:read"


Who = frozenset[Kind | Role]

_AGENT: Who = frozenset({Kind.AGENT, Kind.RUN})
_VIEWER: Who = frozenset({Kind.LOCAL, Role.VIEWER, Role.OPERATOR, Role.OWNER})
_OPERATOR: Who = frozenset({Kind.LOCAL, Role.OPERATOR, Role.OWNER})
_OWNER: Who = frozenset({Kind.LOCAL, Role.OWNER})

TABLE: dict[Permission, Who] = {
    Permission.COMPANY_LIST: _VIEWER,
    Permission.COMPANY_CREATE: _OWNER,
    Permission.OPERATOR_MANAGE: _OWNER,
    Permission.INSTANCE_AUDIT: _OWNER,
    Permission.INSTANCE_SEAL: _OWNER,
    Permission.KEY_READ: _OWNER,
    Permission.KEY_ROTATE: _OWNER,
    Permission.KEY_PRUNE: _OWNER,
    Permission.BACKUP_READ: _OWNER,
    Permission.BACKUP_MAKE: _OWNER,
    # Every company's rows are in it.
    Permission.BACKUP_DOWNLOAD: _OWNER,
    Permission.BACKUP_FORGET: _OWNER,
    # Of the instance: a process that runs as we do can read the master key, which opens what every company has.
    Permission.AGENT_UNSANDBOX: _OWNER,
    Permission.COMPANY_READ: _VIEWER | _AGENT,
    Permission.MEMBER_MANAGE: _OWNER,
    Permission.AGENT_READ: _VIEWER,
    Permission.AGENT_MANAGE: _OPERATOR,
    Permission.AGENT_TOKEN: _OPERATOR,
    Permission.AGENT_ADAPTER: _OPERATOR,
    Permission.INTEGRATION_READ: _VIEWER | _AGENT,
    Permission.INTEGRATION_CONNECT: _OPERATOR,
    Permission.INTEGRATION_ALLOW: _OPERATOR,
    Permission.INTEGRATION_ROTATE: _OPERATOR,
    Permission.INTEGRATION_DELETE: _OPERATOR,
    Permission.INTEGRATION_CHECK: _OPERATOR,
    # Only who works for the company uses its credentials; an operator manages them and never sends with them.
    Permission.INTEGRATION_USE: _AGENT,
    # An agent sees its own. What its request says is shown to who decides.
    Permission.APPROVAL_READ: _VIEWER | _AGENT,
    Permission.APPROVAL_DECIDE: _OPERATOR,
    Permission.PROVIDER_CONFIGURE: _OPERATOR,
    # Not an agent: what it has others do, it assigns to them as tasks.
    Permission.RUN_START: _OPERATOR,
    # Not a run: it would go on for ever, one run after another, with a token that dies with each.
    Permission.RUN_OPEN: frozenset({Kind.AGENT}),
    Permission.RUN_HOLD: _AGENT,
    Permission.RUN_READ: _VIEWER | _AGENT,
    Permission.RUN_CANCEL: _OPERATOR,
    Permission.RUN_CUT: _OPERATOR,
    Permission.SCHEDULE_READ: _VIEWER,
    Permission.SCHEDULE_MANAGE: _OPERATOR,
    Permission.TASK_READ: _VIEWER | _AGENT,
    Permission.TASK_WRITE: _OPERATOR | _AGENT,
    Permission.MEMORY: _AGENT,
    # What an agent has been taught steers what it does. Each look is on record.
    Permission.MEMORY_READ: _OPERATOR,
    Permission.LIMITS_READ: _VIEWER,
    Permission.LIMITS_MANAGE: _OPERATOR,
    Permission.COSTS_READ: _VIEWER,
    # The address of a webhook may hold a token of its receiver.
    Permission.WEBHOOK_READ: _OPERATOR,
    Permission.WEBHOOK_MANAGE: _OPERATOR,
    Permission.AUDIT_READ: _VIEWER,
}

# Asked of a person with their password, again, within the last minutes: these widen what somebody may do.
DANGEROUS = frozenset(
    {
        Permission.INTEGRATION_CONNECT,
        Permission.INTEGRATION_ALLOW,
        Permission.INTEGRATION_ROTATE,
        Permission.INTEGRATION_DELETE,
        Permission.APPROVAL_DECIDE,
        # A higher budget lets agents spend more.
        Permission.LIMITS_MANAGE,
        # Who registers an address has a company's events sent there.
        Permission.WEBHOOK_MANAGE,
        Permission.PROVIDER_CONFIGURE,
        Permission.AGENT_TOKEN,
        # It says what is run on this machine, or where a company's work is handed to. Leaving the sandbox needs this too.
        Permission.AGENT_ADAPTER,
        Permission.OPERATOR_MANAGE,
        Permission.MEMBER_MANAGE,
        Permission.KEY_ROTATE,
        Permission.KEY_PRUNE,
        # It leaves with everything but the key.
        Permission.BACKUP_DOWNLOAD,
        Permission.BACKUP_FORGET,
    }
)


def allowed(permission: Permission, kind: Kind, role: Role | None) -> bool:
    """Whether the table says yes: an operator by their role, everybody else by their kind."""
    who: Kind | Role | None = role if kind is Kind.OPERATOR else kind
    return who in TABLE.get(permission, frozenset())
