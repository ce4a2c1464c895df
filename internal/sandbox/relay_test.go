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
	const patience = time.Minute // for what must happen
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	got := make(chan byte, 200)
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
	_ = conn.SetDeadline(time.Now().Add(patience))
	send := func(letter byte) {
		t.Helper()
		if _, err := conn.Write([]byte{letter}); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() (letter byte, open bool) {
		t.Helper()
		select {
		case letter, open = <-got:
		case <-time.After(patience):
			t.Fatalf("the server received nothing within %s", patience)
		}
		return letter, open
	}
	arrives := func(letter byte) {
		t.Helper()
		if g, _ := receive(); g != letter {
			t.Fatalf("the server received %q, want %q", g, letter)
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
		_ = conn.SetReadDeadline(time.Now().Add(patience))
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

	// So many letters that their delays, added up, are far more than a busy machine takes.
	const delay, letters = 100 * time.Millisecond, 60
	relay.there.slow(delay)
	began := time.Now()
	for range letters {
		send('d')
		time.Sleep(time.Millisecond) // else one read of the relay returns them all
	}
	for range letters {
		answered('d')
	}
	if took := time.Since(began); took < delay || took > letters/2*delay {
		t.Errorf("%d letters took %s, want little more than %s: delays must not add up", letters, took, delay)
	}
	for range letters {
		arrives('d')
	}
	send('e')
	answered('e')

	relay.there.sever()
	conn.Close()
	arrives('e')
	select {
	case <-got:
		t.Error("the end of a connection got through a way that is cut")
	case <-time.After(100 * time.Millisecond):
	}
	relay.there.heal()
	if _, open := receive(); open {
		t.Error("the end of the connection did not arrive")
	}
}
