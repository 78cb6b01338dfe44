"""What lasts: agents, sessions, runs and tokens in SQLite or PostgreSQL, through one code.

``Storage`` is the whole room; ``main`` opens it and hands its parts out as the ports of ``domain``.
"""

from agentsvc.storage.changes import Topic
from agentsvc.storage.database import StorageConfig
from agentsvc.storage.schema import migrate
from agentsvc.storage.storage import Storage
from agentsvc.storage.tokens import NewToken

__all__ = ["NewToken", "Storage", "StorageConfig", "Topic", "migrate"]
