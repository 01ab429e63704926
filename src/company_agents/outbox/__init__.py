"""
What goes out as the audit chains grow: events to a company's webhooks, and whole chains to an operator's sinks.
"""
