"""The nouns that the origin, the engine and the store share: a dataset's URI, its objects, their checksums."""
