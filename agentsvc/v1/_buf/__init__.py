"""The descriptors of buf/validate: the installed package's if there is one, else our copy."""

try:
    from buf.validate import validate_pb2
except ImportError:
    from agentsvc.v1._buf import validate_pb2

__all__ = ["validate_pb2"]
