"""
Tasks, comments and memory. Plain text, as the guide says.
"""
