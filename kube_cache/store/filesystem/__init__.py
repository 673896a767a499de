"""What the file system of the cache root is, and what it can do: asked once, before anything is fetched."""
