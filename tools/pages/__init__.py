"""Parts of the documentation that the code says: `python -m tools.pages` writes them, and a test compares.

A page is written by people, but for what stands between two marks. No page says by hand what a declaration says.
"""
