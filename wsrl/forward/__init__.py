"""Networks of any size are run as their operators say, in NumPy, one operator after the other."""
