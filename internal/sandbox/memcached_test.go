package sandbox_test

import (
	"net"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestMemcachedServesAndLeavesNothingBehind(t *testing.T) {
	tier.OnlyTestAll(t, "memcached")
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	m, err := sandbox.StartMemcached(t.Context(), sandbox.MemcachedConfig{Megabytes: 8})
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, m.Addr, "set a 0 0 1\r\nb", 1); got != "STORED" {
		t.Errorf("set: %q", got)
	}
	if got := ask(t, m.Addr, "get a", 2); got != "b" {
		t.Errorf("get: %q", got)
	}
	if got := ask(t, m.Addr, "stats settings", 1); !strings.HasPrefix(got, "STAT maxbytes 8388608") {
		t.Errorf("settings start with %q", got)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", m.Addr); err == nil {
		conn.Close()
		t.Error("a server answers after Close")
	}
	wantEmpty(t, temp)
}
