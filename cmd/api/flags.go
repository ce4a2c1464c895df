package main

import (
	"fmt"
	"log/slog"
	"os"

	"flashsale/internal/strategy"
	"flashsale/internal/telemetry"
)

// strategyFlags say how stock is guarded.
type strategyFlags struct {
	Strategy string         `default:"${strategy}" help:"How stock is guarded: ${strategies}. See api strategies."`
	Fence    strategy.Fence `default:"claim" help:"How MySQL checks fencing tokens: off, write (compared on each write) or claim (also stored before the stock is read)."`
}

// parse returns the strategy and the fence in effect.
func (f *strategyFlags) parse() (strategy.Strategy, strategy.Fence, error) {
	s, err := strategy.Find(f.Strategy)
	if err != nil {
		return s, "", fmt.Errorf("--strategy: %w", err)
	}
	fence, err := strategy.ParseFence(string(f.Fence))
	if err != nil {
		return s, "", fmt.Errorf("--fence: %w", err)
	}
	return s, s.FenceFor(fence), nil
}

// logFlags say what is logged.
type logFlags struct {
	Level slog.Level `name:"log-level" default:"info" help:"Lowest level that is logged: debug, info, warn or error. api config can change it at run time."`
}

func (f *logFlags) logger(replica string, level slog.Leveler, s streams) *slog.Logger {
	return slog.New(telemetry.Logged(slog.NewJSONHandler(s.err, &slog.HandlerOptions{Level: level}))).With("replica", replica)
}

// defaultReplica distinguishes the replicas of one host.
func defaultReplica() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}
