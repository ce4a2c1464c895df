package limit

import (
	"net/netip"
	"strings"
	"testing"
)

// proxies are those of the tests.
var proxies = []string{"10.0.0.0/8", "2001:db8:ff::/48", "192.0.2.7", "::ffff:192.168.0.0/112"}

func newCallers(tb testing.TB, proxies []string, ipv6Prefix int) Callers {
	tb.Helper()
	c, err := NewCallers(proxies, ipv6Prefix)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestForwardedAddressIsReadFromTrustedProxiesOnly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, peer string
		forwarded  []string
		want       string
	}{
		{"no proxy", "203.0.113.5", nil, "203.0.113.5"},
		{"a forged header, the caller is not a proxy", "203.0.113.5", []string{"198.51.100.1"}, "203.0.113.5"},
		{"next to a proxy's address", "192.0.2.8", []string{"198.51.100.1"}, "192.0.2.8"},
		{"a proxy", "10.1.2.3", []string{"203.0.113.5"}, "203.0.113.5"},
		{"a proxy without a header", "10.1.2.3", nil, "10.1.2.3"},
		{"a proxy trusted by address", "192.0.2.7", []string{"203.0.113.5"}, "203.0.113.5"},
		{"a proxy trusted by an IPv4-mapped network", "192.168.1.1", []string{"203.0.113.5"}, "203.0.113.5"},
		{"a forged address before the proxy's entry", "10.1.2.3", []string{"198.51.100.1, 203.0.113.5"}, "203.0.113.5"},
		{"a forged line", "10.1.2.3", []string{"198.51.100.1", "203.0.113.5"}, "203.0.113.5"},
		{"a forged proxy", "10.1.2.3", []string{"198.51.100.1, 10.9.9.9, 203.0.113.5"}, "203.0.113.5"},
		{"two proxies", "10.1.2.3", []string{"203.0.113.5, 10.4.5.6"}, "203.0.113.5"},
		{"two proxies, a line each", "10.1.2.3", []string{"203.0.113.5", "10.4.5.6"}, "203.0.113.5"},
		{"three proxies, lines of one and of two", "10.1.2.3", []string{"198.51.100.1,203.0.113.5", "192.0.2.7 ,2001:db8:ff::1"}, "203.0.113.5"},
		{"a proxy outside the network of trusted ones", "10.1.2.3", []string{"203.0.113.5, 198.51.100.7, 10.4.5.6"}, "198.51.100.7"},
		{"only proxies", "10.1.2.3", []string{"10.4.5.6"}, "10.4.5.6"},
		{"spaces", "10.1.2.3", []string{"\t203.0.113.5 ,  10.4.5.6\t"}, "203.0.113.5"},
		{"unknown behind a proxy", "10.1.2.3", []string{"unknown"}, "10.1.2.3"},
		{"unknown behind the second proxy", "10.1.2.3", []string{"203.0.113.5, unknown, 10.4.5.6"}, "10.4.5.6"},
		{"a name behind a proxy", "10.1.2.3", []string{"203.0.113.5, phone.example"}, "10.1.2.3"},
		{"garbage before an address", "10.1.2.3", []string{"<script>, 203.0.113.5"}, "203.0.113.5"},
		{"empty", "10.1.2.3", []string{""}, "10.1.2.3"},
		{"an empty entry", "10.1.2.3", []string{"203.0.113.5,"}, "10.1.2.3"},
		{"an address with a port", "10.1.2.3", []string{"203.0.113.5:99"}, "203.0.113.5"},
		{"ports everywhere, and a forged address", "10.1.2.3", []string{"198.51.100.1:1, 203.0.113.5:99", "10.4.5.6:80"}, "203.0.113.5"},
		{"an invalid port", "10.1.2.3", []string{"203.0.113.5:99999"}, "10.1.2.3"},
		{"IPv6", "2001:db8::5", nil, "2001:db8::5"},
		{"IPv6 behind a proxy", "2001:db8:ff::1", []string{"2001:DB8:0::5"}, "2001:db8::5"},
		{"IPv6 with a port", "10.1.2.3", []string{"[2001:db8::5]:99"}, "2001:db8::5"},
		{"IPv6 in brackets", "10.1.2.3", []string{"[2001:db8::5], [2001:db8:ff::1]"}, "2001:db8::5"},
		{"half a bracket", "10.1.2.3", []string{"[2001:db8::5"}, "10.1.2.3"},
		{"IPv4-mapped IPv6", "::ffff:203.0.113.5", nil, "203.0.113.5"},
		{"an IPv4-mapped proxy", "::ffff:10.1.2.3", []string{"::ffff:203.0.113.5"}, "203.0.113.5"},
		{"a zone", "fe80::1%eth0", nil, "fe80::1"},
		{"a proxy with a zone", "2001:db8:ff::1%eth0", []string{"203.0.113.5"}, "203.0.113.5"},
	} {
		if got := newCallers(t, proxies, 0).Address(netip.MustParseAddr(test.peer), test.forwarded).String(); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// FuzzForwarded checks that nothing that a caller writes changes who the caller is.
func FuzzForwarded(f *testing.F) {
	for _, written := range []string{"", "10.1.1.1", "203.0.113.9, 10.1.1.1", "unknown", "[::1]:99,", "2001:db8:ff::1%eth0", "[", ",,,"} {
		f.Add(written)
	}
	f.Fuzz(func(t *testing.T, written string) {
		c := newCallers(t, proxies, 0)
		caller, proxy := netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("10.1.2.3")
		for _, forwarded := range [][]string{
			{written, "203.0.113.5"}, {written + ",203.0.113.5"}, {written, written + ", 203.0.113.5:1 ,[2001:db8:ff::1]", "10.4.5.6"},
		} {
			if got := c.Address(proxy, forwarded); got != caller {
				t.Errorf("%q: got %s, want %s", forwarded, got, caller)
			}
		}
		if got := c.Address(caller, []string{written}); got != caller {
			t.Errorf("%q without a proxy: got %s, want %s", written, got, caller)
		}
		got := c.Address(proxy, []string{written})
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Errorf("%q: got %#v", written, got)
		}
		if got != proxy && !strings.ContainsAny(written, ".:") {
			t.Errorf("%q has no address, but the caller is %s", written, got)
		}
	})
}

