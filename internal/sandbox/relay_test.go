package sandbox

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestRelayHoldsBackOneWayAndKeepsConnections sends letters to a server that answers
// each of them.
func TestRelayHoldsBackOneWayAndKeepsConnections(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	got := make(chan byte, 10)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for letter := make([]byte, 1); ; {
			if _, err := conn.Read(letter); err != nil {
				close(got)
				return
			}
			got <- letter[0]
			_, _ = conn.Write(letter) // the client may have gone
		}
	}()
	relay, err := newRelay(loopback, server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer relay.close()
	conn, err := net.Dial("tcp", relay.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(letter byte) {
		t.Helper()
		if _, err := conn.Write([]byte{letter}); err != nil {
			t.Fatal(err)
		}
	}
	arrives := func(letter byte) {
		t.Helper()
		select {
		case g := <-got:
			if g != letter {
				t.Fatalf("the server received %q, want %q", g, letter)
			}
		case <-time.After(time.Minute):
			t.Fatalf("the server did not receive %q", letter)
		}
	}
	answered := func(letter byte) {
		t.Helper()
		answer := make([]byte, 1)
		if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != letter {
			t.Fatalf("received %q, %v; want %q", answer, err, letter)
		}
	}
	silent := func() {
		t.Helper()
		// A fixed time, as there is no event to wait for: nothing must arrive.
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("received %d bytes and %v, want nothing", n, err)
		}
		_ = conn.SetReadDeadline(time.Time{})
	}
	send('a')
	arrives('a')
	answered('a')

	relay.back.sever()
	relay.back.sever()
	send('b')
	arrives('b') // only the answer is held back
	silent()
	relay.back.heal()
	answered('b')

	relay.there.sever()
	send('c')
	silent()
	if len(got) > 0 {
		t.Fatal("the server received a letter by a way that is cut")
	}
	relay.there.heal()
	relay.there.heal()
	arrives('c')
	answered('c')

	const delay = 50 * time.Millisecond
	relay.there.slow(delay)
	began := time.Now()
	send('d')
	send('e')
	answered('d')
	answered('e')
	if took := time.Since(began); took < delay || took > 20*delay {
		t.Errorf("two letters took %s, want about %s: delays must not add up", took, delay)
	}

	relay.there.sever()
	conn.Close()
	arrives('d')
	arrives('e')
	select {
	case <-got:
		t.Error("the end of a connection got through a way that is cut")
	case <-time.After(100 * time.Millisecond):
	}
	relay.there.heal()
	select {
	case letter, open := <-got:
		if open {
			t.Errorf("the server received %q, want the end of the connection", letter)
		}
	case <-time.After(time.Minute):
		t.Error("the end of the connection did not arrive")
	}
}
