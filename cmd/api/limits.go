package main

import (
	"fmt"
	"net/netip"

	"flashsale/internal/limit"
)

// limitFlags bound the requests and connections of callers.
type limitFlags struct {
	ByCustomer limit.Limit `name:"rate-limit-customer" default:"0" placeholder:"N/WINDOW" help:"Maximum requests of a customer: 100/10s allows 100 in 10 seconds, also all at once. 0, the default, is no limit. Each replica counts separately. More requests get 429 with Retry-After. api config can change it at run time."`
	ByAddress  limit.Limit `name:"rate-limit-address" default:"0" placeholder:"N/WINDOW" help:"Maximum requests from an IPv4 address or a /64 IPv6 network, as for --rate-limit-customer. Behind a proxy, set --trusted-proxies, too."`

	// MaxConnections bounds memory: a connection costs about 20 KiB.
	MaxConnections int `default:"20000" placeholder:"N" help:"Maximum number of open client connections, event streams included; further ones wait. Default: ${default}."`

	TrustedProxies []string `placeholder:"CIDR" help:"Addresses or networks of the proxies in front of this service. X-Forwarded-For is used only if it comes from one of them. None by default."`
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
			return fmt.Errorf("--trusted-proxies: %q is neither an IP address nor a network like 10.0.0.0/8", text)
		case networkErr == nil && network.Bits() == 0:
			return fmt.Errorf("--trusted-proxies: %s trusts every address; clients could forge X-Forwarded-For", text)
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
