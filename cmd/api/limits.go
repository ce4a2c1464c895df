package main

import (
	"fmt"
	"net/netip"

	"flashsale/internal/limit"
)

// limitFlags say how many requests one caller may make.
type limitFlags struct {
	ByCustomer limit.Limit `name:"rate-limit-customer" default:"0" placeholder:"N/WINDOW" help:"Requests of one customer: 100/10s are 100 in 10 seconds, all at once if need be; 0, the default, is no limit. Each replica counts for itself. Beyond it: 429 with Retry-After. api config changes it later."`
	ByAddress  limit.Limit `name:"rate-limit-address" default:"0" placeholder:"N/WINDOW" help:"Requests from one IPv4 address or IPv6 network of 64 bits, likewise: behind a proxy together with --trusted-proxies."`

	// MaxConnections bounds what connections cost: some 20 KiB each.
	MaxConnections int `default:"20000" placeholder:"N" help:"Callers' connections that are open at the same time, at most (${default}), streams of events included; more of them wait."`

	TrustedProxies []string `placeholder:"CIDR" help:"Addresses or networks of proxies in front of this service: of them alone X-Forwarded-For is believed, for the limits by address. None by default."`
}

func (f *limitFlags) check() error {
	if f.MaxConnections < 1 {
		return fmt.Errorf("--max-connections is %d, must be at least 1", f.MaxConnections)
	}
	for _, text := range f.TrustedProxies {
		_, err := netip.ParseAddr(text)
		network, networkErr := netip.ParsePrefix(text)
		switch {
		case err != nil && networkErr != nil:
			return fmt.Errorf("--trusted-proxies: %q is no address and no network like 10.0.0.0/8", text)
		case networkErr == nil && network.Bits() == 0:
			return fmt.Errorf("--trusted-proxies: %s is everybody, and everybody could then say where he is", text)
		}
	}
	return nil
}

func (f *limitFlags) limits() *limit.Limits {
	limits := new(limit.Limits)
	limits.Set(limit.ByCustomer, f.ByCustomer)
	limits.Set(limit.ByAddress, f.ByAddress)
	return limits
}
