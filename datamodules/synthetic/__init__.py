"""The embedded corpus: drawn and written from a seed, with the truth of every row; see ``synthesize --help``."""
