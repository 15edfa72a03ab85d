"""The gRPC face: request conversion, statuses, the server. The only importer of grpc on this side."""
