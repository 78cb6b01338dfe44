"""A multi-provider, multi-tenant LLM agent service whose native tongue is gRPC streaming."""
