"""
A company's connections to providers.
"""
