from eventcore.types import Buffer

__all__ = [
    "DURABLE",
    "GENERATION",
    "HIGH_WATERMARK",
    "LAST_STABLE",
    "LOG_END",
    "LOG_START",
    "SIGNAL",
    "STATE_SIZE",
    "TRUNCATED_TO",
    "TRUNCATIONS",
    "WAITERS",
    "load",
    "publish",
    "signal",
    "store",
    "wait",
    "wake",
]

STATE_SIZE: int
LOG_START: int
LAST_STABLE: int
HIGH_WATERMARK: int
LOG_END: int
DURABLE: int
GENERATION: int
SIGNAL: int
TRUNCATED_TO: int
TRUNCATIONS: int
WAITERS: int

def load(state: Buffer, at: int) -> int: ...
def store(state: Buffer, at: int, value: int) -> None: ...
def publish(state: Buffer, last_stable: int, high_watermark: int, log_end: int, durable: int) -> None: ...
def wake(state: Buffer) -> None: ...
def signal(state: Buffer) -> int: ...
def wait(state: Buffer, seen: int, timeout_ns: int) -> bool: ...
