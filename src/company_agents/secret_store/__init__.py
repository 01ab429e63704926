"""
The secrets of companies: put, use, list, delete.
"""
