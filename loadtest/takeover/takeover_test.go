package takeover

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

func TestGapAndWaitCountFromTheFaultToTheLastAnswer(t *testing.T) {
	const ms = time.Millisecond
	sold := func(sent, done time.Duration) attack.Answer {
		return attack.Answer{Outcome: attack.Accepted, Sent: sent, Done: done}
	}
	refused := func(sent, done time.Duration) attack.Answer {
		return attack.Answer{Outcome: attack.Refused, Sent: sent, Done: done}
	}
	const fault = 100 * ms
	for name, tt := range map[string]struct {
		answers   []attack.Answer
		gap, wait time.Duration
	}{
		"before the fault nothing counts": {[]attack.Answer{sold(0, 90*ms), sold(95*ms, 101*ms), sold(101*ms, 105*ms)}, 4 * ms, 6 * ms},
		"from the fault":                  {[]attack.Answer{sold(0, 50*ms), sold(60*ms, 180*ms), sold(180*ms, 190*ms)}, 80 * ms, 120 * ms},
		"between two sales, in any order": {[]attack.Answer{sold(0, 200*ms), sold(0, 110*ms)}, 90 * ms, 200 * ms},
		"an error is no sale":             {[]attack.Answer{sold(100*ms, 110*ms), refused(100*ms, 150*ms), sold(110*ms, 160*ms)}, 50 * ms, 50 * ms},
		"nothing is sold any more":        {[]attack.Answer{sold(100*ms, 110*ms), refused(110*ms, 300*ms)}, 190 * ms, 190 * ms},
	} {
		if got := longestGap(tt.answers, fault); got != tt.gap {
			t.Errorf("%s: a gap of %s, want %s", name, got, tt.gap)
		}
		if got := longestWait(tt.answers, fault); got != tt.wait {
			t.Errorf("%s: a wait of %s, want %s", name, got, tt.wait)
		}
	}
}

func TestFiguresTellWrongAnswersFromSlowOnes(t *testing.T) {
	exact := func(fault string, gap, wait float64) Result {
		return Result{Fault: fault, GapMS: gap, WaitMS: wait, Verdict: strategy.Exact}
	}
	var f Figures
	for _, gap := range []float64{100, 2000, 300} {
		f.Add(exact("killed", gap, 5000))
	}
	f.Add(exact("parted", 5000, 100))
	if f.MedianMS["killed"] != 300 || f.MaxMS["killed"] != 2000 || f.MaxMS["parted"] != 100 || len(f.MaxMS) != 2 {
		t.Errorf("medians %v, largest %v", f.MedianMS, f.MaxMS)
	}
	if !f.OK || f.GoalMet {
		t.Errorf("slow runs: OK %v, goal met %v; want right answers, and a goal that was missed", f.OK, f.GoalMet)
	}
	for name, r := range map[string]Result{
		"a lost order":   {Fault: "killed", Verdict: strategy.Lost},
		"a wrong answer": {Fault: "killed", Verdict: strategy.Exact, Wrong: 1, Reasons: []proof.Reason{{Status: 500, Slug: "internal", Count: 1}}},
	} {
		g := Figures{}
		g.Add(exact("killed", 1, 1))
		if g.Add(r); g.OK || !g.GoalMet {
			t.Errorf("%s: OK %v, goal met %v", name, g.OK, g.GoalMet)
		}
	}
}

func TestRelayThatIsCutCarriesNothingAndTellsNobody(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() { // until echo is closed
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	relay, err := NewRelay(echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	conn, err := net.Dial("tcp", relay.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say := func(text string) {
		t.Helper()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("heard %q, %v; want %q", got, err, want)
		}
	}
	say("whole")
	hear("whole")
	relay.Cut()
	say("held back")
	// Not a wait for something: it is for nothing to come.
	if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes and %v came through a wire that is cut", n, err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	relay.Heal()
	hear("held back")
}

func TestUnknownFaultIsNamed(t *testing.T) {
	if _, err := FindFaults([]string{"killed", "bored"}); err == nil || !strings.Contains(err.Error(), `unknown fault "bored": one of killed, stopped, parted`) {
		t.Errorf("got %v", err)
	}
}
