"""
No secret is found anywhere: known values go into every secret field, the whole product is used, and then everything
that can be read is searched for them.
"""

from __future__ import annotations
