package sandboxtest

import (
	"testing"

	"flashsale/internal/sandbox"
)

// ReservePort reserves a port until the test ends and returns its address.
func ReservePort(tb testing.TB) string {
	tb.Helper()
	port, err := sandbox.ReservePort()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := port.Close(); err != nil {
			tb.Error(err)
		}
	})
	return port.Addr
}
