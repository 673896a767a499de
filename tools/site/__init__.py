"""The documentation's site: what MkDocs needs beyond mkdocs.yml (`make docs`)."""
