"""
Company Agents: an orchestrator for companies of AI agents that work without ever holding a credential.
"""

__version__ = "0.1.0"
