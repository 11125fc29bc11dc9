"""Where runs are kept: `SQLiteStore` in a file, `MemoryStore` for this process only, or your own `Store`."""

from .base import Store as Store
from .memory import MemoryStore as MemoryStore
from .sqlite import SQLiteStore as SQLiteStore
