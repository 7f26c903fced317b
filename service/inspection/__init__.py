"""Looking at messages: lists of those that satisfy a filter, one in all its parts, and changes of many at once."""
