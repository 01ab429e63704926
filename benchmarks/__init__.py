"""
How fast it is, as ratios to a baseline that is measured in the same run.
"""
