package limit

import (
	"fmt"
	"net/netip"
	"strings"
)

// DefaultIPv6Prefix is the length of the network that counts as one caller. Providers
// assign a /56 to a household and a /48 to a company (RIPE-690, section 4.2), which
// can use each address in it. A mobile provider may assign a /64 to each phone, so up to
// 256 phones share a limit, as they do behind one IPv4 address.
const DefaultIPv6Prefix = 56

// Callers tells callers apart by their addresses. It does not change.
type Callers struct {
	proxies    []netip.Prefix
	ipv6Prefix int
}

// NewCallers returns Callers that trusts the X-Forwarded-For of proxies, which are
// addresses or networks, and counts an IPv6 network of ipv6Prefix bits as one caller. 0
// bits are DefaultIPv6Prefix.
func NewCallers(proxies []string, ipv6Prefix int) (Callers, error) {
	c := Callers{ipv6Prefix: ipv6Prefix}
	if ipv6Prefix == 0 {
		c.ipv6Prefix = DefaultIPv6Prefix
	}
	for _, text := range proxies {
		proxy, err := netip.ParsePrefix(text)
		if address, addressErr := netip.ParseAddr(text); addressErr == nil {
			proxy, err = netip.PrefixFrom(address.WithZone(""), address.BitLen()), nil
		}
		if err != nil {
			return Callers{}, fmt.Errorf("%q is neither an IP address nor a network like 10.0.0.0/8", text)
		}
		if proxy.Addr().Is4In6() && proxy.Bits() >= 96 {
			proxy = netip.PrefixFrom(proxy.Addr().Unmap(), proxy.Bits()-96)
		}
		if proxy.Bits() == 0 {
			return Callers{}, fmt.Errorf("%s trusts every address; clients could forge X-Forwarded-For", text)
		}
		c.proxies = append(c.proxies, proxy)
	}
	return c, nil
}

// Trusted reports whether an address is that of a trusted proxy.
func (c Callers) Trusted(address netip.Addr) bool {
	for _, proxy := range c.proxies {
		if proxy.Contains(plain(address)) {
			return true
		}
	}
	return false
}

// Network returns the network that an address is counted by.
func (c Callers) Network(address netip.Addr) netip.Prefix {
	address = plain(address)
	bits := address.BitLen()
	if address.Is6() {
		bits = c.ipv6Prefix
	}
	network, _ := address.Prefix(bits) // fails only for too many bits
	return network
}

// Address returns the address of the caller whose request came from peer with these
// lines of X-Forwarded-For. Each proxy of a chain appends the address that it sees, so the
// lines are read from the right: the first address that is not a trusted proxy is the
// caller. What is to the left of it was written by the caller. If a proxy wrote
// something else, like "unknown", the caller counts as that proxy.
func (c Callers) Address(peer netip.Addr, forwarded []string) netip.Addr {
	address := plain(peer)
	for i := len(forwarded) - 1; i >= 0; i-- {
		for rest, more := forwarded[i], true; more; {
			if !c.Trusted(address) {
				return address
			}
			entry := rest
			at := strings.LastIndexByte(rest, ',')
			if more = at >= 0; more {
				rest, entry = rest[:at], rest[at+1:]
			}
			next, err := parseEntry(strings.TrimSpace(entry))
			if err != nil {
				return address
			}
			address = plain(next)
		}
	}
	return address
}

// parseEntry parses an entry of X-Forwarded-For. Some proxies add the port, or write IPv6
// addresses in brackets.
func parseEntry(text string) (netip.Addr, error) {
	if end, err := netip.ParseAddrPort(text); err == nil {
		return end.Addr(), nil
	}
	if inside, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inside, "]") {
		text = strings.TrimSuffix(inside, "]")
	}
	return netip.ParseAddr(text)
}

// plain returns an address without the forms that would make it a second caller.
func plain(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }
