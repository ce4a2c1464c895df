// Package telemetry is what an operator sees of a replica beside its answers:
// the metrics that no other package counts for itself, traces, and the ids in
// its log. All of it may fail or be off without a buyer noticing.
package telemetry
