__all__ = ["NOT_KNOWN", "End", "Entries", "Marks"]

NOT_KNOWN: int

class End:
    size: int

class Entries:
    count: int

class Marks:
    next_offset: int
    batches_end: int
    max_timestamp: int
    max_timestamp_offset: int
    first_timestamp: int
    unindexed: int
