"""The nouns that listing, engine and store share: a dataset's URI, its objects, their checksums."""
