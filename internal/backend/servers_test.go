package backend

import (
	"strings"
	"testing"

	"flashsale/internal/strategy"
)

// Addresses and errors of flags are logged.
func TestAddressesAndErrorsContainNoPasswords(t *testing.T) {
	const secret = "hidden"
	for _, tt := range []struct {
		strategy string
		servers  Servers
		wrong    bool
	}{
		{"redis", Servers{RedisAddrs: []string{"redis://:hidden@127.0.0.1:6379"}}, false},
		{"redis", Servers{RedisAddrs: []string{"redis://:hidden@127.0.0.1:6379x"}}, true},
		{"redlock", Servers{RedisAddrs: []string{"redis://:hidden@a:1", "redis://:hidden@b:1x", "c:1"}}, true},
		{"etcd", Servers{EtcdEndpoints: []string{"http://u:hidden@127.0.0.1:1"}}, false},
		{"etcd", Servers{EtcdEndpoints: []string{"http://u:hidden@127.0.0.1:1x"}}, true},
	} {
		s, err := strategy.Find(tt.strategy)
		if err != nil {
			t.Fatal(err)
		}
		err = Check(s, &tt.servers)
		if (err != nil) != tt.wrong {
			t.Errorf("%+v: got %v, want an error: %v", tt.servers, err, tt.wrong)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error contains the password: %v", err)
		}
		if shown := Address(s, &tt.servers); strings.Contains(shown, secret) || shown == "" {
			t.Errorf("Address returned %q", shown)
		}
	}
}