// An IPv6 caller can use every address of its network.
func TestIPv6NetworkIsOneCaller(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		ipv6Prefix int
		a, b       string
		same       bool
	}{
		{0, "2001:db8:0:12ab::1", "2001:db8:0:12cd:ffff::2", true},
		{0, "2001:db8:0:1200::1", "2001:db8:0:1300::1", false},
		{64, "2001:db8:0:12ab::1", "2001:db8:0:12ac::1", false},
		{64, "2001:db8:0:12ab::1", "2001:db8:0:12ab:ffff::1", true},
		{48, "2001:db8:0:1200::1", "2001:db8:0:1300::1", true},
		{48, "2001:db8:1::1", "2001:db8:2::1", false},
		{0, "192.0.2.1", "192.0.2.2", false},
		{0, "192.0.2.1", "::ffff:192.0.2.1", true},
		{0, "fe80::1%eth0", "fe80::2%eth1", true},
	} {
		c := newCallers(t, nil, test.ipv6Prefix)
		if a, b := c.Network(netip.MustParseAddr(test.a)), c.Network(netip.MustParseAddr(test.b)); (a == b) != test.same {
			t.Errorf("/%d: %s is %s, %s is %s; the same caller: want %v", test.ipv6Prefix, test.a, a, test.b, b, test.same)
		}
	}
}

func TestNobodyTrustsEveryAddress(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"0.0.0.0/0", "::/0", "::ffff:0:0/96"} {
		if _, err := NewCallers([]string{text}, 0); err == nil || !strings.Contains(err.Error(), "trusts every address") {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "proxy", "10.0.0.0/33", "10.0.0.0/", "10.1.2.3:80"} {
		if _, err := NewCallers([]string{text}, 0); err == nil || !strings.Contains(err.Error(), "neither an IP address nor a network") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
