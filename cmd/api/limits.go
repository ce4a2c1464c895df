package main

import (
	"fmt"

	"flashsale/internal/limit"
)

// limitFlags bound the requests and connections of callers.
type limitFlags struct {
	ByCustomer limit.Limit `name:"rate-limit-customer" default:"0" placeholder:"N/WINDOW" help:"Maximum requests of a customer: 100/10s allows 100 in 10 seconds, even all at once. 0, the default, is no limit. Each replica counts separately. More requests get 429 with Retry-After. api config can change it at run time."`
	ByAddress  limit.Limit `name:"rate-limit-address" default:"0" placeholder:"N/WINDOW" help:"Maximum requests from an IPv4 address or an IPv6 network of --ipv6-prefix, as for --rate-limit-customer. Behind a proxy, set --trusted-proxies, too."`
	// AdminGuesses cannot be changed at run time: a user of etcd could lock out all
	// administrators with it.
	AdminGuesses limit.Limit `name:"rate-limit-admin-guesses" default:"10/1m" placeholder:"N/WINDOW" help:"Maximum refused admin tokens of an IPv4 address or an IPv6 network of --ipv6-prefix; after them, calls of /v1/admin from there get 429, also with the right token. 0 is no limit. Default: ${default}. Behind a proxy, set --trusted-proxies, too: otherwise anyone can lock out all administrators who use the proxy."`

	Cancellations limit.Limit `name:"rate-limit-cancellations" default:"20/1m" placeholder:"N/WINDOW" help:"Maximum cancellations of a customer, repeated ones included, as for --rate-limit-customer. 0 is no limit. Default: ${default}."`
	LatePayments  limit.Limit `name:"rate-limit-late-payments" default:"20/1m" placeholder:"N/WINDOW" help:"Maximum payments of a customer that are stored for a refund, as for --rate-limit-customer. 0 is no limit. Default: ${default}. Payments that --payments service confirms have no limit."`

	// MaxConnections bounds memory: a connection costs about 20 KiB.
	MaxConnections        int `default:"20000" placeholder:"N" help:"Maximum number of open client connections, event streams included; further ones wait. Default: ${default}, or less if this process may not open as many files."`
	MaxConnectionsAddress int `default:"0" placeholder:"N" help:"Maximum number of open connections from an IPv4 address or an IPv6 network of --ipv6-prefix, except --trusted-proxies; further ones are closed at once. 0, the default, is a quarter of --max-connections, and at least 10."`

	IPv6Prefix int `name:"ipv6-prefix" default:"${ipv6_prefix}" placeholder:"BITS" help:"Length of the IPv6 network that counts as one address in all limits by address, from 48 to 64 (${default}). Households often have a /56, companies a /48; a mobile phone may have a /64 of its own."`

	TrustedProxies []string `placeholder:"CIDR" help:"Addresses or networks of the proxies in front of this service. X-Forwarded-For is used only if it comes from one of them, and is read from right to left up to the first address that is not one of them. None by default."`
}

func (f *limitFlags) check() error {
	if f.MaxConnections < 1 {
		return fmt.Errorf("--max-connections is %d, must be at least 1", f.MaxConnections)
	}
	if f.MaxConnectionsAddress < 0 {
		return fmt.Errorf("--max-connections-address is %d, must be at least 1, or 0 for a quarter of --max-connections", f.MaxConnectionsAddress)
	}
	if f.IPv6Prefix < 48 || f.IPv6Prefix > 64 {
		return fmt.Errorf("--ipv6-prefix is %d, must be from 48 to 64", f.IPv6Prefix)
	}
	_, err := f.callers()
	return err
}

func (f *limitFlags) callers() (limit.Callers, error) {
	callers, err := limit.NewCallers(f.TrustedProxies, f.IPv6Prefix)
	if err != nil {
		return callers, fmt.Errorf("--trusted-proxies: %w", err)
	}
	return callers, nil
}

func (f *limitFlags) limits() *limit.Limits {
	limits := new(limit.Limits)
	limits.Set(limit.ByCustomer, f.ByCustomer)
	limits.Set(limit.ByAddress, f.ByAddress)
	limits.Set(limit.AdminGuesses, f.AdminGuesses)
	limits.Set(limit.Cancellations, f.Cancellations)
	limits.Set(limit.LatePayments, f.LatePayments)
	return limits
}
