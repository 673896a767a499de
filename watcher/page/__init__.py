"""The operator's page: what warms, which node holds what, and the last releases. Read-only, and off by default."""
