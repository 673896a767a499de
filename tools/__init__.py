"""Development tools: pinned real servers and the stack that starts them. Nothing here ships with the product."""
