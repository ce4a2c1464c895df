package main

import (
	"fmt"

	"flashsale/internal/strategy"
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
