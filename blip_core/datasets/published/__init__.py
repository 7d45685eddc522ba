"""Forms in which data sets are published: each module recognises some, and makes entries of our own form of them."""
