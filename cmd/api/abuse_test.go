package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/sandbox"
)

// patience is much longer than the service's limits of 5 and 10 seconds, and much
// shorter than its waits without them.
const patience = 40 * time.Second

// wire is a connection for requests that no client library sends.
type wire struct {
	t *testing.T
	net.Conn
}

func dial(t *testing.T, r *sandbox.Replica) wire {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return wire{t, conn}
}

func (w wire) send(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatal(err)
	}
}

// answer reads an answer and checks that the connection ends after it.
func (w wire) answer() (status int, body string) {
	w.t.Helper()
	in := bufio.NewReader(w)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		w.t.Fatalf("no answer: %v", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	// An answer without a length ends with the connection. If part of the request is
	// unread, closing resets the connection (RFC 9112, 9.6), although net/http waits
	// half a second before.
	if err != nil && (response.ContentLength >= 0 || !errors.Is(err, syscall.ECONNRESET)) {
		w.t.Fatal(err)
	}
	if _, err := in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("the connection did not end behind the answer: %v", err)
	}
	return response.StatusCode, string(text)
}

// A slow client cannot hold a connection, and a large request cannot fill the memory.
func TestSlowAndHugeRequestsAreCutOff(t *testing.T) {
	t.Parallel()
	r := start(t, replicaConfig(newDSN(t), "a", "conditional")).Replica
	order := "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\nAuthorization: Bearer " +
		customerToken(t, "ann") + "\r\n"
	for _, test := range []struct {
		name   string
		do     func(w wire)
		status int // 0: the connection ends without an answer
		slug   string
	}{
		{"nothing is sent", func(wire) {}, 0, ""},
		{"half of the headers", func(w wire) { w.send("GET /healthz HTTP/1.1\r\nHost: x\r\n") }, 0, ""},
		{"one header after the other", func(w wire) {
			w.send("GET /healthz HTTP/1.1\r\nHost: x\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(w, "X-%d: y\r\n", i); err != nil {
					return // it was cut off
				}
				time.Sleep(200 * time.Millisecond)
			}
		}, 0, ""},
		{"half of the body", func(w wire) { w.send(order + "Content-Length: 100\r\n\r\n{") }, http.StatusRequestTimeout, "request-timeout"},
		{"headers of 20 KiB", func(w wire) {
			w.send("GET /v1/skus HTTP/1.1\r\nHost: x\r\nCookie: " + strings.Repeat("c", 18<<10) + "\r\n\r\n")
		}, http.StatusRequestHeaderFieldsTooLarge, "headers-too-large"},
		{"headers of 1 MiB", func(w wire) {
			// The answer and the end of the connection may come before all is sent.
			_, _ = io.WriteString(w, "GET /v1/skus HTTP/1.1\r\nHost: x\r\nCookie: "+strings.Repeat("c", 1<<20)+"\r\n\r\n")
		}, http.StatusRequestHeaderFieldsTooLarge, ""},
		{"a body of 1 MiB", func(w wire) {
			_, _ = io.WriteString(w, order+fmt.Sprintf("Content-Length: %d\r\n\r\n", 1<<20)+strings.Repeat(" ", 100<<10))
		}, http.StatusRequestEntityTooLarge, "body-too-large"},
		{"a body without an end", func(w wire) {
			_, _ = io.WriteString(w, order+"Transfer-Encoding: chunked\r\n\r\n")
			for range 20 {
				if _, err := io.WriteString(w, "2000\r\n"+strings.Repeat(" ", 0x2000)+"\r\n"); err != nil {
					return
				}
			}
		}, http.StatusRequestEntityTooLarge, "body-too-large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := dial(t, r)
			w.t = t
			test.do(w)
			if test.status == 0 {
				rest, err := io.ReadAll(w)
				if len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %q, %v; want the connection to end", rest, err)
				}
				return
			}
			status, body := w.answer()
			if status != test.status || test.slug != "" && !strings.Contains(body, "/errors/"+test.slug) {
				t.Errorf("got %d %s, want %d %s", status, body, test.status, test.slug)
			}
		})
	}
}

// Connections beyond the limit wait, and are served once others have ended or were
// closed for being idle or slow.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	cfg := replicaConfig(newDSN(t), "a", "conditional")
	cfg.Args = append(cfg.Args, "--max-connections=2")
	r := start(t, cfg).Replica
	get := func(w wire) { w.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") }
	served := func(w wire, within time.Duration) error {
		if err := w.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, err := w.Read(make([]byte, 1))
		return err
	}
	first, second, third := dial(t, r), dial(t, r), dial(t, r)
	for _, w := range []wire{first, second} {
		get(w)
		if err := served(w, patience); err != nil {
			t.Fatal(err)
		}
	}
	get(third)
	if err := served(third, time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third connection was served: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := served(third, patience); err != nil {
		t.Errorf("the third connection, after the first had ended: %v", err)
	}

	// An event stream takes its connection away from the HTTP server, and keeps its slot until its client leaves.
	second.send("GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := second.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewReader(second); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "retry: ") {
			break
		}
	}
	fourth := dial(t, r)
	get(fourth)
	if err := served(fourth, time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection beside a stream and another one was served: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := served(fourth, patience); err != nil {
		t.Errorf("the fourth connection, after the stream had ended: %v", err)
	}
	if err := errors.Join(third.Close(), fourth.Close()); err != nil { // the replica's own drain
		t.Error(err)
	}
}
