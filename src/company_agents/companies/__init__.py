"""
Companies, and the scope in which their rows are reached.
"""
