"""The gRPC server: conversion of messages, limits, statuses. The only importer of grpc on this side."""
