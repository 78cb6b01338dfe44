"""The doors: the contract on the wire, in front of the engine. The only room that knows protobuf and gRPC."""
