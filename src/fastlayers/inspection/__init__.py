"""Images that are there: what they say of themselves, and whether it is true."""
