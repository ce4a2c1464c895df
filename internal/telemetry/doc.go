// Package telemetry provides traces, the ids in the log, and the metrics that belong to
// no other package. Buyers are not affected when it fails or is off.
package telemetry
