package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/lab"
)

// TestInterruptedLabLeavesNothing interrupts the lab in the middle of a run that a page
// follows.
func TestInterruptedLabLeavesNothing(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, []string{"lab", "--addr=127.0.0.1:0", "--api=" + sandboxtest.Build(t, "api")}, out, io.Discard)
		_ = out.Close()
		ended <- err
	}()
	first, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, said) }() // ends with the lab
	_, address, _ := strings.Cut(strings.TrimSpace(first), ": ")
	started, err := http.Post(address+"/api/runs", "application/json", strings.NewReader(`{"strategy":"etcd","units":1000,"buyers":6000}`))
	if err != nil || started.StatusCode != http.StatusCreated {
		t.Fatalf("%v, %v", started, err)
	}
	var activity lab.About
	err = json.NewDecoder(started.Body).Decode(&activity)
	_ = started.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	events, err := http.Get(address + "/api/activities/" + activity.ID + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()
	states := 0
	for lines := bufio.NewScanner(events.Body); states < 10 && lines.Scan(); {
		if lines.Text() == "event: state" {
			states++
		}
	}
	if states < 10 {
		t.Fatal("the run ended before its load")
	}
	interrupt()
	interrupted := time.Now()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(interrupted); took > 30*time.Second {
		t.Errorf("the lab ended %s after the interrupt", took)
	} else {
		t.Logf("ended in %s", took)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLabSaysThatItsPortIsInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = run(t.Context(), []string{"lab", "--api=/bin/true", "--addr=" + l.Addr().String()}, io.Discard, io.Discard)
	if err == nil || err.Error() != "--addr: "+l.Addr().String()+" is in use, perhaps by another lab; choose another port, or 0 for a free one" {
		t.Errorf("got %v", err)
	}
}
