// Package wire is the messages on the links between replicas, generated from
// wire.proto.
package wire

//go:generate ../../../scripts/protoc internal/forward/wire/wire.proto
